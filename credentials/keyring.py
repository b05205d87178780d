"""Master keys by id. They live outside the database and outside the code: in a file or an environment variable.

The document, in `STRAKE_MASTER_KEYS_FILE` (mode 0600) or `STRAKE_MASTER_KEYS`:

    {"primary": "2026-11-a", "keys": {"2026-11-a": "<base64 of 32 bytes>"}}

New data keys are wrapped under the primary; the others only open what was wrapped under them. A key is always chosen
by its id, never by trial: trial would let one ciphertext open under two keys, since GCM does not commit to its key.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from django.conf import settings

from credentials.errors import KeyringError, UnknownMasterKey

logger = logging.getLogger(__name__)

KEY_BYTES = 32
MAX_DOCUMENT_BYTES = 64 * 1024
_CHECK_VALUE_CONTEXT = b"strake/master-key/check-value/v1"
# Shorter than any spelling of 32 bytes (43 characters in base64, 64 in hex), so that a key which was written where
# an id belongs is never taken for one and quoted in a message.
_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", re.ASCII)


@dataclass(frozen=True, slots=True, eq=False)
class Keyring:
    """An immutable set of master keys. `repr` shows ids only."""

    primary_id: str
    ids: tuple[str, ...] = field(init=False)
    _keys: Mapping[str, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_keys", MappingProxyType(dict(self._keys)))
        object.__setattr__(self, "ids", tuple(self._keys))

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
    except KeyringError:
        raise
    except (ValueError, RecursionError):  # the error of `json` quotes what it could not read
        raise KeyringError("The master keys are not valid JSON.") from None
    if not isinstance(data, dict) or data.keys() != {"primary", "keys"}:
        raise KeyringError('The master keys must look like {"primary": "ID", "keys": {"ID": "<base64>"}}.')
    primary, keys = data["primary"], data["keys"]
    if not isinstance(keys, dict) or not keys:
        raise KeyringError("The master keys document holds no key. Make one with: manage.py create_master_key")
    decoded = {_checked_id(key_id): _decode(key_id, value) for key_id, value in keys.items()}
    if len(set(decoded.values())) != len(decoded):
        raise KeyringError("Two master key ids hold the same key. Give every id a key of its own.")
    if _checked_id(primary) not in decoded:
        raise KeyringError(f"The primary master key {primary!r} is not among the keys.")
    return Keyring(primary, decoded)


def read_file(path: Path) -> Keyring:
    """Read a keyring file, which nobody but its owner may read. Raises `KeyringError`."""
    try:
        # Non-blocking, or a named pipe in the file's place would hang the start for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise KeyringError(f"The master keys file {path} is not a regular file.")
            if status.st_mode & 0o077:
                raise KeyringError(f"{path} is open to other users of this machine. Run: chmod 600 {path}")
            if status.st_uid not in {os.geteuid(), 0} and os.geteuid() != 0:
                raise KeyringError(f"{path} belongs to another user. Run: chown {os.geteuid()} {path}")
            content = file.read(MAX_DOCUMENT_BYTES + 1)
    except FileNotFoundError:
        raise KeyringError(
            f"The master keys file {path} does not exist. Restore it from your backup; for a new installation "
            "run: manage.py create_master_key"
        ) from None
    except PermissionError:
        raise KeyringError(
            f"The master keys file {path} cannot be read: it, or its folder, belongs to another user. "
            f"Run: chown {os.geteuid()} {path}"
        ) from None
    except OSError as error:
        raise KeyringError(f"The master keys file {path} cannot be read: {error.strerror}.") from None
    if len(content) > MAX_DOCUMENT_BYTES:
        raise KeyringError(f"The master keys file {path} is too large to be one.")
    try:
        return parse(content.decode())
    except UnicodeDecodeError:
        raise KeyringError(f"The master keys file {path} is not UTF-8 text.") from None


def change_file(path: Path, change: Callable[[Keyring | None], str]) -> Keyring:
    """Replace the file by the document that `change` makes of its keyring (None: no file yet), and return the new one.

    Concurrent changes wait for each other; a reader, or a crash at any moment, sees the old file or the new one and
    never half of one. Owner and links stay, mode is 0600. Raises `KeyringError`, with the file as it was.
    """
    path = Path(os.path.realpath(path))  # through a link, or the link itself would be replaced
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KeyringError(f"The folder {path.parent} cannot be used: {error.strerror}.") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # released when the descriptor closes, however the process ends
        document = change(read_file(path) if path.exists() else None)
        keyring = parse(document)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                os.fchmod(descriptor, 0o600)
                if path.exists():
                    # Root may add a key to the file of the service's user, which must still be able to read it.
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
    return keyring


_Version = tuple[str, int, int, int, int]
_cached: tuple[_Version, Keyring] | None = None
_refused: _Version | None = None


def current() -> Keyring:
    """The configured keyring; a changed file is picked up by its status, so servers need no restart.

    One `stat` call each time: cheap beside the database read of the same request. A file that goes missing or is
    damaged while a server runs is reported in the log, and the server goes on with the keys it has: a slip in editing
    must not stop every request. Raises `KeyringError` where no keyring was ever read.
    """
    global _cached, _refused
    version = _configured_version()
    if _cached is not None and version in {_cached[0], _refused}:
        return _cached[1]
    try:
        keyring = parse(settings.STRAKE_MASTER_KEYS) if settings.STRAKE_MASTER_KEYS else read_file(Path(version[0]))
    except KeyringError as error:
        if _cached is None or _cached[0][0] != version[0]:
            raise
        logger.error("The master keys changed and are refused; the ones read before stay in use. %s", error)  # noqa: TRY400
        _refused = version
        return _cached[1]
    _cached, _refused = (version, keyring), None
    return keyring


def configured() -> Keyring:
    """The keyring as it is configured now, read anew. For starts and commands. Raises `KeyringError`."""
    forget()
    return current()


def forget() -> None:
    """Drop the cached keyring; for tests and for commands that have just rewritten the file."""
    global _cached, _refused
    _cached = _refused = None


def _configured_version() -> _Version:
    """What tells one state of the configured keyring from another. Raises `KeyringError` where none is configured."""
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
    keys[_checked_id(new_id)] = secrets.token_bytes(KEY_BYTES)
    return _document(new_id if primary or keyring is None else keyring.primary_id, keys)


def document_without(keyring: Keyring, key_id: str) -> str:
    """The JSON document of `keyring` without one key, which must not be the primary. Raises `KeyringError`."""
    keyring.key(key_id)
    if key_id == keyring.primary_id:
        raise KeyringError(f"{key_id} is the primary master key. Make another one first: manage.py create_master_key")
    return _document(keyring.primary_id, {known: keyring.key(known) for known in keyring.ids if known != key_id})


def _document(primary_id: str, keys: Mapping[str, bytes]) -> str:
    encoded = {key_id: base64.b64encode(key).decode() for key_id, key in keys.items()}
    return json.dumps({"primary": primary_id, "keys": encoded}, indent=2)


def _checked_id(key_id: object) -> str:
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise KeyringError(
            "A master key id must be 1 to 32 letters, digits, dots, dashes or underscores, such as 2026-11-a."
        )
    return key_id


def _decode(key_id: str, value: object) -> bytes:
    try:
        key = base64.b64decode(value if isinstance(value, str) else "!", validate=True)
    except ValueError:
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
