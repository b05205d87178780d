"""The keyring: master keys by id. It lives in a file or an environment variable, never in the database or the code.

`STRAKE_MASTER_KEYS_FILE` (mode 0600) or `STRAKE_MASTER_KEYS` holds this document:

    {"primary": "2026-11-a", "keys": {"2026-11-a": "<base64 of 32 bytes>"}}

The primary key wraps new data keys. The other keys only unwrap what they wrapped before. A key is always chosen by its
id and never by trial: GCM does not commit to its key, so one ciphertext could be made to open under two keys.
"""

from __future__ import annotations

import base64
import fcntl
import hmac
import json
import logging
import os
import re
import secrets
import stat
import string
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from django.conf import settings

from credentials.errors import KeyringError, UnknownMasterKey
from credentials.vault.sealing import wipe

logger = logging.getLogger(__name__)

KEY_BYTES = 32
LOOK_SECONDS = 0.05  # how often `recent` looks for a change of the file, at most
Cipher = TypeVar("Cipher")
MAX_DOCUMENT_BYTES = 64 * 1024
CREDENTIALS = Path("/run/credentials")  # where systemd puts those of each unit, for its user only
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
    return _parse(memoryview(encoded))


def _parse(document: memoryview) -> Keyring:
    """Parse a document and leave no copy of a key in memory that is freed, except of keys in an unusual spelling.

    Only a copy of the document with a name in place of each key becomes a string. Raises `KeyringError`, or
    `UnicodeDecodeError` if the rest of the document is not UTF-8.
    """
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


def read_file(path: Path) -> Keyring:
    """Read a keyring file. Raises `KeyringError`, also if anyone but the owner can read the file.

    A credential that systemd passes (`LoadCredential=`) is accepted as systemd creates it.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb"):
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise KeyringError(f"The master keys file {path} is not a regular file.")
            if status.st_mode & (0o037 if _is_credential(path) else 0o077):
                raise KeyringError(f"Other users of this machine can read or write {path}. Run: chmod 600 {path}")
            if status.st_uid not in {os.geteuid(), 0} and os.geteuid() != 0:
                raise KeyringError(f"{path} belongs to another user. Run: chown {os.geteuid()} {path}")
            content = bytearray(MAX_DOCUMENT_BYTES + 1)
            size = 0
            while count := os.readv(descriptor, [memoryview(content)[size:]]):
                size += count
    except FileNotFoundError:
        raise KeyringError(
            f"The master keys file {path} does not exist. Restore it from your backup. For a new installation "
            "run: manage.py create_master_key"
        ) from None
    except PermissionError:
        raise KeyringError(
            f"The master keys file {path} cannot be read: it, or its folder, belongs to another user. "
            f"Run: chown {os.geteuid()} {path}"
        ) from None
    except OSError as error:
        raise KeyringError(f"The master keys file {path} cannot be read: {error.strerror}.") from None
    if size > MAX_DOCUMENT_BYTES:
        raise KeyringError(f"The master keys file {path} is too large (at most {MAX_DOCUMENT_BYTES // 1024} KiB).")
    try:
        return _parse(memoryview(content)[:size])
    except UnicodeDecodeError:
        raise KeyringError(f"The master keys file {path} is not UTF-8 text.") from None
    finally:
        wipe(content)


def _is_credential(path: Path) -> bool:
    """True for a credential of this systemd unit. Such a file shows the unit's own right to read as one of a group."""
    return path.is_relative_to(CREDENTIALS)


