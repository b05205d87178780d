"""Wraps data keys with this process's own keyring: in the proxy half, and in commands."""

from __future__ import annotations

from uuid import UUID

from credentials.vault import keyring, wrapping
from credentials.vault.wrap_protocol import KeyIds, Wrapped


class LocalKeyWrapper:
    """A `credentials.vault.wrapper.KeyWrapper`."""

    def wrap(self, format: int, credential_id: UUID, data_key: bytes | bytearray) -> Wrapped:
        ring = keyring.current()
        wrapped = wrapping.wrap(data_key, format, credential_id, ring.primary_id, ring)
        return Wrapped(wrapped, ring.check_value(ring.primary_id))

    def keys(self) -> KeyIds:
        ring = keyring.current()
        return KeyIds(ring.primary_id, ring.ids)
