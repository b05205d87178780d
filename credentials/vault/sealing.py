"""The encryption of provider keys under data keys. Nothing here knows a master key, or decrypts.

`credentials.vault.wrapping` wraps data keys, and `proxy.unsealing` opens provider keys.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from credentials.vault.envelope import IV_BYTES, Binding
from credentials.vault.provider_key import ProviderKey

DATA_KEY_BYTES = 32
TAG_BYTES = 16


class Encrypted(NamedTuple):
    """An encrypted provider key, and its data key. The caller must wrap and then `wipe` the data key."""

    data_key: bytearray
    ciphertext: bytes
    iv: bytes


def encrypt_key(key: ProviderKey, binding: Binding) -> Encrypted:
    """Encrypt one provider key under a fresh data key.

    A data key encrypts exactly once, so a new provider key always gets a new data key and new IVs. Only
    `credentials.vault.seal` calls this, because the use of the master key must be registered too.
    """
    plaintext = key.reveal().encode("ascii")
    data_key = bytearray(AESGCM.generate_key(256))
    iv = os.urandom(IV_BYTES)
    ciphertext = AESGCM(data_key).encrypt(iv, plaintext, binding.data_associated_data(binding.format))
    return Encrypted(data_key, ciphertext, iv)


def wipe(secret: bytearray) -> None:
    """Overwrite a secret in place. `bytes` and `str` cannot be overwritten, so keep secrets out of them."""
    secret[:] = bytearray(len(secret))  # `bytes` would be copied to a `bytearray` first
