"""Seal provider keys and rewrap data keys. Nothing here opens a provider key: `proxy.unsealing` alone does."""

from __future__ import annotations

import hmac
import os
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from credentials.envelope import FORMAT, IV_BYTES, Binding, SealedKey, WrappedKey, wrap_associated_data
from credentials.errors import CannotOpen, InvalidKey
from credentials.keyring import Keyring

DATA_KEY_BYTES = 32
TAG_BYTES = 16
MAX_KEY_LENGTH = 8192  # service-account style keys are long; header lines of 8 KiB pass everywhere


def clean_key(pasted: str) -> str:
    """The key as it will be sent: surrounding white space stripped, the rest visible ASCII. Raises `InvalidKey`.

    A line break inside would otherwise come back in the HTTP library's error message, key and all.
    """
    key = pasted.strip()
    if not key:
        raise InvalidKey("Paste the provider's API key.")
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidKey(f"That is longer than any API key ({MAX_KEY_LENGTH} characters at most).")
    if any(character.isspace() for character in key):
        raise InvalidKey("The key has spaces or line breaks inside. Copy it again, in one piece.")
    if not all("!" <= character <= "~" for character in key):
        raise InvalidKey("The key has characters that no API key has. Copy it again from the provider's page.")
    return key


def seal(key: str, binding: Binding, keyring: Keyring) -> SealedKey:
    """Seal one provider key under a fresh data key, and wrap that under the primary master key.

    A data key seals exactly once: a new key value means a new data key and new IVs. Raises `InvalidKey`.
    """
    plaintext = clean_key(key).encode("ascii")
    data_key = AESGCM.generate_key(256)
    iv = os.urandom(IV_BYTES)
    ciphertext = AESGCM(data_key).encrypt(iv, plaintext, binding.data_associated_data(FORMAT))
    wrap = _wrap(data_key, FORMAT, binding.credential_id, keyring.primary_id, keyring)
    return SealedKey(FORMAT, wrap, ciphertext, iv)


def rewrap(wrap: WrappedKey, format: int, credential_id: UUID, keyring: Keyring) -> WrappedKey:
    """The same data key under the primary master key. The result has been opened again and compared.

    Raises `UnknownMasterKey` or `CannotOpen`.
    """
    data_key = unwrap(wrap, format, credential_id, keyring)
    renewed = _wrap(data_key, format, credential_id, keyring.primary_id, keyring)
    again = unwrap(renewed, format, credential_id, keyring)
    same = hmac.compare_digest(again, data_key)
    wipe(data_key)
    wipe(again)
    if not same:
        raise CannotOpen
    return renewed


def unwrap(wrap: WrappedKey, format: int, credential_id: UUID, keyring: Keyring) -> bytearray:
    """The data key, 32 bytes, for the caller to `wipe`. Raises `UnknownMasterKey` or `CannotOpen`."""
    if format != FORMAT or len(wrap.wrapped_dek_iv) != IV_BYTES or len(wrap.wrapped_dek) != DATA_KEY_BYTES + TAG_BYTES:
        raise CannotOpen
    associated_data = wrap_associated_data(format, credential_id, wrap.master_key_id)
    data_key = bytearray(DATA_KEY_BYTES)
    try:
        AESGCM(keyring.key(wrap.master_key_id)).decrypt_into(
            wrap.wrapped_dek_iv, wrap.wrapped_dek, associated_data, data_key
        )
    except InvalidTag:
        wipe(data_key)  # decrypted before the tag was found to be wrong
        raise CannotOpen from None
    return data_key


def wipe(secret: bytearray) -> None:
    """Overwrite a secret in place. `bytes` and `str` cannot be: keep secrets out of them."""
    secret[:] = bytes(len(secret))


def _wrap(
    data_key: bytes | bytearray, format: int, credential_id: UUID, master_key_id: str, keyring: Keyring
) -> WrappedKey:
    iv = os.urandom(IV_BYTES)
    associated_data = wrap_associated_data(format, credential_id, master_key_id)
    wrapped = AESGCM(keyring.key(master_key_id)).encrypt(iv, data_key, associated_data)
    return WrappedKey(master_key_id, wrapped, iv)
