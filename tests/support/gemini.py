"""Gemini's resumable uploads (https://ai.google.dev/gemini-api/docs/files), scripted on an `Upstream`."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from tests.support.upstream import Exchange, Upstream

START = "/upload/v1beta/files"


@dataclass
class Session:
    """One upload. `chunks` holds the offset, size and SHA-256 of each request's body."""

    size: int
    content_type: str
    chunks: list[tuple[int, int, str]] = field(default_factory=list)
    is_final: bool = False

    @property
    def received(self) -> int:
        return sum(size for _, size, _ in self.chunks)


class Gemini:
    """Starts uploads for whoever has the key, and accepts bytes at the URL of each without a key."""

    def __init__(self, upstream: Upstream, key: str) -> None:
        self.sessions: dict[str, Session] = {}
        self.after_chunk: Callable[[], None] | None = None  # runs in a thread before the response
        self._url = upstream.url
        self._key = key
        for version in ("v1", "v1beta"):  # Google's SDK for Python uses v1, the one for JavaScript v1beta
            upstream.on(f"/upload/{version}/files", self._upload)
            upstream.on(f"/{version}/files/abc-123", self._file)

    def url_of(self, upload_id: str) -> str:
        return f"{self._url}{START}?upload_id={upload_id}&upload_protocol=resumable"

    async def _upload(self, exchange: Exchange) -> None:
        upload_id = parse_qs(exchange.query.decode()).get("upload_id", [""])[0]
        if not upload_id:
            await self._start(exchange)
        elif upload_id in self.sessions:
            await self._continue(exchange, upload_id)
        else:
            await exchange.respond(404)

    async def _start(self, exchange: Exchange) -> None:
        if exchange.header("x-goog-api-key") != self._key.encode():
            await exchange.respond(401)
            return
        size = int(exchange.header("x-goog-upload-header-content-length") or b"0")
        content_type = (exchange.header("x-goog-upload-header-content-type") or b"").decode()
        upload_id = secrets.token_urlsafe(80)
        self.sessions[upload_id] = Session(size, content_type)
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("X-Goog-Upload-Chunk-Granularity", "262144"),
            ("X-Goog-Upload-Control-URL", self.url_of(upload_id)),
            ("X-Goog-Upload-Header-Content-Type", content_type),
            ("X-Goog-Upload-Status", "active"),
            ("X-Goog-Upload-URL", self.url_of(upload_id)),
            ("X-GUploader-UploadID", upload_id),
        ]
        await exchange.respond(200, headers)

    async def _continue(self, exchange: Exchange, upload_id: str) -> None:
        session = self.sessions[upload_id]
        command = (exchange.header("x-goog-upload-command") or b"").decode()
        if "upload" in command:
            offset = int(exchange.header("x-goog-upload-offset") or b"-1")
            if offset != session.received:
                await exchange.respond(400)
                return
            session.chunks.append((offset, exchange.body_size, exchange.body_sha256))
            if self.after_chunk is not None:
                await asyncio.to_thread(self.after_chunk)
        if "finalize" in command:
            session.is_final = session.received == session.size
        headers = [
            ("X-Goog-Upload-Status", "final" if session.is_final else "active"),
            ("X-Goog-Upload-Size-Received", str(session.received)),
            ("X-GUploader-UploadID", upload_id),
        ]
        body = json.dumps({"file": self._described(session)}).encode() if session.is_final else b""
        await exchange.respond(200, [*headers, ("Content-Type", "application/json")], body)

    async def _file(self, exchange: Exchange) -> None:
        if exchange.header("x-goog-api-key") != self._key.encode():
            await exchange.respond(401)
            return
        body = json.dumps(self._described(next(iter(self.sessions.values())))).encode()
        await exchange.respond(200, [("Content-Type", "application/json")], body)

    def _described(self, session: Session) -> dict[str, Any]:
        return {
            "name": "files/abc-123",
            "mimeType": session.content_type,
            "sizeBytes": str(session.size),
            "uri": f"{self._url}/v1beta/files/abc-123",
            "state": "ACTIVE",
        }
