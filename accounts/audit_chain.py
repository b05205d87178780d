"""The hash chain of the audit log, and its signed checkpoints. Needs no Django and no database.

An event's content and its nonce have a hash of their own. A link of the chain binds that hash to the event's number,
its time, and the hash of the link before:

    content_hash = SHA-256("strake/audit/content/v1\\n" + JCS(content and nonce))
    hash         = SHA-256("strake/audit/link/v1\\n" + JCS({"at", "content_hash", "previous_hash", "sequence"}))

JCS is the canonical JSON of RFC 8785. Content and nonce can be erased and the chain still verifies. The 16 random bytes
of the nonce go with the content, so nobody can find out what was erased by hashing guesses.

A checkpoint is a signed note (https://c2sp.org/signed-note) in the form of https://c2sp.org/tlog-checkpoint: origin,
number of events, hash, and as an extension line the time. The hash is that of the last link, not a Merkle root.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import rfc8785

NONCE_BYTES = 16
GENESIS = "0" * 64  # the hash before the first link
CONTENT_FIELDS = (
    *("account", "actor", "action", "subject_type", "subject_id", "subject_label", "ip", "via", "details", "nonce"),
)
MAX_NOTE_BYTES = 64 * 1024
_CONTENT_DOMAIN = b"strake/audit/content/v1\n"
_LINK_DOMAIN = b"strake/audit/link/v1\n"
_ED25519 = b"\x01"  # the signature type of signed notes
_NOTE = re.compile(r"(?P<text>(?:[^\n]+\n)+)\n(?P<signatures>(?:\u2014 [^ \n]+ [^ \n]+\n)+)")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)

Verify = Callable[[bytes, bytes], bool]  # whether the first argument is the signature of the second


class NotACheckpoint(ValueError):
    """The text is not a checkpoint, or not one that this key signed. The message says which."""


class NotSignedWithKey(NotACheckpoint):
    """The note has no signature of this key, and maybe those of others."""


class NotAKey(ValueError):
    """The text is not a verifier key. The message says what one looks like."""


def content_hash(content: Mapping[str, Any]) -> str:
    """Return the hash of an event's content. `content` has exactly `CONTENT_FIELDS`. Raises `ValueError`."""
    if set(content) != set(CONTENT_FIELDS):
        raise ValueError("fields are missing or unknown")
    return hashlib.sha256(_CONTENT_DOMAIN + rfc8785.dumps(dict(content))).hexdigest()


def link_hash(*, sequence: int, at: str, content_hash: str, previous_hash: str) -> str:
    """Return the hash of one link. `at` is as `timestamp` writes it."""
    link: dict[str, Any] = {
        "at": at,
        "content_hash": content_hash,
        "previous_hash": previous_hash,
        "sequence": sequence,
    }
    return hashlib.sha256(_LINK_DOMAIN + rfc8785.dumps(link)).hexdigest()


def timestamp(at: datetime) -> str:
    """Return a time in UTC, with microseconds, such as `2026-11-30T09:00:00.000000Z`."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# --- Checkpoints ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key in the form of signed notes: `<name>+<key id>+<base64 of type and key>`."""

    name: str
    public_key: bytes

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a verifier key. Raises `NotAKey`."""
        parts = text.strip().split("+", 2)  # base64 may contain a plus
        decoded = _decoded(parts[2]) if len(parts) == 3 else b""
        if len(decoded) != 33 or decoded[:1] != _ED25519 or not is_key_name(parts[0]):
            raise NotAKey("A key looks like name+1a2b3c4d+AbC…: copy the whole line.")
        key = cls(parts[0], decoded[1:])
        if key.key_id.hex() != parts[1]:
            raise NotAKey("The key is damaged: its id does not fit. Copy the whole line.")
        return key

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()[:4]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key, in the notation of OpenSSH."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.public_key).digest()).rstrip(b"=").decode()

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self.public_key).decode()}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What one checkpoint says: at the time `at`, the audit log had `size` events, and `hash` was the last link's."""

    origin: str
    size: int
    hash: str
    at: str

    def text(self) -> str:
        """Return the text that is signed."""
        encoded = base64.b64encode(bytes.fromhex(self.hash)).decode()
        return f"{self.origin}\n{self.size}\n{encoded}\n{self.at}\n"


def is_key_name(name: str) -> bool:
    """Return whether a signed note may have this name for a key. The format also forbids Unicode spaces."""
    return bool(name) and "+" not in name and name.isprintable() and not any(map(str.isspace, name))


def write_note(checkpoint: Checkpoint, key: VerifierKey, sign: Callable[[bytes], bytes]) -> str:
    """Return the signed note of a checkpoint. `sign` returns the Ed25519 signature of bytes (RFC 8032)."""
    text = checkpoint.text()
    signature = base64.b64encode(key.key_id + sign(text.encode())).decode()
    return f"{text}\n\u2014 {key.name} {signature}\n"


def read_note(note: str, key: VerifierKey, verify: Verify) -> Checkpoint:
    """Return the checkpoint in a signed note.

    Signatures of other keys are ignored, as the format demands. Raises `NotACheckpoint`.
    """
    found = _NOTE.fullmatch(note) if len(note.encode()) <= MAX_NOTE_BYTES else None
    if found is None:
        raise NotACheckpoint("This is no signed note.")
    is_signed = False
    for line in found["signatures"].splitlines():
        _, name, encoded = line.split(" ")
        signature = _decoded(encoded)
        if name == key.name and signature[:4] == key.key_id:
            if not verify(signature[4:], found["text"].encode()):
                raise NotACheckpoint("The signature is wrong: the checkpoint was changed, or not signed with this key.")
            is_signed = True
    if not is_signed:
        raise NotSignedWithKey(f"The checkpoint was not signed with the key {key.name}+{key.key_id.hex()}.")
    checkpoint = _parse_text(found["text"])
    if checkpoint.origin != key.name:
        raise NotACheckpoint("The checkpoint is of another audit log.")
    return checkpoint


def _parse_text(text: str) -> Checkpoint:
    origin, *lines = text.splitlines()
    digest = _decoded(lines[1]) if len(lines) == 3 else b""
    if len(digest) != 32 or not _SIZE.fullmatch(lines[0]):
        raise NotACheckpoint("This note is no checkpoint of an audit log.")
    return Checkpoint(origin, int(lines[0]), digest.hex(), lines[2])


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
