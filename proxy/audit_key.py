"""The key that signs checkpoints of the audit log: one line in the file that STRAKE_AUDIT_KEY_FILE names.

    PRIVATE+KEY+<name>+<key id>+<base64 of type and key>

This is the form of Go's golang.org/x/mod/sumdb/note. Only the proxy half and operators' commands read the file. In the
embedded configuration it is created in the vault folder when the first checkpoint is due.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings

from accounts.audit_chain import VerifierKey, is_key_name

MAX_BYTES = 1024
_PREFIX = "PRIVATE+KEY+"
_ED25519 = b"\x01"


class AuditKeyError(Exception):
    """There is no usable key. The message says what to do, and quotes nothing of the file."""


class NoAuditKey(AuditKeyError):
    """No key is configured, or its file does not exist."""


@dataclass(frozen=True, slots=True)
class AuditKey:
    """A signing key, for one checkpoint."""

    public: VerifierKey
    private: Ed25519PrivateKey = field(repr=False)


def load() -> AuditKey:
    """Read the configured key. In the embedded configuration, create it if it is missing. Raises `AuditKeyError`."""
    path = configured()
    if settings.STRAKE_EMBEDDED and path == settings.STRAKE_HOME.audit_key and not path.exists():
        with contextlib.suppress(FileExistsError):  # another process was first
            create(path)
    return read(path)


def configured() -> Path:
    """Return the path of the key file. Raises `NoAuditKey`."""
    if not settings.STRAKE_AUDIT_KEY_FILE:
        raise NoAuditKey(
            "STRAKE_AUDIT_KEY_FILE is not set, so no checkpoint of the audit log is signed. Run: "
            "manage.py create_audit_key --file PATH"
        )
    return Path(settings.STRAKE_AUDIT_KEY_FILE)


def create(path: Path, name: str = "") -> VerifierKey:
    """Write a new key, by default with the name of this installation. Raises `OSError`, also if the file exists."""
    private = Ed25519PrivateKey.generate()
    public = VerifierKey(name or f"{settings.STRAKE_BASE.hostname}/audit", private.public_key().public_bytes_raw())
    encoded = base64.b64encode(_ED25519 + private.private_bytes_raw()).decode()
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(f"{_PREFIX}{public.name}+{public.key_id.hex()}+{encoded}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # fails if the file exists
    finally:
        draft.unlink(missing_ok=True)
    return public


def read(path: Path) -> AuditKey:
    """Read a key file. Raises `AuditKeyError`, also if users besides the owner and root can read it."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o037:
                raise AuditKeyError(f"Other users of this machine can read or write {path}. Run: chmod 600 {path}")
            line = file.read(MAX_BYTES).decode(errors="replace").strip()
    except FileNotFoundError:
        raise NoAuditKey(
            f"The key that signs checkpoints, {path}, does not exist. Restore it from your backup. For a new one run: "
            f"manage.py create_audit_key --file {path}"
        ) from None
    except OSError as error:
        raise AuditKeyError(f"The key that signs checkpoints, {path}, cannot be read: {error.strerror}.") from None
    name, _, rest = line.removeprefix(_PREFIX).partition("+")
    key_id, _, encoded = rest.partition("+")
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if line.startswith(_PREFIX) and is_key_name(name) and decoded[:1] == _ED25519 and len(decoded) == 33:
        private = Ed25519PrivateKey.from_private_bytes(decoded[1:])
        public = VerifierKey(name, private.public_key().public_bytes_raw())
        if public.key_id.hex() == key_id:
            return AuditKey(public, private)
    raise AuditKeyError(f"The key that signs checkpoints, {path}, is damaged. Restore it from your backup.")
