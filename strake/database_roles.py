"""The rights of the two PostgreSQL roles under which Strake serves. `manage.py grant_roles` grants them.

A third role owns the tables. It migrates and runs the operators' commands, and no server uses it. The web half and the
proxy half each have a role that may do what their code does and nothing else. Whoever takes over the web half can
write sealed keys, but PostgreSQL never lets that role read one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Literal, NamedTuple

from django.apps import apps
from django.db import Error as DatabaseError
from django.db import connection, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Field, Model
from psycopg import sql

from credentials.token_limits import LIMIT_NAMES

Half = Literal["web", "proxy"]
Right = tuple[str, str, str]  # an object, a column or "", and a privilege
Rights = Mapping[str, tuple[str, ...]]  # from a privilege to the fields that it is limited to; empty for all of them


def _halves(*, web: Rights | None = None, proxy: Rights | None = None) -> Mapping[Half, Rights]:
    """The rights of each half on the table of one model."""
    return {"web": web or {}, "proxy": proxy or {}}


def _may(*privileges: str, **fields: tuple[str, ...]) -> Rights:
    return {**dict.fromkeys(privileges, ()), **fields}


# PostgreSQL wants UPDATE on at least one column of a row that SELECT … FOR UPDATE locks, and SELECT on every column
# that a condition or RETURNING reads. Foreign keys and identity columns need no rights.
RIGHTS: Mapping[str, Mapping[Half, Rights]] = {
    # Sign-up inserts a person, and staff suspend one. An email address never changes, and a command makes staff.
    "accounts.User": _halves(
        web=_may("SELECT", "INSERT", "DELETE", UPDATE=("session_epoch", "suspended_at")),
        proxy=_may(SELECT=("id", "email", "suspended_at")),
    ),
    # A second attempt to send a link gives it another token and another lifetime.
    "accounts.SignInLink": _halves(
        web=_may("SELECT", "INSERT", "DELETE", UPDATE=("token_digest", "created_at", "expires_at", "used_at"))
    ),
    "accounts.BrowserSession": _halves(web=_may("SELECT", "INSERT", "DELETE", UPDATE=("last_seen_at", "ip"))),
    "accounts.AccessToken": _halves(web=_may("SELECT", "INSERT", "DELETE", UPDATE=("last_used_at", "revoked_at"))),
    "accounts.DeviceGrant": _halves(
        web=_may(
            "SELECT", "INSERT", "DELETE", UPDATE=("interval", "asked_at", "user", "allowed_at", "denied_at", "used_at")
        )
    ),
    "accounts.AuditEvent": _halves(web=_may("SELECT", "INSERT")),  # `prune` deletes the old ones, as the owner
    # Triggers that run as the owner insert links. Without the event, a link says nothing about it.
    "accounts.AuditLink": _halves(web=_may("SELECT"), proxy=_may("SELECT")),
    "accounts.AuditCheckpoint": _halves(web=_may("SELECT"), proxy=_may("SELECT", "INSERT")),
    "accounts.OutboxMail": _halves(web=_may("SELECT", "INSERT", "DELETE", UPDATE=("details", "attempts", "due_at"))),
    "accounts.NoticeChoices": _halves(web=_may("SELECT", "INSERT", "DELETE", UPDATE=("muted_mail", "muted_webhook"))),
    "accounts.Notice": _halves(web=_may("SELECT", "INSERT", "DELETE", UPDATE=("first_at", "seen_at"))),
    "accounts.NoticeWatch": _halves(web=_may("SELECT", "INSERT", UPDATE=("looked_until", "due_at"))),
    "accounts.Webhook": _halves(
        web=_may(
            "SELECT",
            "INSERT",
            "DELETE",
            UPDATE=(
                "version",
                "rotated_at",
                "secret_digest",
                "failures",
                "failing_since",
                "disabled_at",
                "last_at",
                "last_result",
            ),
        )
    ),
    "accounts.CacheEntry": _halves(web=_may("SELECT", "INSERT", "UPDATE", "DELETE")),  # without Redis
    "credentials.Endpoint": _halves(
        web=_may("SELECT", "INSERT", "DELETE", UPDATE=("label", "paused_at", "max_streams")), proxy=_may("SELECT")
    ),
    "credentials.Credential": _halves(web=_may("SELECT", "INSERT", "UPDATE", "DELETE"), proxy=_may("SELECT")),
    "credentials.SealedKey": _halves(
        web=_may(
            "INSERT",
            "DELETE",
            SELECT=("credential", "master_key_id"),
            UPDATE=("format", "master_key_id", "wrapped_dek", "wrapped_dek_iv", "ciphertext", "iv"),
        ),
        proxy=_may("SELECT"),
    ),
    "credentials.DerivedToken": _halves(
        web=_may("DELETE", SELECT=("credential", "expires_at", "failed_at", "failure")),
        proxy=_may("SELECT", "INSERT", "UPDATE"),
    ),
    "credentials.BearerToken": _halves(
        web=_may(
            "SELECT",
            "INSERT",
            "DELETE",
            UPDATE=("digest", "preview", "last_used_at", "revoked_at", "label", *LIMIT_NAMES),
        ),
        proxy=_may("SELECT", UPDATE=("last_used_at",)),
    ),
    # Every seal locks the row of its master key. `created_at` is the column that does the least harm.
    "credentials.MasterKeyCheck": _halves(web=_may("SELECT", "INSERT", UPDATE=("created_at",)), proxy=_may("SELECT")),
    "credentials.ServerProcess": _halves(
        web=_may("SELECT", "INSERT", "UPDATE", "DELETE"), proxy=_may("SELECT", "INSERT", "UPDATE", "DELETE")
    ),
    "proxy.RequestRecord": _halves(web=_may("SELECT", "DELETE"), proxy=_may("INSERT")),
    "proxy.RefusalCount": _halves(
        web=_may("SELECT", "DELETE"), proxy=_may("SELECT", "INSERT", UPDATE=("count", "last_at"))
    ),
    # Only the proxy half reads one. Deleting an endpoint deletes those of its tokens.
    "proxy.UploadCapability": _halves(
        web=_may("DELETE", SELECT=("digest", "token", "expires_at")), proxy=_may("SELECT", "INSERT", "DELETE")
    ),
    "proxy.RequestRollup": _halves(
        web=_may("SELECT", "DELETE"),
        proxy=_may("SELECT", "INSERT", UPDATE=("count", "latency_max_ms", "latency_histogram")),
    ),
    # Servers of the version before write it until they are restarted.
    "proxy.OldRollup": _halves(
        web=_may("SELECT", "DELETE"), proxy=_may("SELECT", "INSERT", UPDATE=("count", "latency_histogram"))
    ),
    "sessions.Session": _halves(web=_may("SELECT", "INSERT", "UPDATE", "DELETE")),  # without Redis
    "contenttypes.ContentType": _halves(web=_may("SELECT")),
    "auth.Permission": _halves(),
    "auth.Group": _halves(),
    "auth.Group_permissions": _halves(),
    "migrations.Migration": _halves(web=_may("SELECT"), proxy=_may("SELECT")),  # a server refuses an old schema
}

# Runs as the owner, who alone can add and drop the days of the request log. It drops only what is older than a day,
# which the web half may delete anyway. The proxy half cannot remove what it has recorded.
MAINTENANCE = "proxy_requestrecord_maintain"
_PARTITIONED = "proxy_requestrecord"

# PUBLIC may execute every new function. Migrations revoke that if it runs as the owner, and a dump need not say so.
OWN_FUNCTIONS = "^(accounts|credentials|proxy|strake)_"
_CLOSE_FUNCTIONS = sql.SQL(
    "DO $$ DECLARE found regprocedure; BEGIN FOR found IN SELECT oid FROM pg_proc WHERE prosecdef AND proname ~ {own} "
    "AND pronamespace = {schema}::regnamespace AND has_function_privilege('public', oid, 'EXECUTE') "
    "LOOP EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', found); END LOOP; END $$"
)

_FOR_BOTH: tuple[str, ...] = (
    "REVOKE ALL ON TABLE {tables} FROM {roles}",
    "REVOKE ALL ON FUNCTION {maintenance} FROM {roles}",
    "REVOKE ALL ON SEQUENCE {sequences} FROM {roles}",
    "REVOKE ALL ON SCHEMA {schema} FROM {roles}",
    "GRANT USAGE ON SCHEMA {schema} TO {roles}",
    "REVOKE ALL ON DATABASE {database} FROM {roles}",
    "GRANT CONNECT ON DATABASE {database} TO {roles}",
)
_AS_OWNER = "Run this with the DATABASE_URL of the owner of the tables. Nothing has been changed."


class Grant(NamedTuple):
    """A privilege on one table, or only on these columns of it."""

    table: str
    privilege: str
    columns: tuple[str, ...]


class RolesError(Exception):
    """The roles cannot have exactly their rights. The message says what to do, and nothing has been changed."""


class NotPostgreSQL(RolesError):
    """The database has no roles."""


class NotMigrated(RolesError):
    """A table is missing."""


class UnsuitableRole(RolesError):
    """A role is missing, or it has powers that no grant limits."""


class NotTheOwner(RolesError):
    """The current role may not grant these rights."""


class RightsDiffer(RolesError):
    """After the grants, a role can do more or less than it should."""


def models() -> dict[str, type[Model]]:
    """Every model that has a table, by its label."""
    found: list[type[Model]] = [*apps.get_models(include_auto_created=True), MigrationRecorder.Migration]
    return {model._meta.label: model for model in found if not model._meta.proxy}


def tables() -> list[str]:
    return sorted(model._meta.db_table for model in models().values())


def _partitions() -> list[str]:
    """The days of the request log. A half needs no rights on them, only on the whole."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = %s::regclass",
            [_PARTITIONED],
        )
        return [name for (name,) in cursor.fetchall()]


