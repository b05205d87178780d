"""The keyring file: who may read it, and how commands change it."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from accounts import secret_files
from credentials.errors import KeyringError, KeyringMissing
from credentials.vault import keyring_document
from credentials.vault.keyring_document import Keyring
from credentials.vault.sealing import wipe


def read_file(path: Path) -> Keyring:
    """Read a keyring file. Raises `KeyringError`, also if it is exposed to others (`accounts.secret_files`)."""
    try:
        # Without O_NONBLOCK, opening a named pipe would block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb"):
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise KeyringError(f"The master keys file {path} is not a regular file.")
            if problem := secret_files.exposure(path, status):
                raise KeyringError(problem)
            if status.st_uid not in {os.geteuid(), 0} and os.geteuid() != 0:
                raise KeyringError(f"{path} belongs to another user. Run: chown {os.geteuid()} {path}")
            content = bytearray(keyring_document.MAX_BYTES + 1)
            size = 0
            while count := os.readv(descriptor, [memoryview(content)[size:]]):
                size += count
    except FileNotFoundError:
        raise KeyringMissing(f"The master keys file {path} does not exist.") from None
    except PermissionError:
        raise KeyringError(
            f"The master keys file {path} cannot be read: it, or its folder, belongs to another user. "
            f"Run: chown {os.geteuid()} {path}"
        ) from None
    except OSError as error:
        raise KeyringError(f"The master keys file {path} cannot be read: {error.strerror}.") from None
    if size > keyring_document.MAX_BYTES:
        raise KeyringError(
            f"The master keys file {path} is too large (at most {keyring_document.MAX_BYTES // 1024} KiB)."
        )
    try:
        return keyring_document.parse_bytes(memoryview(content)[:size])
    except UnicodeDecodeError:
        raise KeyringError(f"The master keys file {path} is not UTF-8 text.") from None
    finally:
        wipe(content)


def change_file(path: Path, change: Callable[[Keyring | None], str]) -> Keyring:
    """Replace the keyring file and return the new keyring.

    `change` receives the present keyring, or None if there is no file, and returns the new document. Concurrent changes
    wait for each other. A reader sees the old file or the new one, even after a crash. The owner and a symbolic link
    stay, and the mode is 0600, or 0640 as before. Raises `KeyringError` and leaves the file unchanged.
    """
    path = Path(os.path.realpath(path))  # os.replace would replace a symbolic link instead of its target.
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KeyringError(f"The folder {path.parent} cannot be used: {error.strerror}.") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # Released when the descriptor closes, even if the process is killed.
        document = change(read_file(path) if path.exists() else None)
        ring = keyring_document.parse(document)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                if path.exists():
                    _give_as_before(descriptor, path.stat())
                file.write(document + "\n")
                file.flush()
                os.fsync(descriptor)
            os.replace(draft, path)
            os.fsync(folder)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise KeyringError(
            f"The master keys file {path} cannot be written: {error.strerror}. If it comes from elsewhere, such as a "
            "mounted Secret, write the new document to another place with --output."
        ) from None
    finally:
        os.close(folder)
    return ring


def write_new(document: str, path: Path) -> None:
    """Write a document to a new file for its owner only. Raises `KeyringError`, also if the file exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(document + "\n")
    except FileExistsError:
        raise KeyringError(f"{path} exists. Remove it, or choose another file.") from None
    except OSError as error:
        raise KeyringError(f"{path} cannot be written: {error.strerror}.") from None


def _give_as_before(descriptor: int, before: os.stat_result) -> None:
    """Give the owner, and a group that could read it, the new file too: root may change it for a service's user."""
    is_shared = bool(before.st_mode & stat.S_IRGRP)
    if before.st_uid != os.fstat(descriptor).st_uid or is_shared:
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, 0o640 if is_shared else 0o600)
