"""The database's record of master keys: which key each id stands for, and which keys are retired."""

from __future__ import annotations

import hmac
from typing import Protocol

from django.db import connection

from credentials.errors import RetiredMasterKey, WrongMasterKey
from credentials.vault.models import MasterKeyCheck


class CheckValues(Protocol):
    """The ids of some master keys, and what identifies each key without revealing it. A `Keyring` is one."""

    @property
    def ids(self) -> tuple[str, ...]: ...

    def check_value(self, key_id: str) -> bytes: ...


def confirm(key_id: str, check_value: bytes) -> None:
    """Allow the current transaction to save what was wrapped under `key_id`, and register the key's first use.

    Locks the key's row until the transaction ends. So no key can be retired between a seal and its commit, not even if
    the sealing process has an outdated keyring. Raises `WrongMasterKey` or `RetiredMasterKey`.
    """
    row = MasterKeyCheck.objects.select_for_update().filter(pk=key_id)
    check = row.first()
    if check is None:
        MasterKeyCheck.objects.get_or_create(pk=key_id, defaults={"check_value": check_value})
        check = row.get()
    _compare(check, check_value)


def check(key_id: str, check_value: bytes) -> None:
    """Raise `WrongMasterKey` or `RetiredMasterKey` as `confirm` does. A key that was never used is fine."""
    if (stored := MasterKeyCheck.objects.filter(pk=key_id).first()) is not None:
        _compare(stored, check_value)


def _compare(check: MasterKeyCheck, check_value: bytes) -> None:
    if not hmac.compare_digest(bytes(check.check_value), check_value):
        raise WrongMasterKey(check.key_id)
    if check.retired_at is not None:
        raise RetiredMasterKey(check.key_id)


def wrong_ids(ring: CheckValues) -> list[str]:
    """The ids in `ring` that stood for another key when they were first used."""
    stored = MasterKeyCheck.objects.filter(pk__in=ring.ids).values_list("key_id", "check_value")
    return [key_id for key_id, value in stored if not hmac.compare_digest(bytes(value), ring.check_value(key_id))]


def is_retired(key_id: str) -> bool:
    """True if `retire_master_key` has ended sealing under this id."""
    return MasterKeyCheck.objects.filter(pk=key_id, retired_at__isnull=False).exists()


def tables_exist() -> bool:
    """True if the database has been migrated. The first master key is created before that."""
    needed = {"accounts_auditevent", "credentials_credential", "credentials_masterkeycheck"}
    return needed <= set(connection.introspection.table_names())
