"""Wraps data keys over `wrap.sock`, for a process without a keyring."""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path
from uuid import UUID

import httpcore
import httpx
from django.conf import settings

from accounts.transactions import without_connection
from credentials.deadline_transport import Deadline, DeadlineTransport
from credentials.errors import VaultUnavailable
from credentials.vault import wrap_protocol
from credentials.vault.wrap_protocol import KeyIds, Wrapped

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
TOTAL_SECONDS = 5.0
MAX_ANSWER_BYTES = 64 * 1024
KEEP_SECONDS = 5.0  # how long the ids of the master keys, or the failure to get them, are kept


class SocketKeyWrapper:
    """Asks the proxy half over its Unix socket, one connection for each call, so that none outlives a restart there.

    The keyring never leaves the proxy half. What can be asked is in `credentials.vault.wrap_protocol`.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = settings.STRAKE_WRAP_SOCKET if path is None else path
        self._kept: tuple[float, KeyIds | None] | None = None

    def wrap(self, format: int, credential_id: UUID, data_key: bytes | bytearray) -> Wrapped:
        body = self._call("POST", wrap_protocol.wrap_path(format, credential_id), bytes(data_key))
        try:
            return wrap_protocol.decode_wrapped(body)
        except ValueError:
            raise _unavailable("malformed answer") from None

    def keys(self) -> KeyIds:
        """Kept for `KEEP_SECONDS`, since a page asks once for every endpoint on it."""
        kept = self._kept
        if kept is None or time.monotonic() - kept[0] >= KEEP_SECONDS:
            kept = self._kept = (time.monotonic(), self._ask_for_keys())
        if kept[1] is None:
            raise VaultUnavailable
        return kept[1]

    def _ask_for_keys(self) -> KeyIds | None:
        try:
            return wrap_protocol.decode_keys(self._call("GET", wrap_protocol.KEYS_PATH))
        except ValueError:
            _unavailable("malformed answer")
        except VaultUnavailable:
            pass
        return None

    def _call(self, method: str, path: str, content: bytes = b"") -> bytes:
        """The body of the answer. Raises `VaultUnavailable`, and `RuntimeError` inside a transaction."""
        headers = {wrap_protocol.HEADER: wrap_protocol.VERSION}
        transport = DeadlineTransport(self._connect, seconds=TOTAL_SECONDS)
        body = bytearray()
        try:
            with (
                without_connection(),
                httpx.Client(transport=transport, base_url="http://wrap", headers=headers, trust_env=False) as client,
                client.stream(method, path, content=content) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    raise _unavailable(f"status {response.status_code}")
                for chunk in response.iter_raw():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise _unavailable("long answer")
        except (OSError, httpcore.ProtocolError) as error:
            raise _unavailable(type(error).__name__) from None
        return bytes(body)

    def _connect(self, host: str, port: int, deadline: Deadline) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(min(CONNECT_SECONDS, deadline.remaining()))
            connection.connect(str(self._path))
        except BaseException:
            connection.close()
            raise
        return connection


def _unavailable(reason: str) -> VaultUnavailable:
    logger.warning("vault_unavailable reason=%r", reason)
    return VaultUnavailable()
