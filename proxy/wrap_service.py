"""Answers the web half on wrap.sock: wraps a data key, and names the master keys. It opens nothing.

The two calls are described in `credentials.vault.wrap_protocol`. Import contracts keep this module away from everything
that unwraps.
"""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from uuid import UUID

from credentials.errors import SealError
from credentials.vault import wrap_protocol
from credentials.vault.envelope import FORMATS
from credentials.vault.local_wrapper import LocalKeyWrapper
from credentials.vault.sealing import DATA_KEY_BYTES, wipe
from proxy.server.exchange import Exchange

logger = logging.getLogger(__name__)

# Matched against the path as it was sent, so that there is one spelling of each call.
_WRAP_PATH = re.compile(rb"/wrap/([0-9])/([0-9a-f]{32})")
_KEYS_PATH = wrap_protocol.KEYS_PATH.encode()
_VERSION = (wrap_protocol.HEADER.encode(), wrap_protocol.VERSION.encode())
_wrapper = LocalKeyWrapper()


class _Refused(Exception):
    """The request is refused with `status`."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__()
        self.status = status


async def respond(exchange: Exchange) -> None:
    """Answer one request of the web half. Nothing about the request is logged."""
    try:
        status, body = HTTPStatus.OK, await _answer(exchange)
    except _Refused as refused:
        status, body = refused.status, b""
    except SealError as error:
        logger.error("wrap_failed kind=%s", type(error).__name__)  # noqa: TRY400  (its message names files)
        status, body = HTTPStatus.SERVICE_UNAVAILABLE, b""
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        # The rest of a body that is too long is not read.
        (b"connection", b"close"),
    ]
    exchange.respond(status, headers, body)


async def _answer(exchange: Exchange) -> bytes:
    """Raises `_Refused` or `SealError`."""
    wrap = _WRAP_PATH.fullmatch(exchange.path)
    is_known = exchange.path == _KEYS_PATH if wrap is None else int(wrap[1]) in FORMATS
    if exchange.query or not is_known:
        raise _Refused(HTTPStatus.NOT_FOUND)
    if exchange.method != ("GET" if wrap is None else "POST"):
        raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED)
    # Read before anything is refused that a client of another version sends, so that it receives the status.
    data_key = bytearray() if wrap is None else await _data_key(exchange)
    try:
        if [header for header in exchange.headers if header[0] == _VERSION[0]] != [_VERSION]:
            raise _Refused(HTTPStatus.CONFLICT)
        if wrap is None:
            return wrap_protocol.encode_keys(_wrapper.keys())
        return wrap_protocol.encode_wrapped(_wrapper.wrap(int(wrap[1]), UUID(wrap[2].decode()), data_key))
    finally:
        wipe(data_key)


async def _data_key(exchange: Exchange) -> bytearray:
    """The body of the request. Raises `_Refused` if it has another length than a data key."""
    received = bytearray()
    complete = False
    while not complete:
        received += await exchange.read()
        complete = not exchange.more_body
        if len(received) > DATA_KEY_BYTES:
            wipe(received)
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if len(received) != DATA_KEY_BYTES:
        wipe(received)
        raise _Refused(HTTPStatus.BAD_REQUEST)
    return received
