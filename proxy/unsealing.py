"""Opens sealed provider keys. Nothing else does, and an import contract keeps this module inside the proxy."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from credentials.errors import CannotOpen
from credentials.vault.envelope import IV_BYTES, Binding, SealedRecord
from credentials.vault.keyring import Keyring
from credentials.vault.sealing import TAG_BYTES, wipe
from credentials.vault.unwrapping import decrypt


def open_key(sealed: SealedRecord, binding: Binding, ring: Keyring) -> bytearray:
    """The provider key. The caller must hold it only in a local variable, and wipe it.

    Raises `UnknownMasterKey` if the keyring lacks the master key, and `CannotOpen` for every other cause.
    """
    if len(sealed.iv) != IV_BYTES or len(sealed.ciphertext) < TAG_BYTES:
        raise CannotOpen
    associated_data = binding.data_associated_data(sealed.format)
    data_key = decrypt(sealed.wrap, binding.wrap_associated_data(sealed.wrap.master_key_id), ring)
    key = bytearray(len(sealed.ciphertext) - TAG_BYTES)
    try:
        AESGCM(data_key).decrypt_into(sealed.iv, sealed.ciphertext, associated_data, key)
    except InvalidTag:
        wipe(key)  # GCM decrypts before it compares the tag.
        raise CannotOpen from None
    finally:
        wipe(data_key)
    return key


def is_authentic(sealed: SealedRecord, binding: Binding, ring: Keyring) -> bool:
    """True if a record opens with its binding. The key is wiped at once. Raises `UnknownMasterKey`."""
    try:
        wipe(open_key(sealed, binding, ring))
    except CannotOpen:
        return False
    return True