def grants(half: Half) -> list[Grant]:
    """The rights of one half, in the order of `RIGHTS`."""
    known = models()
    return [
        Grant(known[label]._meta.db_table, privilege, tuple(_column(known[label], name) for name in fields))
        for label, halves in RIGHTS.items()
        for privilege, fields in halves[half].items()
    ]


def close_functions(schema: str) -> sql.Composed:
    """The statement that closes Strake's functions that run as the owner to PUBLIC. `schema` is a quoted identifier."""
    return _CLOSE_FUNCTIONS.format(schema=sql.Literal(schema), own=sql.Literal(OWN_FUNCTIONS))


def statements(*, web: str, proxy: str) -> list[sql.Composed]:
    """The statements that give both roles their rights and take every other from them. Raises `RolesError`."""
    _check_database()
    if web == proxy:
        raise UnsuitableRole("Each half needs its own role: a role for both could read every sealed key.")
    for role in (web, proxy):
        _check_role(role)
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database(), current_schema(), quote_ident(current_schema())")
        database, schema, quoted_schema = cursor.fetchone()
        sequences = [
            found["name"] for table in tables() for found in connection.introspection.get_sequences(cursor, table)
        ]
    values = {
        "schema": sql.Identifier(schema),
        "database": sql.Identifier(database),
        "tables": sql.SQL(", ").join(sql.Identifier(schema, name) for name in tables() + _partitions()),
        "maintenance": sql.Identifier(schema, MAINTENANCE),
        "sequences": sql.SQL(", ").join(sql.Identifier(schema, name) for name in sequences),
        "roles": sql.SQL(", ").join(map(sql.Identifier, (web, proxy))),
    }
    return [
        close_functions(quoted_schema),
        *(sql.SQL(template).format(**values) for template in _FOR_BOTH),
        *_grants_to(web, schema, grants("web")),
        sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(values["maintenance"], sql.Identifier(web)),
        *_grants_to(proxy, schema, grants("proxy")),
    ]


