"""The only opener of sealed provider keys. An import contract keeps it inside the proxy."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from credentials.envelope import IV_BYTES, Binding, SealedKey
from credentials.errors import CannotOpen
from credentials.keyring import Keyring
from credentials.sealing import unwrap


def open_key(sealed: SealedKey, binding: Binding, keyring: Keyring) -> bytes:
    """The provider key, as bytes for a header. The caller holds it in a local variable and nowhere else.

    Raises `UnknownMasterKey` where the keyring lacks the master key, else `CannotOpen` for every cause alike.
    Best effort only: CPython cannot wipe `bytes`, so freed memory may hold copies for a while.
    """
    data_key = unwrap(sealed.wrap, sealed.format, binding.credential_id, keyring)
    if len(sealed.iv) != IV_BYTES:
        raise CannotOpen
    try:
        return AESGCM(data_key).decrypt(sealed.iv, sealed.ciphertext, binding.data_associated_data(sealed.format))
    except InvalidTag:
        raise CannotOpen from None


def is_authentic(sealed: SealedKey, binding: Binding, keyring: Keyring) -> bool:
    """Whether a record opens in the place it stands in. For `verify_vault`: the key itself is dropped at once.

    Raises `UnknownMasterKey`.
    """
    try:
        open_key(sealed, binding, keyring)
    except CannotOpen:
        return False
    return True
