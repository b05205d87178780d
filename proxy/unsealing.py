"""The only opener of sealed provider keys. An import contract keeps it inside the proxy."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from credentials.envelope import IV_BYTES, Binding, SealedKey
from credentials.errors import CannotOpen
from credentials.keyring import Keyring
from credentials.sealing import TAG_BYTES, unwrap, wipe


def open_key(sealed: SealedKey, binding: Binding, keyring: Keyring) -> bytearray:
    """The provider key. The caller holds it in a local variable and nowhere else, and wipes it.

    Raises `UnknownMasterKey` where the keyring lacks the master key, else `CannotOpen` for every cause alike.
    """
    if len(sealed.iv) != IV_BYTES or len(sealed.ciphertext) < TAG_BYTES:
        raise CannotOpen
    data_key = unwrap(sealed.wrap, sealed.format, binding.credential_id, keyring)
    associated_data = binding.data_associated_data(sealed.format)
    key = bytearray(len(sealed.ciphertext) - TAG_BYTES)
    try:
        AESGCM(data_key).decrypt_into(sealed.iv, sealed.ciphertext, associated_data, key)
    except InvalidTag:
        wipe(key)  # decrypted before the tag was found to be wrong
        raise CannotOpen from None
    finally:
        wipe(data_key)
    return key


def is_authentic(sealed: SealedKey, binding: Binding, keyring: Keyring) -> bool:
    """Whether a record opens in the place it stands in. For `verify_vault`: the key itself is wiped at once.

    Raises `UnknownMasterKey`.
    """
    try:
        wipe(open_key(sealed, binding, keyring))
    except CannotOpen:
        return False
    return True
