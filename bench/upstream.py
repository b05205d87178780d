"""The provider for measurements: `python -m bench.upstream PORT`.

* A request with `"stream": true` gets server-sent events, as many and as far apart as its field `user` says. Each
  contains the time it was written by `time.monotonic`, which all processes share. So clients measure the delay, even
  if a gateway writes the events anew.
* `/v1/download/BYTES` responds with a body of that size, and `/v1/upload` with the size of the body that came.
* Everything else gets the same JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import cast

import uvloop

_MESSAGE = {"role": "assistant", "content": "0123456789" * 30}
_BODY = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1763942400,
        "model": "gpt-4o",
        "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
    }
).encode()


def response(body: bytes) -> bytes:
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_bench\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


RESPONSE = response(_BODY)
_PACE = re.compile(rb'"user": ?"(\d+) events, ([\d.]+) s"')
_EVENT = (
    b'data: {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1763942400, "model": "gpt-4o", '
    b'"choices": [{"index": 0, "delta": {"content": "%.6f"}, "finish_reason": null}]}\n\n'
)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_STREAM_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_BLOCK = bytes(256 * 1024)


def stream_body(events: int, gap: float) -> bytes:
    """The body of a request that gets this many events, `gap` seconds apart."""
    fields = {"model": "gpt-4o", "stream": True, "user": f"{events} events, {gap} s"}
    return json.dumps({**fields, "messages": [{"role": "user", "content": "hello"}]}).encode()


class Provider(asyncio.Protocol):
    """A minimal HTTP/1.1 server for well-behaved gateways. Request bodies have a Content-Length or are chunked."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.buffer = b""
        self.upload_size = 0
        self.upload_left = 0
        self.download_left = 0
        self.is_paused = False

    def data_received(self, data: bytes) -> None:
        if self.upload_left:
            self._take_upload(len(data))
            return
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            if b"/v1/upload" in head[: head.find(b"\r\n")]:
                self.upload_size = self.upload_left = _content_length(head)
                taken, self.buffer = len(self.buffer) - end - 4, b""
                self._take_upload(taken)
                return
            total = self._length(head, end + 4)
            if total is None or len(self.buffer) < total:
                return
            body, self.buffer = self.buffer[end:total], self.buffer[total:]
            self._respond(head, body)

    def _respond(self, head: bytes, body: bytes) -> None:
        if pace := _PACE.search(body):
            self.transport.write(_STREAM_HEAD)
            self._send_event(int(pace[1]), float(pace[2]), asyncio.get_running_loop().time())
        elif found := re.search(rb"/v1/download/(\d+)", head[: head.find(b"\r\n")]):
            self.download_left = int(found[1])
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % self.download_left)
            self.resume_writing()
        else:
            self.transport.write(RESPONSE)

    def _length(self, head: bytes, start: int) -> int | None:
        if b"transfer-encoding: chunked" in head:
            end = self.buffer.find(b"0\r\n\r\n", start)
            return None if end < 0 else end + 5
        return start + _content_length(head)

    # --- Streams -----------------------------------------------------------------------------------------------------

    def _send_event(self, left: int, gap: float, due: float) -> None:
        if self.transport.is_closing():
            return
        if not left:
            self.transport.write(_STREAM_END)
            return
        event = _EVENT % time.monotonic()
        self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        asyncio.get_running_loop().call_at(due + gap, self._send_event, left - 1, gap, due + gap)

    # --- Bodies ------------------------------------------------------------------------------------------------------

    def _take_upload(self, size: int) -> None:
        self.upload_left -= size
        if not self.upload_left:
            self.transport.write(response(b'{"received": %d}' % self.upload_size))

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        while self.download_left and not self.is_paused:
            block = _BLOCK[: self.download_left]
            self.download_left -= len(block)
            self.transport.write(block)


def _content_length(head: bytes) -> int:
    at = head.find(b"content-length:")
    return int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", port, backlog=8192)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
