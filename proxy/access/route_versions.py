"""The statement that reads, on PostgreSQL, those of many routes that have changed.

The version of a route names what its row was read from: the server, and each table's row by its system column `xmin`,
the transaction that wrote it (https://www.postgresql.org/docs/current/ddl-system-columns.html). No writer can forget
to change it. If two versions are equal, so are the rows:

* Others see only the last of the states that one transaction gives a row, and all of them at once. A subtransaction
  has an id of its own. So there is one state for each row and `xmin`, whether it was updated or deleted and inserted.
* A row is joined by columns of the rows in the version, and only one row at a time matches them: they are unique.
* Locks do not change `xmin`, and neither does freezing a row since PostgreSQL 9.4
  (https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-WRAPAROUND).
* The ids of transactions are reused after 2^32 of them. A look-up keeps a version for an hour at most.
* Another server counts its own transactions, and so does one that starts again after it lost some. The version
  contains the time at which the server started. One that has crashed has also ended its connections, and a look-up
  forgets all versions when it connects.

A row that is missing has no `xmin`. Of the owner, the version contains the two values that are read, because the
proxy's database role may read no more of that table.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, Func, TextField
from django.db.models.sql.compiler import SQLCompiler

from proxy.access.route import compiled, rows


class _Xmin(Func):
    """The system column `xmin` of the row that a field belongs to."""

    def as_sql(
        self,
        compiler: SQLCompiler,
        connection: BaseDatabaseWrapper,
        function: str | None = None,
        template: str | None = None,
        arg_joiner: str | None = None,
        **extra_context: Any,
    ) -> tuple[str, list[Any]]:
        (column,) = self.get_source_expressions()
        return f"{compiler.quote_name_unless_alias(column.alias)}.xmin", []


class _Hex(Func):
    template = "ENCODE(CONVERT_TO(%(expressions)s, 'UTF8'), 'hex')"


class _Version(Func):
    """Text without a comma that is different if any of its parts is."""

    template = "CONCAT((SELECT EXTRACT(EPOCH FROM pg_postmaster_start_time())), '/', %(expressions)s)"
    arg_joiner = ", '/', "
    output_field = TextField()


_VERSION = _Version(
    _Xmin("provider"),
    _Xmin("credential__header_name"),
    _Xmin("credential__sealed_key__iv"),
    _Xmin("credential__derived_token__iv"),
    _Xmin("token__allowed_paths"),
    _Xmin("token__parent__allowed_paths"),
    F("owner__suspended_at"),
    _Hex("owner__email"),
)


_SQL = """
SELECT asked.number, found.*
FROM UNNEST(
    STRING_TO_ARRAY((SELECT $1::text), ','),
    STRING_TO_ARRAY((SELECT $2::text), ','),
    STRING_TO_ARRAY((SELECT $3::text), ',')
) WITH ORDINALITY AS asked (subdomain, digest, version, number)
LEFT JOIN LATERAL ({row}) AS found ON TRUE
WHERE found.version IS DISTINCT FROM asked.version
"""


def statement() -> str:
    """Return the SQL. Its parameters are three texts that `arguments` makes.

    It returns a row for each route that is not of the version asked for: the route's place in the lists, counted from
    1, its version, and the columns of `Row`. All of them are NULL except the place if there is no such endpoint.

    LIMIT makes PostgreSQL look each route up by unique indexes, however many it expects. It expects the same number for
    any lists, since subqueries hide their lengths. So it keeps one plan and does not plan anew for each execution.
    """
    row = compiled(rows(version=_VERSION)[:1], digest="DECODE(asked.digest, 'hex')", subdomain="asked.subdomain")
    return _SQL.replace("{row}", row)


def arguments(routes: Iterable[tuple[str, bytes]], versions: Iterable[str]) -> tuple[str, str, str]:
    """Return the parameters that ask for these routes, by subdomain and digest, each with its version or "".

    Joined texts cost asyncpg a third of what arrays do. A subdomain with a comma is an error of the caller.
    """
    return (
        ",".join([subdomain for subdomain, _ in routes]),
        ",".join([digest.hex() for _, digest in routes]),
        ",".join(versions),
    )
