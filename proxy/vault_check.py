"""Checking that every sealed key opens in its row, without showing any."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, transaction

from credentials.errors import UnknownMasterKey
from credentials.models import Credential
from credentials.vault.keyring import Keyring
from proxy.unsealing import is_authentic

Watch = Callable[[Iterable[Credential], int], Iterable[Credential]]


def check(
    ring: Keyring, *, using: str = DEFAULT_DB_ALIAS, watch: Watch = lambda rows, total: rows
) -> tuple[int, dict[UUID, tuple[Credential, str]]]:
    """Try every credential in the database `using`.

    Returns how many there are, and those that do not open, each with the reason in words. `watch` sees them pass.
    """
    credentials = Credential.objects.using(using).select_related("endpoint__owner", "sealed_key").order_by("pk")
    total = credentials.count()
    broken = {}
    with transaction.atomic(using=using):  # in which a cursor works behind a pooler too
        for credential in watch(credentials.iterator(chunk_size=500), total):
            if problem := _problem(credential, ring):
                broken[credential.pk] = (credential, problem)
    return total, broken


def _problem(credential: Credential, ring: Keyring) -> str:
    """Why a credential does not open, or an empty string if it does."""
    if not hasattr(credential, "sealed_key"):
        return "has no sealed key"
    try:
        if is_authentic(credential.sealed(), credential.binding(), ring):
            return ""
    except UnknownMasterKey as error:
        return f"needs the master key {error.key_id!r}, which is not in the keyring"
    return "does not open, because it was changed, moved, or sealed under another master key"
