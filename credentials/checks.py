"""System checks of the master keys, and of what endpoints may reach.

They run before every command and before a server accepts requests.

credentials.E001   the keyring is missing, malformed, incomplete or readable by other users
credentials.E002   a master key is not the one that its id stood for before
credentials.E003   the primary master key has been retired
credentials.E010   anybody can sign up and reach a private network (with --deploy)
credentials.W001   endpoints need a master key that is not in the keyring
credentials.W002   the keyring opens no stored key at all
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.db import Error as DatabaseError

from credentials.egress_allowlist import SETTING, EgressAllowlist, Hole
from credentials.errors import KeyringError, KeyringMissing
from credentials.models import SealedKey
from credentials.vault import key_registry, keyring

RESTORE = "Restore the keyring that belongs to this database from your backup."
# `create_master_key` runs without these checks and never reuses an id.
LOST = (
    f"{RESTORE} If that key is lost for good, move the keyring away and run: manage.py create_master_key "
    "--keys-lost. Every endpoint that was sealed under it then needs its provider key again."
)
PASTE_AGAIN = (
    f"{RESTORE} If that key is lost for good, paste the provider keys again. `manage.py verify_vault` lists the "
    "endpoints that need it."
)


@register("strake")
def check_master_keys(app_configs: Sequence[Any] | None = None, **kwargs: object) -> list[CheckMessage]:
    """All problems with the master keys, each with a remedy."""
    try:
        ring = keyring.reload()
    except KeyringMissing as error:
        return [Error(str(error), hint=_missing_hint(), id="credentials.E001")]
    except KeyringError as error:
        return [Error(str(error), hint=_source_hint(), id="credentials.E001")]
    try:
        return _check_against_database(ring)
    except DatabaseError:
        return []  # `migrate` must be able to run, and a server fails on its own without a database.


@register("strake", deploy=True)
def check_private_upstreams(app_configs: Sequence[Any] | None = None, **kwargs: object) -> list[CheckMessage]:
    """Entries of the egress allowlist that open a network to everybody who signs up."""
    if "open" not in settings.STRAKE_SIGNUP:
        return []
    return [
        Error(
            f"{SETTING}: anybody who signs up can send requests to {hole.text}.",
            hint="Name the ports and the people who may use it, as in 10.1.2.0/24:8000=@example.org, or limit "
            "STRAKE_SIGNUP.",
            id="credentials.E010",
        )
        for hole in EgressAllowlist(settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS).holes
        if not hole.owner and _is_wide(hole)
    ]


def _is_wide(hole: Hole) -> bool:
    """True for every port of an address, and for more addresses than an IPv4 /24 has."""
    return hole.has_all_ports or any(network.num_addresses > 256 for network in hole.networks)


def _missing_hint() -> str:
    """A new keyring is no remedy where a database holds keys, or cannot be asked."""
    with suppress(DatabaseError):
        if not key_registry.tables_exist() or not SealedKey.objects.exists():
            return "Restore it from your backup. For a new installation, run: manage.py create_master_key"
    return f"{RESTORE} Without it, no stored key opens."


def _source_hint() -> str | None:
    for source in ("STRAKE_MASTER_KEYS", "STRAKE_MASTER_KEYS_COMMAND"):
        if getattr(settings, source):
            return f"The master keys come from the environment variable {source}. Correct it and start again."
    if path := settings.STRAKE_MASTER_KEYS_FILE:
        return f"The master keys come from {path}. If you cannot correct the file, restore it from your backup."
    return None


def _check_against_database(ring: keyring.Keyring) -> list[CheckMessage]:
    if not key_registry.tables_exist():
        return []
    messages: list[CheckMessage] = [
        Error(
            f"The master key {key_id!r} is not the key that this id stood for before.",
            hint=LOST,
            id="credentials.E002",
        )
        for key_id in key_registry.wrong_ids(ring)
    ]
    if key_registry.is_retired(ring.primary_id):
        messages.append(
            Error(
                f"The primary master key {ring.primary_id!r} has been retired, so nothing can be sealed.",
                hint="Create a new primary key: manage.py create_master_key",
                id="credentials.E003",
            )
        )
    return messages + _missing_keys(ring)


def _missing_keys(ring: keyring.Keyring) -> list[CheckMessage]:
    missing = SealedKey.objects.count_by_missing_key(ring.ids)
    if missing and not SealedKey.objects.exclude(master_key_id__in=missing).exists():
        return [
            Warning(
                f"This keyring opens none of the {sum(missing.values())} stored keys: it lacks "
                f"{' and '.join(map(repr, missing))}. It has {' and '.join(map(repr, ring.ids))}.",
                hint=PASTE_AGAIN,
                id="credentials.W002",
            )
        ]
    return [
        Warning(
            f"{count} endpoint{'s' if count > 1 else ''} cannot work: the keyring lacks the master key {key_id!r}.",
            hint=PASTE_AGAIN,
            id="credentials.W001",
        )
        for key_id, count in missing.items()
    ]
