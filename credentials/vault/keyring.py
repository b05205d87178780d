"""The keyring of this process: master keys by id, from a file, a command or an environment variable.

It never comes from the database or the code. Exactly one of `STRAKE_MASTER_KEYS_FILE`, `STRAKE_MASTER_KEYS_COMMAND` and
`STRAKE_MASTER_KEYS` is set. `credentials.vault.keyring_document` says what it looks like.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from time import monotonic

from django.conf import settings

from credentials.errors import KeyringError, KeyringMissing
from credentials.vault import keyring_command, keyring_file
from credentials.vault.keyring_document import Keyring as Keyring
from credentials.vault.keyring_document import new_document as new_document
from credentials.vault.keyring_document import parse as parse

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.05  # how often `recent` looks for a change of the file, at most

_Version = tuple[str, int, int, int, int]
_cached: tuple[_Version, Keyring] | None = None
_refused: _Version | None = None
_failure: tuple[_Version, str] | None = None  # of the command, which is not run again for each request
_schedule = keyring_command.Schedule()
_looked_at = 0.0
_loading = threading.Lock()


def current() -> Keyring:
    """The configured keyring. Costs one `stat` call, and reads the file again after a change.

    If the file goes missing or becomes invalid while a server runs, the error is logged and the previous keys stay in
    use, so that a mistake in an edit does not stop every request. Raises `KeyringError` if no keyring was ever read.
    A command is run once. `poll` runs it again.

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
    ring = current()
    if needs is not None and needs not in ring.ids:
        _schedule.want(needs)
    return ring


def poll() -> Keyring:
    """The keyring as `current` returns and raises, for a thread of a server that calls this every second.

    Runs `STRAKE_MASTER_KEYS_COMMAND` again when that is due, which may take as long as the command does.
    """
    if settings.STRAKE_MASTER_KEYS_COMMAND and _schedule.is_due():
        _run_again(_configured_version())
    return current()


def _run_again(version: _Version) -> None:
    global _cached, _failure
    try:
        ring = keyring_command.read(settings.STRAKE_MASTER_KEYS_COMMAND)  # without the lock, which requests need
    except KeyringError as error:
        _schedule.ran(ok=False)
        if _failure != (version, str(error)):
            _complain("The master keys cannot be read again.", error)
        _failure = (version, str(error))
        return
    with _loading:
        _cached, _failure = (version, ring if _cached is None else _successor(_cached[1], ring)), None
    _schedule.ran(ok=True)


def _load(version: _Version) -> Keyring:
    global _cached, _refused, _failure
    if _cached is not None and version in {_cached[0], _refused}:
        return _cached[1]
    if _failure is not None and _failure[0] == version:
        raise KeyringError(_failure[1])
    try:
        ring = _read(version)
    except KeyringError as error:
        if settings.STRAKE_MASTER_KEYS_COMMAND:
            _failure = (version, str(error))
            _schedule.ran(ok=False)
        if _cached is None or _cached[0][0] != version[0]:
            raise
        _complain("The changed master keys are invalid.", error)
        _refused = version
        return _cached[1]
    if _cached is not None:
        ring = _successor(_cached[1], ring)
    _cached, _refused = (version, ring), None
    return ring


def _complain(problem: str, error: KeyringError) -> None:
    logger.error("%s The previous ones stay in use. %s", problem, error)


def _read(version: _Version) -> Keyring:
    if settings.STRAKE_MASTER_KEYS_COMMAND:
        ring = keyring_command.read(settings.STRAKE_MASTER_KEYS_COMMAND)
        _schedule.ran(ok=True)
        return ring
    if settings.STRAKE_MASTER_KEYS:
        return parse(settings.STRAKE_MASTER_KEYS)
    return keyring_file.read_file(Path(version[0]))


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
    global _cached, _refused, _failure
    _cached = _refused = _failure = None


def _configured_version() -> _Version:
    """Changes whenever the configured keyring may have changed. Raises `KeyringError` if none is configured."""
    if command := settings.STRAKE_MASTER_KEYS_COMMAND:
        return (f"command:{command}", 0, 0, 0, 0)
    document: str = settings.STRAKE_MASTER_KEYS
    if document:
        return (f"environment:{hash(document)}", 0, 0, 0, 0)
    path: str = settings.STRAKE_MASTER_KEYS_FILE
    if not path:
        raise KeyringMissing(
            "No master key is configured. Set STRAKE_MASTER_KEYS_FILE to the path of the keyring, or for a new "
            "installation run: manage.py create_master_key --file PATH"
        )
    try:
        status = os.stat(path)
    except OSError:
        return (path, 0, 0, 0, 0)
    return (path, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
