"""The audit trail is append-only for the database as well, whoever asks it: triggers refuse what the code never does.

Rows may go when they are older than `KEEP_DAYS`, which is what `manage.py prune` does, and not before.
"""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

KEEP_DAYS = 365
_TABLE = "accounts_auditevent"
_REFUSAL = "audit events are append-only"

_INSTALL = {
    "sqlite": [
        f"""CREATE TRIGGER IF NOT EXISTS {_TABLE}_no_update BEFORE UPDATE ON {_TABLE}
            BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END""",
        f"""CREATE TRIGGER IF NOT EXISTS {_TABLE}_no_delete BEFORE DELETE ON {_TABLE}
            WHEN julianday(OLD.at) > julianday('now', '-{KEEP_DAYS} days')
            BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END""",
        # INSERT OR REPLACE deletes the row in its way without asking the trigger above.
        """CREATE TRIGGER IF NOT EXISTS accounts_auditevent_no_replace BEFORE INSERT ON accounts_auditevent
            WHEN EXISTS (SELECT 1 FROM accounts_auditevent WHERE id = NEW.id)
            BEGIN SELECT RAISE(ABORT, 'audit events are append-only'); END""",
    ],
    "postgresql": [
        f"""CREATE OR REPLACE FUNCTION {_TABLE}_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF TG_OP = 'DELETE' AND OLD.at <= now() - interval '{KEEP_DAYS} days' THEN RETURN OLD; END IF;
                RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'integrity_constraint_violation';
            END $$""",
        f"""CREATE OR REPLACE TRIGGER {_TABLE}_no_change BEFORE UPDATE OR DELETE ON {_TABLE}
            FOR EACH ROW EXECUTE FUNCTION {_TABLE}_refuse()""",
        f"""CREATE OR REPLACE TRIGGER {_TABLE}_no_truncate BEFORE TRUNCATE ON {_TABLE}
            FOR EACH STATEMENT EXECUTE FUNCTION {_TABLE}_refuse()""",
    ],
}

_REMOVE = {
    "sqlite": [f"DROP TRIGGER IF EXISTS {_TABLE}_no_{deed}" for deed in ("update", "delete", "replace")],
    "postgresql": [
        f"DROP TRIGGER IF EXISTS {_TABLE}_no_change ON {_TABLE}",
        f"DROP TRIGGER IF EXISTS {_TABLE}_no_truncate ON {_TABLE}",
        f"DROP FUNCTION IF EXISTS {_TABLE}_refuse()",
    ],
}


def install(connection: BaseDatabaseWrapper) -> None:
    """Create the triggers where they are missing."""
    _run(connection, _INSTALL)


def remove(connection: BaseDatabaseWrapper) -> None:
    """Drop the triggers: to migrate back, and for tests that empty the tables."""
    _run(connection, _REMOVE)


def migrate_forwards(apps: object, schema_editor: BaseDatabaseSchemaEditor) -> None:
    install(schema_editor.connection)


def migrate_backwards(apps: object, schema_editor: BaseDatabaseSchemaEditor) -> None:
    remove(schema_editor.connection)


def _run(connection: BaseDatabaseWrapper, statements: dict[str, list[str]]) -> None:
    with connection.cursor() as cursor:
        for statement in statements.get(connection.vendor, []):
            cursor.execute(statement)
