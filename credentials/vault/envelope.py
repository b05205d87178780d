"""The sealed record and the associated data that binds it to its place.

Envelope encryption: a fresh 256-bit data key (DEK) encrypts one provider key with AES-256-GCM, and a master key wraps
the DEK with AES-256-GCM (NIST SP 800-38D). Both carry associated data, so a record no longer opens after somebody moves
it to another row or edits its destination. Otherwise whoever can write to the database could read a key by pointing it
at a server that they control.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from uuid import UUID

from credentials.errors import CannotOpen

FORMAT = 1  # a key in one header
FORMAT_WITH_EXTRAS = 2  # bound to `Binding.extras` too
FORMATS = frozenset({FORMAT, FORMAT_WITH_EXTRAS})
# SP 800-38D section 7.1 uses only 96-bit IVs directly as a counter block. `cryptography` accepts 8 to 128 bytes.
IV_BYTES = 12


@dataclass(frozen=True)
class Binding:
    """Everything that a sealed key is bound to: its row, its owner, and the destination it may be sent to.

    `extras` is what `extras_of` returns, and "" for a key that is sent as it is in one header.
    """

    credential_id: UUID
    endpoint_id: UUID
    owner_id: UUID
    provider: str
    destination_url: str
    header_name: str
    header_template: str
    extras: str = ""

    @cached_property
    def format(self) -> int:
        """The format in which a key is sealed with this binding."""
        return FORMAT_WITH_EXTRAS if self.extras else FORMAT

    def data_associated_data(self, format: int) -> bytes:
        """The associated data of the encrypted provider key. Raises `CannotOpen` if another format binds this."""
        if format != self.format:
            raise CannotOpen
        return self._data_associated_data

    def wrap_associated_data(self, master_key_id: str) -> bytes:
        """The associated data of the wrapped data key."""
        if master_key_id not in self._of_master_key:
            self._of_master_key[master_key_id] = wrap_associated_data(self.format, self.credential_id, master_key_id)
        return self._of_master_key[master_key_id]

    @cached_property
    def _of_master_key(self) -> dict[str, bytes]:
        return {}

    @cached_property
    def _data_associated_data(self) -> bytes:
        return _join(
            b"strake/credential",
            self.format.to_bytes(2),
            self.credential_id.bytes,
            self.endpoint_id.bytes,
            self.owner_id.bytes,
            self.provider.encode(),
            self.destination_url.encode(),
            self.header_name.encode(),
            self.header_template.encode(),
            *((self.extras.encode(),) if self.extras else ()),
        )


def extras_of(kind: str, places: Sequence[Sequence[str]], parameters: Mapping[str, str]) -> str:
    """Return the canonical text of what else a key is bound to, or "" if it is static and has one place.

    `kind`, `places` and `parameters` are as in `models.Credential`.
    """
    if kind == "static" and not places and not parameters:
        return ""
    return json.dumps(
        [kind, [list(place) for place in places], dict(parameters)], sort_keys=True, separators=(",", ":")
    )


def derived_binding(source: Binding, source_iv: bytes) -> Binding:
    """What a token that was bought with a sealed key is bound to: everything that the key is, and the key's own IV.

    So it opens neither in place of the key nor after the key was replaced.
    """
    extras = json.dumps(["derived", source.extras, source_iv.hex()], separators=(",", ":"))
    return replace(source, extras=extras)


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key encrypted under a master key. A master-key rotation replaces only this part of a record."""

    master_key_id: str
    wrapped_dek: bytes = field(repr=False)
    wrapped_dek_iv: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """A provider key encrypted under a data key, with that data key wrapped. `models.SealedKey` stores it."""

    format: int
    wrap: WrappedKey
    ciphertext: bytes = field(repr=False)
    iv: bytes = field(repr=False)


def stored_bytes(value: object) -> bytes:
    """A binary column as `bytes`.

    SQLite accepts values of any type in any column. Any other type returns b"", which cannot be decrypted.
    """
    return bytes(value) if isinstance(value, bytes | memoryview) else b""


def wrap_associated_data(format: int, credential_id: UUID, master_key_id: str) -> bytes:
    """The associated data of a wrapped data key."""
    return _join(b"strake/data-key", format.to_bytes(2), credential_id.bytes, master_key_id.encode())


def _join(*fields: bytes) -> bytes:
    """Prefix each field with its length, so that no two different lists give the same bytes."""
    return b"".join(len(field).to_bytes(4) + field for field in fields)
