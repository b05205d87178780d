"""What the database remembers of master keys: which key each id stands for, and which may seal no more."""

from __future__ import annotations

import hmac

from django.db import connection
from django.db.models import Count

from credentials import keyring
from credentials.errors import RetiredMasterKey, WrongMasterKey
from credentials.keyring import Keyring
from credentials.models import Credential, MasterKeyCheck


def confirm(key_id: str) -> None:
    """Make sure that what was just sealed or wrapped under `key_id` may be saved; remember a key's first use.

    Call it inside the transaction that saves. It holds the key's row until the transaction ends, so that a key cannot
    be retired between a seal and its commit, not even by a process whose keyring is out of date. Raises
    `UnknownMasterKey`, `WrongMasterKey` or `RetiredMasterKey`.
    """
    value = keyring.current().check_value(key_id)
    row = MasterKeyCheck.objects.select_for_update().filter(pk=key_id)
    check = row.first()
    if check is None:
        MasterKeyCheck.objects.get_or_create(pk=key_id, defaults={"check_value": value})
        check = row.get()
    if not hmac.compare_digest(bytes(check.check_value), value):
        raise WrongMasterKey(key_id)
    if check.retired_at is not None:
        raise RetiredMasterKey(key_id)


def wrong_ids(ring: Keyring) -> list[str]:
    """The ids in `ring` that stood for another key when they were first used."""
    stored = MasterKeyCheck.objects.filter(pk__in=ring.ids).values_list("key_id", "check_value")
    return [key_id for key_id, value in stored if not hmac.compare_digest(bytes(value), ring.check_value(key_id))]


def is_retired(key_id: str) -> bool:
    """Whether `retire_master_key` has ended the use of this id for sealing."""
    return MasterKeyCheck.objects.filter(pk=key_id, retired_at__isnull=False).exists()


def missing_ids(ring: Keyring) -> dict[str, int]:
    """How many credentials need each master key that `ring` lacks."""
    used = Credential.objects.exclude(master_key_id__in=ring.ids).values("master_key_id")
    return dict(used.annotate(rows=Count("pk")).values_list("master_key_id", "rows").order_by("master_key_id"))


def tables_exist() -> bool:
    """Whether the database has been migrated. The first master key is made before it has."""
    needed = {"accounts_auditevent", "credentials_credential", "credentials_masterkeycheck"}
    return needed <= set(connection.introspection.table_names())
