"""Wraps data keys: the protocol that sealing uses.

`STRAKE_KEY_WRAPPER` names the class. Commands and the proxy half use `credentials.vault.local_wrapper`, and the web
half uses `credentials.vault.socket_wrapper`. Neither can unwrap anything.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol
from uuid import UUID

from django.conf import settings
from django.utils.module_loading import import_string

from credentials.errors import VaultUnavailable
from credentials.vault.wrap_protocol import KeyIds, Wrapped


class KeyWrapper(Protocol):
    """Wraps data keys under the primary master key, and knows the ids of the master keys. It opens nothing."""

    def wrap(self, format: int, credential_id: UUID, data_key: bytes | bytearray) -> Wrapped:
        """Wrap the data key of one credential. Raises `KeyringError` or `VaultUnavailable`."""

    def keys(self) -> KeyIds:
        """The ids of the master keys. Raises `KeyringError` or `VaultUnavailable`."""


def current() -> KeyWrapper:
    """The configured wrapper, created once per process."""
    return _load(settings.STRAKE_KEY_WRAPPER)


def known_ids() -> tuple[str, ...] | None:
    """The ids of the master keys, or None if the vault can't be reached."""
    try:
        return current().keys().ids
    except VaultUnavailable:
        return None


@cache
def _load(path: str) -> KeyWrapper:
    wrapper: KeyWrapper = import_string(path)()
    return wrapper
