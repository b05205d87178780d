"""The keyring document: master keys by id, as JSON.

    {"primary": "2026-11-a", "keys": {"2026-11-a": "<base64 of 32 bytes>"}}

The primary key wraps new data keys. The other keys only unwrap what they wrapped before. A key is always chosen by its
id and never by trial: GCM does not commit to its key, so one ciphertext could be made to open under two keys.
"""

from __future__ import annotations

import base64
import codecs
import hmac
import json
import re
import secrets
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from credentials.errors import KeyringError, UnknownMasterKey
from credentials.vault.sealing import wipe

KEY_BYTES = 32
MAX_BYTES = 64 * 1024  # of a document
Cipher = TypeVar("Cipher")
_CHECK_VALUE_CONTEXT = b"strake/master-key/check-value/v1"
# The base64 of 32 bytes as it usually is in JSON.
_ENCODED_KEY = re.compile(rb'"([A-Za-z0-9+/]{43}=)"')
_BASE64 = {
    ord(character): value
    for value, character in enumerate(f"{string.ascii_uppercase}{string.ascii_lowercase}{string.digits}+/")
}
# Shorter than 32 bytes in base64 (43 characters) or hex (64), so that a key in the place of an id is refused and never
# quoted in a message.
_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", re.ASCII)


@dataclass(frozen=True, slots=True, eq=False)
class Keyring:
    """A set of master keys, to which nothing can be added. `repr` shows only ids. It cannot be copied or pickled."""

    primary_id: str
    ids: tuple[str, ...] = field(init=False)
    _keys: Mapping[str, bytearray] = field(repr=False)
    _own: dict[str, bytearray] = field(init=False, repr=False)  # what `_keys` shows
    _ciphers: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_own", dict(self._keys))
        object.__setattr__(self, "_keys", MappingProxyType(self._own))
        object.__setattr__(self, "_ciphers", {})
        object.__setattr__(self, "ids", tuple(self._keys))

    def key(self, key_id: str) -> bytearray:
        """The 32 bytes of one master key, which the caller must not change. Raises `UnknownMasterKey`."""
        try:
            return self._keys[key_id]
        except KeyError:
            raise UnknownMasterKey(key_id) from None

    def cipher(self, key_id: str, make: Callable[[bytearray], Cipher]) -> Cipher:
        """Return what `make` makes of a master key. It is made once, and kept as long as the key.

        Raises `UnknownMasterKey`.
        """
        made: Cipher | None = self._ciphers.get(key_id)
        if made is None:
            made = self._ciphers[key_id] = make(self.key(key_id))
        return made

    def check_value(self, key_id: str) -> bytes:
        """16 bytes that identify a key without revealing it. Raises `UnknownMasterKey`."""
        return hmac.digest(self.key(key_id), _CHECK_VALUE_CONTEXT + key_id.encode(), "sha256")[:16]

    def wipe(self, key_id: str) -> None:
        """Overwrite one master key. From then on, this keyring does not know it."""
        self._ciphers.pop(key_id, None)  # OpenSSL overwrites it
        if (key := self._own.pop(key_id, None)) is not None:
            wipe(key)

    def __reduce__(self) -> NoReturn:
        raise TypeError("A keyring cannot be copied or pickled.")


def parse(document: str) -> Keyring:
    """Parse the JSON document above. Raises `KeyringError`, whose message contains no part of a key."""
    try:
        encoded = document.encode()
    except UnicodeEncodeError:  # an environment variable that is not UTF-8
        raise KeyringError("The master keys are not valid JSON.") from None
    return parse_bytes(memoryview(encoded))