def grant(*, web: str, proxy: str) -> None:
    """Give both roles exactly their rights, in one transaction. Running servers notice nothing. Raises `RolesError`."""
    found = statements(web=web, proxy=proxy)
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                for statement in found:
                    cursor.execute(statement)
            _check_rights({web: _expected(grants("web"), MAINTENANCE), proxy: _expected(grants("proxy"))})
    except DatabaseError as error:
        reason = str(error).strip().partition("\n")[0]
        raise NotTheOwner(f"{reason}. {_AS_OWNER}") from None


def _grants_to(role: str, schema: str, granted: list[Grant]) -> Iterator[sql.Composed]:
    for table, group in groupby(granted, key=lambda one: one.table):
        privileges = [
            sql.SQL(f"{one.privilege} ({{}})").format(sql.SQL(", ").join(map(sql.Identifier, one.columns)))
            if one.columns
            else sql.SQL(one.privilege)
            for one in group
        ]
        yield sql.SQL("GRANT {} ON TABLE {} TO {}").format(
            sql.SQL(", ").join(privileges), sql.Identifier(schema, table), sql.Identifier(role)
        )


def _column(model: type[Model], name: str) -> str:
    field = model._meta.get_field(name)
    if not isinstance(field, Field):
        raise TypeError(f"{name} has no column")
    return field.column


# --- Checks --------------------------------------------------------------------------------------------------------

_ROLE = """
SELECT rolsuper, rolcreaterole, rolreplication, rolbypassrls,
    ARRAY(SELECT pg_get_userbyid(roleid) FROM pg_auth_members WHERE member = role.oid),
    EXISTS (
        SELECT FROM pg_shdepend
        WHERE refclassid = 'pg_authid'::regclass AND refobjid = role.oid AND deptype = 'o'
            AND (dbid = 0 OR dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))
    )
FROM pg_roles AS role WHERE rolname = %s
"""

