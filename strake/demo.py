"""The demo provider: a small OpenAI- and Anthropic-shaped API on loopback, for people without a key at hand.

`manage.py serve` starts it as a process of its own (`python -m strake.demo PORT`). It takes any key, except that keys
with "invalid" in them are refused, so that this can be seen too. It ends when its standard input closes, which
happens at the latest when the process that started it is gone.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Events = AsyncIterator[tuple[str, dict[str, Any]]]

MODEL = "strake-demo"
ANSWER = "Hello from the Strake demo provider. Your tool, the endpoint and the token work."
CHUNK_SECONDS = 0.05


async def application(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
    body = await _body(receive)
    path, method = scope["path"], scope["method"]
    anthropic = "anthropic-version" in headers or "x-api-key" in headers
    key = headers.get("authorization", "").removeprefix("Bearer ") or headers.get("x-api-key", "")
    if not key or "invalid" in key:
        await _error(send, 401, "Incorrect API key provided.", anthropic=anthropic)
        return
    handler = _ROUTES.get((method, path))
    if handler is None:
        await _error(send, 404, f"Unknown request URL: {method} {path}.", anthropic=anthropic)
        return
    try:
        data = json.loads(body) if body else {}
    except ValueError:
        data = None
    if not isinstance(data, dict):
        await _error(send, 400, "The request body is not a JSON object.", anthropic=anthropic)
        return
    if data.get("stream"):
        stream = _STREAMS.get(path)
        if stream is not None:
            await _stream(send, stream(data), named=path != "/v1/chat/completions")
            return
    await _json(send, 200, handler(data))


# --- OpenAI: https://platform.openai.com/docs/api-reference ---------------------------------------------------------


def _models(data: dict[str, Any]) -> dict[str, Any]:
    model = {"id": MODEL, "object": "model", "created": 1763942400, "owned_by": "strake"}
    # The Anthropic list has other fields; both SDKs ignore what they do not know.
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
                "message": {"role": "assistant", "content": ANSWER, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _usage(data),
    }


async def _chat_stream(data: dict[str, Any]) -> Events:
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
    async for word in _words():
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


def _response_message(text: str = ANSWER, *, status: str = "completed") -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}] if text else []
    return {"id": "msg_demo", "type": "message", "role": "assistant", "status": status, "content": content}


async def _response_stream(data: dict[str, Any]) -> Events:
    number = 0

    def event(kind: str, **fields: Any) -> tuple[str, dict[str, Any]]:
        nonlocal number
        number += 1
        return kind, {"type": kind, "sequence_number": number - 1, **fields}

    part = {"type": "output_text", "text": "", "annotations": []}
    where = {"item_id": "msg_demo", "output_index": 0, "content_index": 0}
    yield event("response.created", response=_response(data, done=False))
    yield event("response.output_item.added", output_index=0, item=_response_message("", status="in_progress"))
    yield event("response.content_part.added", part=part, **where)
    async for word in _words():
        yield event("response.output_text.delta", delta=word, logprobs=[], **where)
    yield event("response.output_text.done", text=ANSWER, logprobs=[], **where)
    yield event("response.content_part.done", part=part | {"text": ANSWER}, **where)
    yield event("response.output_item.done", output_index=0, item=_response_message())
    yield event("response.completed", response=_response(data))


def _embeddings(data: dict[str, Any]) -> dict[str, Any]:
    given = data.get("input", "")
    count = len(given) if isinstance(given, list) else 1
    # The official SDK asks for base64: little-endian 32-bit floats.
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
        "content": [{"type": "text", "text": ANSWER}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 8, "output_tokens": 16},
    }


async def _message_stream(data: dict[str, Any]) -> Events:
    start = _message(data) | {"content": [], "stop_reason": None, "usage": {"input_tokens": 8, "output_tokens": 1}}
    yield "message_start", {"type": "message_start", "message": start}
    block = {"type": "text", "text": ""}
    yield "content_block_start", {"type": "content_block_start", "index": 0, "content_block": block}
    yield "ping", {"type": "ping"}
    async for word in _words():
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


# --- Transport -------------------------------------------------------------------------------------------------------


async def _words() -> AsyncIterator[str]:
    for index, word in enumerate(ANSWER.split(" ")):
        await asyncio.sleep(CHUNK_SECONDS)
        yield word if index == 0 else f" {word}"


async def _body(receive: Receive) -> bytes:
    chunks = []
    more = True
    while more:
        message = await receive()
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(chunks)


async def _json(send: Send, status: int, data: dict[str, Any]) -> None:
    body = json.dumps(data).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _error(send: Send, status: int, text: str, *, anthropic: bool) -> None:
    kind = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}[status]
    error: dict[str, Any] = {"type": kind, "message": text}
    if not anthropic:
        error |= {"param": None, "code": None}
    await _json(send, status, {"type": "error", "error": error} if anthropic else {"error": error})


async def _stream(send: Send, events: Events, *, named: bool) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for name, data in events:
        head = f"event: {name}\n" if named else ""
        chunk = f"{head}data: {json.dumps(data)}\n\n".encode()
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    last = b"" if named else b"data: [DONE]\n\n"
    await send({"type": "http.response.body", "body": last})


async def serve(port: int) -> None:
    """Serve until standard input closes."""
    server = uvicorn.Server(
        uvicorn.Config(application, host="127.0.0.1", port=port, log_level="warning", access_log=False, lifespan="off")
    )
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: setattr(server, "should_exit", True))
    await server.serve()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
