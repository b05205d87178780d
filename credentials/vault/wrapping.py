"""Wraps data keys under master keys. `credentials.vault.unwrapping` does the opposite."""

from __future__ import annotations

import os
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from credentials.vault.envelope import IV_BYTES, WrappedKey, wrap_associated_data
from credentials.vault.keyring import Keyring


def wrap(
    data_key: bytes | bytearray, format: int, credential_id: UUID, master_key_id: str, ring: Keyring
) -> WrappedKey:
    """Encrypt a data key under one master key. Raises `UnknownMasterKey`."""
    iv = os.urandom(IV_BYTES)
    associated_data = wrap_associated_data(format, credential_id, master_key_id)
    wrapped = AESGCM(ring.key(master_key_id)).encrypt(iv, data_key, associated_data)
    return WrappedKey(master_key_id, wrapped, iv)
