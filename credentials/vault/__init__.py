"""The vault: envelope encryption of provider keys.

Nothing in this package opens a provider key. Only `proxy.unsealing` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from credentials.vault.envelope import Binding, SealedRecord
from credentials.vault.provider_key import ProviderKey


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed key that may be saved once the use of its master key is registered. `binding` is what it is bound to."""

    binding: Binding
    _record: SealedRecord
    _check_value: bytes

    def register(self) -> SealedRecord:
        """Return the record, for the current transaction to save. Raises `WrongMasterKey` or `RetiredMasterKey`."""
        # The settings import this package before models can be loaded.
        from credentials.vault import key_registry

        key_registry.confirm(self._record.wrap.master_key_id, self._check_value)
        return self._record

    def check(self) -> SealedRecord:
        """Return the record of something that can be obtained again. Registers and locks nothing.

        Retiring a master key deletes what was saved with this meanwhile. Raises `WrongMasterKey` or `RetiredMasterKey`.
        """
        from credentials.vault import key_registry

        key_registry.check(self._record.wrap.master_key_id, self._check_value)
        return self._record


def seal(key: ProviderKey, binding: Binding) -> Sealed:
    """Seal one provider key: encrypt it under a new data key, and have that wrapped under the primary master key.

    This is the only function that seals. It may wait for the proxy half, so call it before the transaction that saves
    the record. Raises `KeyringError` or `VaultUnavailable`.
    """
    from credentials.vault import sealing, wrapper

    encrypted = sealing.encrypt_key(key, binding)
    try:
        wrapped = wrapper.current().wrap(binding.format, binding.credential_id, encrypted.data_key)
    finally:
        sealing.wipe(encrypted.data_key)
    record = SealedRecord(binding.format, wrapped.key, encrypted.ciphertext, encrypted.iv)
    return Sealed(binding, record, wrapped.check_value)