def change_file(path: Path, change: Callable[[Keyring | None], str]) -> Keyring:
    """Replace the keyring file and return the new keyring.

    `change` receives the present keyring, or None if there is no file, and returns the new document. Concurrent changes
    wait for each other. A reader sees the old file or the new one, even after a crash. The owner and a symbolic link
    stay, and the mode is 0600. Raises `KeyringError` and leaves the file unchanged.
    """
    path = Path(os.path.realpath(path))  # os.replace would replace a symbolic link instead of its target.
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KeyringError(f"The folder {path.parent} cannot be used: {error.strerror}.") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # Released when the descriptor closes, even if the process is killed.
        document = change(read_file(path) if path.exists() else None)
        ring = parse(document)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                os.fchmod(descriptor, 0o600)
                if path.exists():
                    # If root changes the file, the service's user must still be able to read it.
                    owner = path.stat()
                    if owner.st_uid != os.fstat(descriptor).st_uid:
                        os.fchown(descriptor, owner.st_uid, owner.st_gid)
                file.write(document + "\n")
                file.flush()
                os.fsync(descriptor)
            os.replace(draft, path)
            os.fsync(folder)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise KeyringError(f"The master keys file {path} cannot be written: {error.strerror}.") from None
    finally:
        os.close(folder)
    forget()
    return ring


_Version = tuple[str, int, int, int, int]
_cached: tuple[_Version, Keyring] | None = None
_refused: _Version | None = None
_looked_at = 0.0
_loading = threading.Lock()


def current() -> Keyring:
    """The configured keyring. Costs one `stat` call, and reads the file again after a change.

    If the file goes missing or becomes invalid while a server runs, the error is logged and the previous keys stay in
    use, so that a mistake in an edit does not stop every request. Raises `KeyringError` if no keyring was ever read.

    A key that has left the file is overwritten in memory. Keyrings that callers still hold keep the other keys.
    """
    global _looked_at
    now = monotonic()
    with _loading:
        ring = _load(_configured_version())
    _looked_at = now
    return ring


def recent(needs: str | None) -> Keyring:
    """The keyring for opening what is wrapped under the master key `needs`, as `current` returns and raises.

    A change may be noticed `LOOK_SECONDS` later, unless the key is missing. Do not wrap with it.
    """
    cached = _cached
    if cached is not None and monotonic() - _looked_at < LOOK_SECONDS and needs in cached[1].ids:
        return cached[1]
    return current()


def _load(version: _Version) -> Keyring:
    global _cached, _refused
    if _cached is not None and version in {_cached[0], _refused}:
        return _cached[1]
    try:
        ring = parse(settings.STRAKE_MASTER_KEYS) if settings.STRAKE_MASTER_KEYS else read_file(Path(version[0]))
    except KeyringError as error:
        if _cached is None or _cached[0][0] != version[0]:
            raise
        logger.error("The changed master keys are invalid. The previous ones stay in use. %s", error)  # noqa: TRY400
        _refused = version
        return _cached[1]
    if _cached is not None:
        ring = _successor(_cached[1], ring)
    _cached, _refused = (version, ring), None
    return ring


def _successor(old: Keyring, new: Keyring) -> Keyring:
    """Return `new` with the memory of the keys that `old` has too, and overwrite all other keys of `old`."""
    keys = {}
    for key_id in new.ids:
        keys[key_id] = new.key(key_id)
        if key_id in old.ids and keys[key_id] == old.key(key_id):
            new.wipe(key_id)
            keys[key_id] = old.key(key_id)
    for key_id in old.ids:
        if keys.get(key_id) is not old.key(key_id):
            old.wipe(key_id)
    return Keyring(new.primary_id, keys)


def reload() -> Keyring:
    """The configured keyring, read again. For startup and commands. Raises `KeyringError` if it is invalid."""
    forget()
    return current()


def forget() -> None:
    """Drop the cached keyring, so that `current` reads it again."""
    global _cached, _refused
    _cached = _refused = None


def _configured_version() -> _Version:
    """Changes whenever the configured keyring changes. Raises `KeyringError` if none is configured."""
    document: str = settings.STRAKE_MASTER_KEYS
    if document:
        return (f"environment:{hash(document)}", 0, 0, 0, 0)
    path: str = settings.STRAKE_MASTER_KEYS_FILE
    if not path:
        raise KeyringError(
            "No master key is configured. Run `manage.py create_master_key --file PATH` and set "
            "STRAKE_MASTER_KEYS_FILE to that path."
        )
    try:
        status = os.stat(path)
    except OSError:
        return (path, 0, 0, 0, 0)
    return (path, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)


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
