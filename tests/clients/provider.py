"""A provider that speaks the APIs of OpenAI, Anthropic and Google, scripted on an `Upstream`.

The answers of the first two are those of the demo provider. No program starts a tool, as no answer asks for one.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable
from typing import Any

from strake import demo_provider
from tests.support.running import KEY
from tests.support.upstream import Exchange, head

REPLY = demo_provider.REPLY_TEXT
BATCH = b'{"custom_id":"first","result":{"type":"canceled"}}\n{"custom_id":"second","result":{"type":"canceled"}}\n'
# What Gemini CLI asks a small model before it chooses a large one.
CLASSIFIED = json.dumps({"complexity_reasoning": "A greeting.", "complexity_score": 1})
demo_provider.CHUNK_SECONDS = 0  # this process only: `Upstream` must not sleep


async def answer(exchange: Exchange) -> None:
    """Answer like the provider whose path was called. Any key but `KEY` is refused."""
    data = _body(exchange)
    path = exchange.path
    if not _has_key(exchange):
        await _respond(exchange, 401, {"error": {"message": "The provider refuses this key.", "type": "wrong_key"}})
    elif path.endswith("/results"):
        await exchange.respond(200, [("Content-Type", "application/x-jsonl")], BATCH)
    elif path.endswith(":streamGenerateContent"):
        await _stream(exchange, [("", _generated())], named=False)
    elif path.endswith(":generateContent"):
        wants_json = "responseMimeType" in data.get("generationConfig", {})
        await _respond(exchange, 200, _generated(CLASSIFIED if wants_json else REPLY))
    elif path.endswith(":countTokens"):
        await _respond(exchange, 200, {"totalTokens": 8})
    elif path.endswith("/invoke-with-response-stream"):
        await _bedrock(exchange, data)
    elif path.endswith("/invoke"):
        await _respond(exchange, 200, demo_provider._message(data))
    elif path.endswith("/v2/chat"):
        await _respond(exchange, 200, _cohere())
    else:
        await _answer_as_demo(exchange, data)


async def _answer_as_demo(exchange: Exchange, data: dict[str, Any]) -> None:
    # Providers have other base paths than the demo provider, and the same calls.
    calls = {
        call: path for _, path in demo_provider._ROUTES if exchange.path.endswith(call := path.removeprefix("/v1"))
    }
    path = calls.get(max(calls, key=len, default=""), "")
    if data.get("stream") and path in demo_provider._STREAMS:
        await _stream(exchange, demo_provider._STREAMS[path](data), named=path != "/v1/chat/completions")
    elif answer := demo_provider._ROUTES.get((exchange.method, path)):
        await _respond(exchange, 200, answer(data))
    else:
        await _respond(exchange, 404, {"error": {"message": "The provider has no such path.", "type": "not_found"}})


def _has_key(exchange: Exchange) -> bool:
    sent = {exchange.header(name) for name in ("authorization", "x-api-key", "x-goog-api-key", "api-key")} - {None}
    return sent in ({KEY.encode()}, {f"Bearer {KEY}".encode()})


def _body(exchange: Exchange) -> dict[str, Any]:
    try:
        data = json.loads(exchange.body or b"{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _generated(text: str = REPLY) -> dict[str, Any]:
    """https://ai.google.dev/api/generate-content"""
    content = {"role": "model", "parts": [{"text": text}]}
    usage = {"promptTokenCount": 8, "candidatesTokenCount": 16, "totalTokenCount": 24}
    return {
        "candidates": [{"index": 0, "content": content, "finishReason": "STOP"}],
        "usageMetadata": usage,
        "modelVersion": "gemini-2.5-flash",
        "responseId": "demo",
    }


def _cohere() -> dict[str, Any]:
    """https://docs.cohere.com/reference/chat"""
    message = {"role": "assistant", "content": [{"type": "text", "text": REPLY}]}
    return {"id": "demo", "finish_reason": "COMPLETE", "message": message}


async def _bedrock(exchange: Exchange, data: dict[str, Any]) -> None:
    """Anthropic's events in messages of https://smithy.io/2.0/aws/amazon-eventstream.html"""
    kind = [("Content-Type", "application/vnd.amazon.eventstream"), ("Transfer-Encoding", "chunked")]
    await exchange.write(head(200, kind))
    names = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in names.items()
    )
    for _, event in demo_provider._message_stream(data):
        payload = json.dumps({"bytes": base64.b64encode(json.dumps(event).encode()).decode()}).encode()
        prelude = struct.pack(">II", len(headers) + len(payload) + 16, len(headers))
        message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
        await exchange.chunk(message + struct.pack(">I", zlib.crc32(message)))
    await exchange.chunk(b"")


async def _respond(exchange: Exchange, status: int, data: dict[str, Any]) -> None:
    await exchange.respond(status, [("Content-Type", "application/json")], json.dumps(data).encode())


async def _stream(exchange: Exchange, events: Iterable[tuple[str, dict[str, Any]]], *, named: bool) -> None:
    await exchange.write(head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]))
    for name, data in events:
        event = f"event: {name}\n" if named else ""
        await exchange.chunk(f"{event}data: {json.dumps(data)}\n\n".encode())
    if not named and exchange.path.endswith("/chat/completions"):
        await exchange.chunk(b"data: [DONE]\n\n")
    await exchange.chunk(b"")
