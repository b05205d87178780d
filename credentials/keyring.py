"""Master keys by id. They live outside the database and outside the code: in a file or an environment variable.

The document, in `STRAKE_MASTER_KEYS_FILE` (mode 0600) or `STRAKE_MASTER_KEYS`:

    {"primary": "2026-11-a", "keys": {"2026-11-a": "<base64 of 32 bytes>"}}

New data keys are wrapped under the primary; the others only open what was wrapped under them. A key is always chosen
by its id, never by trial: trial would let one ciphertext open under two keys, since GCM does not commit to its key.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from django.conf import settings

from credentials.errors import KeyringError, UnknownMasterKey

KEY_BYTES = 32
_CHECK_VALUE_CONTEXT = b"strake/master-key/check-value/v1"


@dataclass(frozen=True, slots=True)
class Keyring:
    """An immutable set of master keys. `repr` shows ids only."""

    primary_id: str
    _keys: Mapping[str, bytes] = field(repr=False)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._keys)

    def key(self, key_id: str) -> bytes:
        """The 32 bytes of one master key. Raises `UnknownMasterKey`."""
        try:
            return self._keys[key_id]
        except KeyError:
            raise UnknownMasterKey(key_id) from None

    def check_value(self, key_id: str) -> bytes:
        """16 bytes that prove, without revealing it, that a key is the one its id was used with before."""
        return hmac.digest(self.key(key_id), _CHECK_VALUE_CONTEXT + key_id.encode(), "sha256")[:16]

    def __reduce__(self) -> NoReturn:
        raise TypeError("A keyring cannot be pickled.")


def parse(document: str) -> Keyring:
    """Read the JSON document above. Raises `KeyringError`; no message holds any part of a key."""
    try:
        data = json.loads(document, object_pairs_hook=_refuse_duplicates)
    except ValueError as error:
        if isinstance(error, KeyringError):
            raise
        raise KeyringError("The master keys are not valid JSON.") from None
    keys = data.get("keys") if isinstance(data, dict) else None
    if not isinstance(keys, dict) or not keys or not isinstance(data.get("primary"), str):
        raise KeyringError('The master keys must look like {"primary": "ID", "keys": {"ID": "<base64>"}}.')
    decoded = {key_id: _decode(key_id, value) for key_id, value in keys.items()}
    if len(set(decoded.values())) != len(decoded):
        raise KeyringError("Two master key ids hold the same key. Give every id a key of its own.")
    if data["primary"] not in decoded:
        raise KeyringError(f"The primary master key {data['primary']!r} is not among the keys.")
    return Keyring(data["primary"], decoded)


def read_file(path: Path) -> Keyring:
    """Read a keyring file, which nobody but its owner may read. Raises `KeyringError`."""
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                raise KeyringError(f"{path} can be read by others. Run: chmod 600 {path}")
            if status.st_uid not in {os.geteuid(), 0}:
                raise KeyringError(f"{path} belongs to another user. Run: chown {os.geteuid()} {path}")
            return parse(file.read())
    except FileNotFoundError:
        raise KeyringError(
            f"The master keys file {path} does not exist. Restore it from your backup; for a new installation "
            "run: manage.py create_master_key"
        ) from None
    except UnicodeDecodeError:
        raise KeyringError(f"The master keys file {path} is not UTF-8 text.") from None
    except OSError as error:
        raise KeyringError(f"The master keys file {path} cannot be read: {error.strerror}.") from None


_cached: tuple[tuple[str, int, int, int], Keyring] | None = None


def current() -> Keyring:
    """The configured keyring; a changed file is picked up by its status, so servers need no restart.

    Raises `KeyringError`. One `stat` call each time: cheap beside the database read of the same request.
    """
    global _cached
    document: str = settings.STRAKE_MASTER_KEYS
    if document:
        version = (document, 0, 0, 0)
        if _cached is None or _cached[0] != version:
            _cached = (version, parse(document))
        return _cached[1]
    path: str = settings.STRAKE_MASTER_KEYS_FILE
    if not path:
        raise KeyringError(
            "No master key is configured. Set STRAKE_MASTER_KEYS_FILE to the file that "
            "`manage.py create_master_key --file PATH` made."
        )
    try:
        status = os.stat(path)
        version = (path, status.st_mtime_ns, status.st_ino, status.st_size)
    except OSError:
        version = (path, 0, 0, 0)
    if _cached is None or _cached[0] != version:
        _cached = (version, read_file(Path(path)))
    return _cached[1]


def forget() -> None:
    """Drop the cached keyring; for tests and for commands that have just rewritten the file."""
    global _cached
    _cached = None


def new_key_id(taken: tuple[str, ...] = ()) -> str:
    """An id that tells when a key was made: `2026-11-a`, `2026-11-b`, …"""
    month = datetime.now(UTC).strftime("%Y-%m")
    for letter in "abcdefghijklmnopqrstuvwxyz":
        if (key_id := f"{month}-{letter}") not in taken:
            return key_id
    return f"{month}-{secrets.token_hex(4)}"


def new_document(keyring: Keyring | None = None, *, key_id: str | None = None, primary: bool = True) -> str:
    """The JSON document of `keyring` with one fresh key added; of that key alone where there is no keyring."""
    keys = {} if keyring is None else {known: keyring.key(known) for known in keyring.ids}
    new_id = key_id or new_key_id(tuple(keys))
    if new_id in keys:
        raise KeyringError(f"A master key with the id {new_id!r} exists already.")
    keys[new_id] = secrets.token_bytes(KEY_BYTES)
    return json.dumps(
        {
            "primary": new_id if primary or keyring is None else keyring.primary_id,
            "keys": {known: base64.b64encode(key).decode() for known, key in keys.items()},
        },
        indent=2,
    )


def _decode(key_id: str, value: object) -> bytes:
    if not key_id or len(key_id) > 64 or not key_id.isascii() or not key_id.isprintable() or " " in key_id:
        raise KeyringError("A master key id must be 1 to 64 printable ASCII characters without spaces.")
    try:
        key = base64.b64decode(value if isinstance(value, str) else "!", validate=True)
    except binascii.Error:
        raise KeyringError(f"The master key {key_id!r} is not base64.") from None
    if len(key) != KEY_BYTES:
        raise KeyringError(f"The master key {key_id!r} has {len(key)} bytes; it must have {KEY_BYTES}.")
    if len(set(key)) < 8:  # all zeros, a repeated character: a placeholder, not a random key
        raise KeyringError(f"The master key {key_id!r} is not random. Make one with: manage.py create_master_key")
    return key


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise KeyringError("The master keys document names something twice.")
    return result
