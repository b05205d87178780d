"""System checks of the master keys. They run before every command and before a server accepts its first request.

credentials.E001   the keyring is missing, malformed, incomplete or open to other users
credentials.E002   a master key is not the one that its id stood for before
credentials.E003   the primary master key has been retired
credentials.W001   endpoints need a master key that the keyring does not hold
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import connection

from credentials import keyring
from credentials.errors import KeyringError

RESTORE = "Restore the keyring that belongs to this database from your backup."
# `create_master_key` runs without these checks, and gives no id twice.
LOST = (
    f"{RESTORE} Where that key is lost for good, move the keyring away and run: manage.py create_master_key "
    "--keys-lost. Every endpoint that was sealed under it then needs its provider key again."
)
PASTE_AGAIN = (
    f"{RESTORE} Where that key is lost for good, paste the provider keys again: `manage.py verify_vault` lists the "
    "endpoints that need it."
)


@register("strake")
def check_master_keys(app_configs: Sequence[Any] | None = None, **kwargs: object) -> list[CheckMessage]:
    """Everything that is wrong with the master keys, each with what to do about it."""
    try:
        ring = keyring.configured()
    except KeyringError as error:
        return [Error(str(error), hint=_where_they_come_from(), id="credentials.E001")]
    try:
        return _check_against_database(ring)
    except DatabaseError:
        return []  # not there yet, or not migrated yet: migrating must be possible, and serving fails by itself


def ensure_keyring() -> None:
    """Refuse to go on with unusable master keys; for servers, which may start without `manage.py` and its checks.

    Raises `ImproperlyConfigured`. May be called inside a running event loop and before a fork.
    """
    with ThreadPoolExecutor(1) as pool:  # Django refuses database work on the thread of an event loop
        messages = pool.submit(_messages_of_a_thread).result()
    errors = [message for message in messages if message.is_serious()]
    if errors:
        raise ImproperlyConfigured(" ".join(f"({error.id}) {error.msg} {error.hint}" for error in errors))


def _messages_of_a_thread() -> list[CheckMessage]:
    try:
        return check_master_keys()
    finally:
        connection.close()  # belongs to this thread alone and must not outlive it


def _where_they_come_from() -> str | None:
    if settings.STRAKE_MASTER_KEYS:
        return "The master keys come from the environment variable STRAKE_MASTER_KEYS. Put it right and start again."
    if path := settings.STRAKE_MASTER_KEYS_FILE:
        return f"The master keys come from {path}. Where it cannot be put right, restore it from your backup."
    return None


def _check_against_database(ring: keyring.Keyring) -> list[CheckMessage]:
    from credentials import keyring_guard  # imports models, which do not exist yet when checks are registered

    if not keyring_guard.tables_exist():
        return []
    messages: list[CheckMessage] = [
        Error(
            f"The master key {key_id!r} is not the key that this id stood for before.",
            hint=LOST,
            id="credentials.E002",
        )
        for key_id in keyring_guard.wrong_ids(ring)
    ]
    if keyring_guard.is_retired(ring.primary_id):
        messages.append(
            Error(
                f"The primary master key {ring.primary_id!r} has been retired, so nothing can be sealed.",
                hint="Make a new primary: manage.py create_master_key",
                id="credentials.E003",
            )
        )
    messages += [
        Warning(
            f"{count} endpoint{'s' if count > 1 else ''} cannot work: the keyring lacks the master key {key_id!r}.",
            hint=PASTE_AGAIN,
            id="credentials.W001",
        )
        for key_id, count in keyring_guard.missing_ids(ring).items()
    ]
    return messages
