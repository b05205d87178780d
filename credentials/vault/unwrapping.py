"""Unwraps and rewraps data keys. Import contracts keep the web half and the wrap service away from this module."""

from __future__ import annotations

import hmac
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from credentials.errors import CannotOpen
from credentials.vault.envelope import FORMATS, IV_BYTES, WrappedKey, wrap_associated_data
from credentials.vault.keyring import Keyring
from credentials.vault.sealing import DATA_KEY_BYTES, TAG_BYTES, wipe
from credentials.vault.wrapping import wrap


def rewrap(wrapped: WrappedKey, format: int, credential_id: UUID, ring: Keyring) -> WrappedKey:
    """Wrap the same data key under the primary master key, and verify that the result unwraps to it.

    Raises `UnknownMasterKey` or `CannotOpen`.
    """
    data_key = unwrap(wrapped, format, credential_id, ring)
    renewed = wrap(data_key, format, credential_id, ring.primary_id, ring)
    again = unwrap(renewed, format, credential_id, ring)
    same = hmac.compare_digest(again, data_key)
    wipe(data_key)
    wipe(again)
    if not same:
        raise CannotOpen
    return renewed


def unwrap(wrapped: WrappedKey, format: int, credential_id: UUID, ring: Keyring) -> bytearray:
    """The 32 bytes of a data key. The caller must `wipe` them. Raises `UnknownMasterKey` or `CannotOpen`."""
    if format not in FORMATS:
        raise CannotOpen
    return decrypt(wrapped, wrap_associated_data(format, credential_id, wrapped.master_key_id), ring)


def decrypt(wrapped: WrappedKey, associated_data: bytes, ring: Keyring) -> bytearray:
    """The 32 bytes of a data key, as `unwrap` returns and raises, for a caller that keeps the associated data."""
    if len(wrapped.wrapped_dek_iv) != IV_BYTES or len(wrapped.wrapped_dek) != DATA_KEY_BYTES + TAG_BYTES:
        raise CannotOpen
    data_key = bytearray(DATA_KEY_BYTES)
    try:
        ring.cipher(wrapped.master_key_id, AESGCM).decrypt_into(
            wrapped.wrapped_dek_iv, wrapped.wrapped_dek, associated_data, data_key
        )
    except InvalidTag:
        wipe(data_key)  # GCM decrypts before it compares the tag.
        raise CannotOpen from None
    return data_key
