"""The demo provider: a small OpenAI- and Anthropic-compatible API on loopback, for people who have no key at hand.

`manage.py serve` starts it as a child process, with the descriptor of a listening socket: at the first connection. It
accepts any key, except keys that contain "invalid". It ends when its standard input closes, at the latest when its
parent process is gone.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Events = Iterator[tuple[str, dict[str, Any]]]

MODEL = "strake-demo"
REPLY_TEXT = "Hello from the Strake demo provider. Your tool, the endpoint and the token work."
CHUNK_SECONDS = 0.05


class Handler(BaseHTTPRequestHandler):
    """One connection. The standard library's server, because it takes half of the memory that another would."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a head and a small body leave in one packet
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = self._read_body()
        path = self.path.partition("?")[0]
        self._anthropic = "anthropic-version" in self.headers or "x-api-key" in self.headers
        key = self.headers.get("authorization", "").removeprefix("Bearer ") or self.headers.get("x-api-key", "")
        if not key or "invalid" in key:
            self._send_error(401, "Incorrect API key provided.")
            return
        answer = _ROUTES.get((self.command, path))
        if answer is None:
            self._send_error(404, f"Unknown request URL: {self.command} {path}.")
            return
        try:
            data = json.loads(body) if body else {}
        except ValueError:
            data = None
        if not isinstance(data, dict):
            self._send_error(400, "The request body is not a JSON object.")
            return
        stream = _STREAMS.get(path) if data.get("stream") else None
        if stream is None:
            self._send_json(200, answer(data))
        else:
            self._send_stream(stream(data), named=path != "/v1/chat/completions")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: paths and addresses are not for the terminal."""

    def _read_body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send_head(self, status: int, content_type: str, *framing: str) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header(*framing)
        self.end_headers()

    def _send_json(self, status: int, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self._send_head(status, "application/json", "content-length", str(len(body)))
        self.wfile.write(body)

    def _send_error(self, status: int, text: str) -> None:
        kind = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}[status]
        error: dict[str, Any] = {"type": kind, "message": text}
        if not self._anthropic:
            error |= {"param": None, "code": None}
        self._send_json(status, {"type": "error", "error": error} if self._anthropic else {"error": error})

    def _send_stream(self, events: Events, *, named: bool) -> None:
        self._send_head(200, "text/event-stream; charset=utf-8", "transfer-encoding", "chunked")
        for name, data in events:
            head = f"event: {name}\n" if named else ""
            self._send_chunk(f"{head}data: {json.dumps(data)}\n\n".encode())
        if not named:
            self._send_chunk(b"data: [DONE]\n\n")
        self._send_chunk(b"")

    def _send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()


# --- OpenAI: https://platform.openai.com/docs/api-reference ---------------------------------------------------------


def _models(data: dict[str, Any]) -> dict[str, Any]:
    model = {"id": MODEL, "object": "model", "created": 1763942400, "owned_by": "strake"}
    # Anthropic's list has other fields. Both SDKs ignore unknown ones.
    model |= {"type": "model", "display_name": "Strake demo", "created_at": "2025-11-24T00:00:00Z"}
    return {"object": "list", "data": [model], "has_more": False, "first_id": MODEL, "last_id": MODEL}


def _usage(data: dict[str, Any]) -> dict[str, int]:
    return {"prompt_tokens": 8, "completion_tokens": 16, "total_tokens": 24}


def _chat(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-demo",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": data.get("model", MODEL),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": REPLY_TEXT, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _usage(data),
    }


def _chat_stream(data: dict[str, Any]) -> Events:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> tuple[str, dict[str, Any]]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return "", {
            "id": "chatcmpl-demo",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": data.get("model", MODEL),
            "choices": [choice],
        }

    yield chunk({"role": "assistant", "content": ""})
    for word in _reply_words():
        yield chunk({"content": word})
    yield chunk({}, "stop")


def _response(data: dict[str, Any], *, done: bool = True) -> dict[str, Any]:
    return {
        "id": "resp_demo",
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed" if done else "in_progress",
        "model": data.get("model", MODEL),
        "output": [_response_message()] if done else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "usage": {
            "input_tokens": 8,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 16,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 24,
        },
    }


def _response_message(text: str = REPLY_TEXT, *, status: str = "completed") -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}] if text else []
    return {"id": "msg_demo", "type": "message", "role": "assistant", "status": status, "content": content}


def _response_stream(data: dict[str, Any]) -> Events:
    number = 0

    def event(kind: str, **fields: Any) -> tuple[str, dict[str, Any]]:
        nonlocal number
        number += 1
        return kind, {"type": kind, "sequence_number": number - 1, **fields}

    part = {"type": "output_text", "text": "", "annotations": []}
    position = {"item_id": "msg_demo", "output_index": 0, "content_index": 0}
    yield event("response.created", response=_response(data, done=False))
    yield event("response.output_item.added", output_index=0, item=_response_message("", status="in_progress"))
    yield event("response.content_part.added", part=part, **position)
    for word in _reply_words():
        yield event("response.output_text.delta", delta=word, logprobs=[], **position)
    yield event("response.output_text.done", text=REPLY_TEXT, logprobs=[], **position)
    yield event("response.content_part.done", part=part | {"text": REPLY_TEXT}, **position)
    yield event("response.output_item.done", output_index=0, item=_response_message())
    yield event("response.completed", response=_response(data))


def _embeddings(data: dict[str, Any]) -> dict[str, Any]:
    texts = data.get("input", "")
    count = len(texts) if isinstance(texts, list) else 1
    # The official SDK requests base64 of little-endian 32-bit floats.
    vector: Any = [0.25, -0.5, 0.75, 0.0]
    if data.get("encoding_format") == "base64":
        vector = "AACAPgAAAL8AAEA/AAAAAA=="
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)],
        "model": data.get("model", MODEL),
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }


# --- Anthropic: https://docs.anthropic.com/en/api/messages -----------------------------------------------------------


def _message(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_demo",
        "type": "message",
        "role": "assistant",
        "model": data.get("model", MODEL),
        "content": [{"type": "text", "text": REPLY_TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 8, "output_tokens": 16},
    }


def _message_stream(data: dict[str, Any]) -> Events:
    start = _message(data) | {"content": [], "stop_reason": None, "usage": {"input_tokens": 8, "output_tokens": 1}}
    yield "message_start", {"type": "message_start", "message": start}
    block = {"type": "text", "text": ""}
    yield "content_block_start", {"type": "content_block_start", "index": 0, "content_block": block}
    yield "ping", {"type": "ping"}
    for word in _reply_words():
        delta = {"type": "text_delta", "text": word}
        yield "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}
    yield "content_block_stop", {"type": "content_block_stop", "index": 0}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    yield "message_delta", {"type": "message_delta", "delta": end, "usage": {"output_tokens": 16}}
    yield "message_stop", {"type": "message_stop"}


def _count_tokens(data: dict[str, Any]) -> dict[str, Any]:
    return {"input_tokens": 8}


_ROUTES: dict[tuple[str, str], Callable[[dict[str, Any]], dict[str, Any]]] = {
    ("GET", "/v1/models"): _models,
    ("POST", "/v1/chat/completions"): _chat,
    ("POST", "/v1/responses"): _response,
    ("POST", "/v1/embeddings"): _embeddings,
    ("POST", "/v1/messages"): _message,
    ("POST", "/v1/messages/count_tokens"): _count_tokens,
}
_STREAMS: dict[str, Callable[[dict[str, Any]], Events]] = {
    "/v1/chat/completions": _chat_stream,
    "/v1/responses": _response_stream,
    "/v1/messages": _message_stream,
}


def _reply_words() -> Iterator[str]:
    for index, word in enumerate(REPLY_TEXT.split(" ")):
        time.sleep(CHUNK_SECONDS)
        yield word if index == 0 else f" {word}"


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a client that leaves in the middle of a stream is no error."""


def serve(listener: socket.socket) -> None:
    """Serve until standard input closes."""
    server = Server(listener.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
