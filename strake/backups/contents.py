"""What a database holds, for the manifest of a backup: read in the same snapshot as the dump."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from strake.backups.archive import BackupError, Contents, MasterKeyUse

# A restored database has these tables empty: what they hold is over. Sessions that were ended since the backup, and
# links that were used since, would work again, and emails would be sent twice.
TRANSIENT = (
    "accounts_browsersession",
    "accounts_cacheentry",
    "accounts_outboxmail",
    "accounts_signinlink",
    "credentials_serverprocess",
    "django_session",
    "proxy_uploadcapability",
)
_COUNT = 'SELECT count(*) FROM "{}"'
_CHECK_VALUES = "SELECT key_id, check_value FROM credentials_masterkeycheck"
_USES = "SELECT master_key_id, count(*) FROM credentials_sealedkey GROUP BY master_key_id"

Query = Callable[[str], Iterable[tuple[Any, ...]]]


def read(query: Query, *, database: str, schema: str, taken_at: str, tables: Iterable[str]) -> Contents:
    """Describe a database. `query` runs one statement and returns its rows.

    Raises `BackupError` if the database has not been migrated.
    """
    names = sorted(tables)
    if "django_migrations" not in names or "accounts_user" not in names:
        raise BackupError("The database has no tables of Strake. Is DATABASE_URL right?")
    migrations = [f"{app}.{name}" for app, name in query("SELECT app, name FROM django_migrations ORDER BY id")]
    counts = {name: _single(query(_COUNT.format(name))) for name in names}
    uses: dict[str, int] = dict(query(_USES))
    values: dict[str, str] = {key_id: bytes(value).hex() for key_id, value in query(_CHECK_VALUES)}
    keys = {key_id: MasterKeyUse(values.get(key_id, ""), uses.get(key_id, 0)) for key_id in sorted({*uses, *values})}
    return Contents(database, schema, taken_at, migrations, counts, keys)


def _single(rows: Iterable[tuple[Any, ...]]) -> int:
    [(number,)] = rows
    return int(number)
