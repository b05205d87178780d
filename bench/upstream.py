"""The provider for measurements. It responds to every request with the same JSON, or with a stream.

A stream has `CHUNKS` server-sent events, `GAP` seconds apart. Each contains the time it was written by
`time.monotonic`, which all processes share. So clients measure the delay, even if a gateway writes the events anew.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import cast

import uvloop

CHUNKS = 20
GAP = 0.1
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
RESPONSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_bench\r\ncontent-length: %d\r\n\r\n%b"
    % (len(_BODY), _BODY)
)
_STREAMED = re.compile(rb'"stream": ?true')
_EVENT = (
    b'data: {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1763942400, "model": "gpt-4o", '
    b'"choices": [{"index": 0, "delta": {"content": "%.6f"}, "finish_reason": null}]}\n\n'
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Provider(asyncio.Protocol):
    """A minimal HTTP/1.1 server for well-behaved gateways. Request bodies have a Content-Length or are chunked."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            total = self._length(head, end + 4)
            if total is None or len(self.buffer) < total:
                return
            body, self.buffer = self.buffer[end:total], self.buffer[total:]
            if _STREAMED.search(body):
                task = asyncio.get_running_loop().create_task(self._stream())
                task.add_done_callback(lambda _: None)
            else:
                self.transport.write(RESPONSE)

    def _length(self, head: bytes, start: int) -> int | None:
        if b"transfer-encoding: chunked" in head:
            end = self.buffer.find(b"0\r\n\r\n", start)
            return None if end < 0 else end + 5
        at = head.find(b"content-length:")
        return start + (int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0)

    async def _stream(self) -> None:
        self.transport.write(STREAM_HEAD)
        for _ in range(CHUNKS):
            if self.transport.is_closing():
                return
            event = _EVENT % time.monotonic()
            self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            await asyncio.sleep(GAP)
        self.transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
