"""What a wrap of a data key consists of, and how it travels from the process that holds the keyring.

The client is `credentials.vault.socket_wrapper`, the server is `proxy.wrap_service`. There are two calls, over HTTP:

    POST /wrap/{format}/{credential id, 32 hex digits}     the body is the data key, 32 bytes
    GET  /keys

Each request has the header `strake-wrap-protocol` with `VERSION`. Increase it when a call or an answer changes: a
server of another version answers 409, so that nothing is sealed while the two halves of Strake differ.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from credentials.vault.envelope import IV_BYTES, WrappedKey
from credentials.vault.sealing import DATA_KEY_BYTES, TAG_BYTES

VERSION = "1"
HEADER = "strake-wrap-protocol"
KEYS_PATH = "/keys"
CHECK_VALUE_BYTES = 16
MAX_ID_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A wrapped data key, and the check value of the master key that wrapped it."""

    key: WrappedKey
    check_value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyIds:
    """The ids of the master keys in the keyring. The primary one wraps."""

    primary: str
    ids: tuple[str, ...]


def wrap_path(format: int, credential_id: UUID) -> str:
    return f"/wrap/{format}/{credential_id.hex}"


def encode_wrapped(wrapped: Wrapped) -> bytes:
    return _encode(
        master_key_id=wrapped.key.master_key_id,
        wrapped_key=base64.b64encode(wrapped.key.wrapped_dek).decode(),
        iv=base64.b64encode(wrapped.key.wrapped_dek_iv).decode(),
        check_value=base64.b64encode(wrapped.check_value).decode(),
    )


def decode_wrapped(body: bytes) -> Wrapped:
    """The opposite of `encode_wrapped`. Raises `ValueError`."""
    answer = _decode(body, {"master_key_id", "wrapped_key", "iv", "check_value"})
    key = WrappedKey(
        _id(answer["master_key_id"]),
        _bytes(answer["wrapped_key"], DATA_KEY_BYTES + TAG_BYTES),
        _bytes(answer["iv"], IV_BYTES),
    )
    return Wrapped(key, _bytes(answer["check_value"], CHECK_VALUE_BYTES))


def encode_keys(keys: KeyIds) -> bytes:
    return _encode(primary=keys.primary, ids=keys.ids)


def decode_keys(body: bytes) -> KeyIds:
    """The opposite of `encode_keys`. Raises `ValueError`."""
    answer = _decode(body, {"primary", "ids"})
    ids = answer["ids"]
    if not isinstance(ids, list) or answer["primary"] not in ids:
        raise ValueError("The primary master key is not among the keys.")
    return KeyIds(_id(answer["primary"]), tuple(map(_id, ids)))


def _encode(**answer: object) -> bytes:
    return json.dumps(answer).encode()


def _decode(body: bytes, names: set[str]) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except RecursionError:
        raise ValueError("The answer is nested too deeply.") from None
    if not isinstance(answer, dict) or answer.keys() != names:
        raise ValueError("The answer has other fields.")
    return answer


def _id(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_LENGTH:
        raise ValueError("A master key id is malformed.")
    return value


def _bytes(value: object, length: int) -> bytes:
    decoded = base64.b64decode(value if isinstance(value, str) else "!", validate=True)
    if len(decoded) != length:
        raise ValueError("A value has another length.")
    return decoded