# What a role can do, also by grants to PUBLIC: (object, column, privilege). Rights on whole tables have no column.
_EFFECTIVE = """
WITH tables AS (
    SELECT pg_class.oid, relname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = current_schema() AND relname = ANY(%(tables)s)
)
SELECT relname, '', privilege
FROM tables, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege
WHERE has_table_privilege(%(role)s, oid, privilege)
UNION ALL
SELECT relname, attname::text, privilege
FROM tables JOIN pg_attribute ON attrelid = oid AND attnum > 0 AND NOT attisdropped,
    unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS privilege
WHERE has_column_privilege(%(role)s, oid, attnum, privilege) AND NOT has_table_privilege(%(role)s, oid, privilege)
UNION ALL
SELECT proname, '', 'EXECUTE' FROM pg_proc
WHERE pronamespace = current_schema()::regnamespace AND prosecdef AND has_function_privilege(%(role)s, oid, 'EXECUTE')
UNION ALL
SELECT 'the schema', '', privilege FROM unnest(ARRAY['CREATE', 'USAGE']) AS privilege
WHERE has_schema_privilege(%(role)s, current_schema(), privilege)
UNION ALL
SELECT 'the database', '', privilege FROM unnest(ARRAY['CREATE', 'CONNECT']) AS privilege
WHERE has_database_privilege(%(role)s, current_database(), privilege)
"""
_EVERYWHERE = (("the schema", "", "USAGE"), ("the database", "", "CONNECT"))


def _check_database() -> None:
    if connection.vendor != "postgresql":
        raise NotPostgreSQL("Only PostgreSQL has roles. Set DATABASE_URL to the owner's URL and run this again.")
    if missing := set(tables()) - set(connection.introspection.table_names()):
        raise NotMigrated(f"The database lacks {', '.join(sorted(missing))}. Run first: manage.py migrate")


def _check_role(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_ROLE, [name])
        row = cursor.fetchone()
        quoted = sql.Identifier(name).as_string(cursor.connection)
    if row is None:
        raise UnsuitableRole(
            f"There is no role {quoted}. Create it as a superuser, and run this again: "
            f"CREATE ROLE {quoted} LOGIN PASSWORD '…'"
        )
    *attributes, memberships, is_owner = row
    for attribute, is_set in zip(("SUPERUSER", "CREATEROLE", "REPLICATION", "BYPASSRLS"), attributes, strict=True):
        if is_set:
            raise UnsuitableRole(
                f"The role {quoted} could read everything, since it has the attribute {attribute}. Take it away: "
                f"ALTER ROLE {quoted} NO{attribute}"
            )
    if memberships:
        raise UnsuitableRole(
            f"The role {quoted} has the rights of other roles, since it is a member of {', '.join(memberships)}. "
            f"Take them away: REVOKE … FROM {quoted}"
        )
    if is_owner:
        raise UnsuitableRole(
            f"The role {quoted} owns tables or other objects, and an owner may do anything with them. Create another "
            "role for this half."
        )


def _expected(granted: list[Grant], *functions: str) -> set[Right]:
    rights = {(one.table, column, one.privilege) for one in granted for column in one.columns or ("",)}
    return {*rights, *((name, "", "EXECUTE") for name in functions), *_EVERYWHERE}


def _check_rights(expected: Mapping[str, set[Right]]) -> None:
    """Compare what each role can do with what it should. Raises `RightsDiffer`."""
    actual: dict[str, set[Right]] = {}
    with connection.cursor() as cursor:
        for role in expected:
            cursor.execute(_EFFECTIVE, {"role": role, "tables": tables() + _partitions()})
            actual[role] = set(cursor.fetchall())
    excess = {role: found for role in expected if (found := actual[role] - expected[role])}
    if excess:
        raise RightsDiffer(
            f"{_listed('can do more than its half needs', excess)}. These rights were granted to PUBLIC, or by "
            "somebody else than the owner of the tables. Revoke those of PUBLIC as the owner, and the others as a "
            "superuser. Then run this again. Nothing has been changed."
        )
    missing = {role: found for role in expected if (found := expected[role] - actual[role])}
    if missing:
        raise RightsDiffer(f"{_listed('did not get every right', missing)}. {_AS_OWNER}")


def _listed(what: str, rights: Mapping[str, set[Right]]) -> str:
    return ". ".join(f"{role} {what}: {', '.join(map(_shown, sorted(found)))}" for role, found in rights.items())


def _shown(right: Right) -> str:
    name, column, privilege = right
    return f"{privilege} on {name}{f' ({column})' if column else ''}"
