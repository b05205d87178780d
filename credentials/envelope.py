"""The sealed record and the two strings it is bound to.

Envelope encryption: a fresh 256-bit data key (DEK) seals one provider key by AES-256-GCM, and the master key wraps the
DEK by AES-256-GCM (NIST SP 800-38D). Both seals carry associated data, so that a record which is moved to another row,
or whose destination is edited, no longer opens. Without that, "point it at my URL and call it" would be a way to read
a key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

FORMAT = 1
IV_BYTES = 12  # the only length SP 800-38D uses directly as a counter block; `cryptography` would take 8 to 128


@dataclass(frozen=True, slots=True)
class Binding:
    """Everything a sealed key is bound to: whose it is, where it stands, and where it may be sent."""

    credential_id: UUID
    endpoint_id: UUID
    owner_id: UUID
    provider: str
    destination_url: str
    header_name: str
    header_template: str

    def data_associated_data(self, format: int) -> bytes:
        return _join(
            b"strake/credential",
            format.to_bytes(2),
            self.credential_id.bytes,
            self.endpoint_id.bytes,
            self.owner_id.bytes,
            self.provider.encode(),
            self.destination_url.encode(),
            self.header_name.encode(),
            self.header_template.encode(),
        )


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key under a master key: what a master-key rotation rewrites."""

    master_key_id: str
    wrapped_dek: bytes = field(repr=False)
    wrapped_dek_iv: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A provider key under a data key, and that data key under a master key."""

    format: int
    wrap: WrappedKey
    ciphertext: bytes = field(repr=False)
    iv: bytes = field(repr=False)


def stored_bytes(value: object) -> bytes:
    """A binary column as `bytes`. SQLite takes any type; what is none comes back empty, which opens nothing."""
    return bytes(value) if isinstance(value, bytes | memoryview) else b""


def wrap_associated_data(format: int, credential_id: UUID, master_key_id: str) -> bytes:
    return _join(b"strake/data-key", format.to_bytes(2), credential_id.bytes, master_key_id.encode())


def _join(*fields: bytes) -> bytes:
    """Each field behind its length, so that no two different lists give the same bytes."""
    return b"".join(len(field).to_bytes(4) + field for field in fields)