def parse_bytes(document: memoryview) -> Keyring:
    """Parse a document and leave no copy of a key in memory that is freed, except of keys in an unusual spelling.

    Some editors write a byte order mark first, which is skipped.

    Only a copy of the document with a name in place of each key becomes a string. Raises `KeyringError`, or
    `UnicodeDecodeError` if the rest of the document is not UTF-8.
    """
    if bytes(document[:3]) == codecs.BOM_UTF8:
        document = document[3:]
    found: dict[str, bytearray] = {}
    parts, end = [], 0
    for match in _ENCODED_KEY.finditer(document):
        name = f"#{len(found)}"
        found[name] = _decode_base64(document[match.start(1) : match.end(1)])
        parts += [bytes(document[end : match.start(1)]), name.encode()]
        end = match.end(1)
    redacted = b"".join([*parts, bytes(document[end:])]).decode()
    try:
        data = json.loads(redacted, object_pairs_hook=_refuse_duplicates)
    except KeyringError:
        raise
    except (ValueError, RecursionError):  # The error of `json` quotes the document.
        raise KeyringError("The master keys are not valid JSON.") from None
    if not isinstance(data, dict) or data.keys() != {"primary", "keys"}:
        raise KeyringError('The master keys must look like {"primary": "ID", "keys": {"ID": "<base64>"}}.')
    primary, keys = data["primary"], data["keys"]
    if not isinstance(keys, dict) or not keys:
        raise KeyringError("The master keys document holds no key. Create one with: manage.py create_master_key")
    decoded = {_checked_id(key_id): _decode(key_id, value, found) for key_id, value in keys.items()}
    if any(one == other for one, other in combinations(decoded.values(), 2)):
        raise KeyringError("Two master key ids hold the same key. Every id needs a different key.")
    if _checked_id(primary) not in decoded:
        raise KeyringError(f"The primary master key {primary!r} is not among the keys.")
    return Keyring(primary, decoded)


def new_key_id(taken: tuple[str, ...] = ()) -> str:
    """An id that tells when the key was created: `2026-11-a`, `2026-11-b`, …"""
    month = datetime.now(UTC).strftime("%Y-%m")
    for letter in "abcdefghijklmnopqrstuvwxyz":
        if (key_id := f"{month}-{letter}") not in taken:
            return key_id
    return f"{month}-{secrets.token_hex(4)}"


def new_document(ring: Keyring | None = None, *, key_id: str | None = None, primary: bool = True) -> str:
    """The JSON document of `ring`, or of an empty one, with a new random key added. Raises `KeyringError`."""
    keys: dict[str, bytes | bytearray] = {} if ring is None else {known: ring.key(known) for known in ring.ids}
    new_id = key_id or new_key_id(tuple(keys))
    if new_id in keys:
        raise KeyringError(f"A master key with the id {new_id!r} exists already.")
    keys[_checked_id(new_id)] = secrets.token_bytes(KEY_BYTES)
    return _document(new_id if primary or ring is None else ring.primary_id, keys)


def document_without(ring: Keyring, key_id: str) -> str:
    """The JSON document of `ring` without one key. Raises `UnknownMasterKey`, or `KeyringError` for the primary."""
    ring.key(key_id)
    if key_id == ring.primary_id:
        raise KeyringError(f"{key_id} is the primary master key. Create another one first: manage.py create_master_key")
    return _document(ring.primary_id, {known: ring.key(known) for known in ring.ids if known != key_id})


def document_with_primary(ring: Keyring, key_id: str) -> str:
    """The JSON document of `ring` with another primary. Raises `UnknownMasterKey`."""
    ring.key(key_id)
    return _document(key_id, {known: ring.key(known) for known in ring.ids})


def _document(primary_id: str, keys: Mapping[str, bytes | bytearray]) -> str:
    encoded = {key_id: base64.b64encode(key).decode() for key_id, key in keys.items()}
    return json.dumps({"primary": primary_id, "keys": encoded}, indent=2)


def _checked_id(key_id: object) -> str:
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise KeyringError(
            "A master key id must be 1 to 32 letters, digits, dots, dashes or underscores, such as 2026-11-a."
        )
    return key_id


def _decode_base64(encoded: memoryview) -> bytearray:
    """Decode the base64 of 32 bytes. `base64.b64decode` returns `bytes`, which cannot be wiped."""
    key = bytearray(KEY_BYTES + 1)
    for index in range(0, len(encoded), 4):
        group = 0
        for character in encoded[index : index + 4]:
            group = group << 6 | _BASE64.get(character, 0)
        key[index // 4 * 3 : index // 4 * 3 + 3] = group.to_bytes(3)
    key.pop()
    return key


def _decode(key_id: str, value: object, found: Mapping[str, bytearray]) -> bytearray:
    """Return the key that `value` names or spells."""
    try:
        text = value if isinstance(value, str) else "!"
        key = found[text] if text in found else bytearray(base64.b64decode(text, validate=True))
    except ValueError:
        raise KeyringError(f"The master key {key_id!r} is not base64.") from None
    if len(key) != KEY_BYTES:
        raise KeyringError(f"The master key {key_id!r} has {len(key)} bytes. It must have {KEY_BYTES}.")
    if len(set(key)) < 8:  # A placeholder, such as all zeros or a repeated word.
        raise KeyringError(f"The master key {key_id!r} is not random. Create one with: manage.py create_master_key")
    return key


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise KeyringError("The master keys document contains a name twice.")
    return result
