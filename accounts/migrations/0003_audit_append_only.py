from django.db import migrations

# SQL is part of the history: never edit it here, write a new migration.
# An event may be deleted once it is older than 365 days (`accounts.retention.MIN_AUDIT_DAYS`).
INSTALL = {
    "sqlite": [
        """CREATE TRIGGER IF NOT EXISTS accounts_auditevent_no_update BEFORE UPDATE ON accounts_auditevent
            BEGIN SELECT RAISE(ABORT, 'audit events are append-only'); END""",
        """CREATE TRIGGER IF NOT EXISTS accounts_auditevent_no_delete BEFORE DELETE ON accounts_auditevent
            WHEN julianday(OLD.at) > julianday('now', '-365 days')
            BEGIN SELECT RAISE(ABORT, 'audit events are append-only'); END""",
        # INSERT OR REPLACE deletes the conflicting row without firing the trigger above.
        """CREATE TRIGGER IF NOT EXISTS accounts_auditevent_no_replace BEFORE INSERT ON accounts_auditevent
            WHEN EXISTS (SELECT 1 FROM accounts_auditevent WHERE id = NEW.id)
            BEGIN SELECT RAISE(ABORT, 'audit events are append-only'); END""",
    ],
    "postgresql": [
        """CREATE OR REPLACE FUNCTION accounts_auditevent_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF TG_OP = 'DELETE' AND OLD.at <= now() - interval '365 days' THEN RETURN OLD; END IF;
                RAISE EXCEPTION 'audit events are append-only' USING ERRCODE = 'integrity_constraint_violation';
            END $$""",
        """CREATE OR REPLACE TRIGGER accounts_auditevent_no_change BEFORE UPDATE OR DELETE ON accounts_auditevent
            FOR EACH ROW EXECUTE FUNCTION accounts_auditevent_refuse()""",
        """CREATE OR REPLACE TRIGGER accounts_auditevent_no_truncate BEFORE TRUNCATE ON accounts_auditevent
            FOR EACH STATEMENT EXECUTE FUNCTION accounts_auditevent_refuse()""",
    ],
}

REMOVE = {
    "sqlite": [
        "DROP TRIGGER IF EXISTS accounts_auditevent_no_update",
        "DROP TRIGGER IF EXISTS accounts_auditevent_no_delete",
        "DROP TRIGGER IF EXISTS accounts_auditevent_no_replace",
    ],
    "postgresql": [
        "DROP TRIGGER IF EXISTS accounts_auditevent_no_change ON accounts_auditevent",
        "DROP TRIGGER IF EXISTS accounts_auditevent_no_truncate ON accounts_auditevent",
        "DROP FUNCTION IF EXISTS accounts_auditevent_refuse()",
    ],
}


def install(apps, schema_editor):
    for statement in INSTALL.get(schema_editor.connection.vendor, []):
        schema_editor.execute(statement)


def remove(apps, schema_editor):
    for statement in REMOVE.get(schema_editor.connection.vendor, []):
        schema_editor.execute(statement)


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0002_browser_sessions'),
    ]

    operations = [
        migrations.RunPython(install, remove),
    ]
