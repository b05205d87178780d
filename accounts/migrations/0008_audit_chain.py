import os

import django.db.models.functions.datetime
from django.db import migrations, models

import accounts.audit_models

# SQL is part of the history: never edit it here, write a new migration.
BATCH = 2000

# A row of an event may be deleted, which erases its content and its nonce, once it is older than 365 days
# (`accounts.retention.MIN_AUDIT_DAYS`), or if it is about somebody whose account is gone. Its link stays.
OLD = {
    "sqlite": "julianday(OLD.at) <= julianday('now', '-365 days')",
    "postgresql": "OLD.at <= now() - interval '365 days'",
}
GONE = """
    (OLD.account_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM accounts_user WHERE id = OLD.account_id))
    OR (OLD.actor_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM accounts_user WHERE id = OLD.actor_id))
    OR (OLD.account_id IS NULL AND OLD.actor_id IS NULL AND OLD.subject_type IN ('email', 'link')
        AND NOT EXISTS (SELECT 1 FROM accounts_user WHERE email = OLD.subject_label))
"""
KEPT = ("accounts_auditlink", "accounts_auditcheckpoint")  # nothing in them is ever changed or deleted
REFUSED = "'audit events are append-only'"


# 16 random bytes, by default for servers of the version before, which know no nonce.
NONCE = "substring(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) FOR 16)"


def sqlite_triggers(erasable):
    return [
        f"""CREATE TRIGGER accounts_auditevent_no_update BEFORE UPDATE ON accounts_auditevent
            BEGIN SELECT RAISE(ABORT, {REFUSED}); END""",
        f"""CREATE TRIGGER accounts_auditevent_no_delete BEFORE DELETE ON accounts_auditevent
            WHEN NOT ({erasable})
            BEGIN SELECT RAISE(ABORT, {REFUSED}); END""",
        # INSERT OR REPLACE deletes the conflicting row without firing the trigger that refuses DELETE.
        f"""CREATE TRIGGER accounts_auditevent_no_replace BEFORE INSERT ON accounts_auditevent
            WHEN EXISTS (SELECT 1 FROM accounts_auditevent WHERE id = NEW.id)
            BEGIN SELECT RAISE(ABORT, {REFUSED}); END""",
    ]


def postgresql_triggers(erasable):
    return [
        # An UPDATE that changes nothing is let through: the triggers of the chain use one (accounts.0009).
        f"""CREATE OR REPLACE FUNCTION accounts_auditevent_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF TG_TABLE_NAME = 'accounts_auditevent' THEN
                    IF TG_OP = 'UPDATE' AND NEW IS NOT DISTINCT FROM OLD THEN RETURN NEW; END IF;
                    IF TG_OP = 'DELETE' AND ({erasable}) THEN RETURN OLD; END IF;
                END IF;
                RAISE EXCEPTION {REFUSED} USING ERRCODE = 'integrity_constraint_violation';
            END $$""",
        """CREATE TRIGGER accounts_auditevent_no_change BEFORE UPDATE OR DELETE ON accounts_auditevent
            FOR EACH ROW EXECUTE FUNCTION accounts_auditevent_refuse()""",
    ]


DROP = {
    "sqlite": [f"DROP TRIGGER IF EXISTS accounts_auditevent_no_{what}" for what in ("update", "delete", "replace")],
    "postgresql": ["DROP TRIGGER IF EXISTS accounts_auditevent_no_change ON accounts_auditevent"],
}
BEFORE = {"sqlite": sqlite_triggers(OLD["sqlite"]), "postgresql": postgresql_triggers(OLD["postgresql"])}
CREATE = {
    "sqlite": sqlite_triggers(f"{OLD['sqlite']} OR {GONE}")
    + [
        statement
        for table, key, other in (
            ("accounts_auditlink", "sequence", "event_id"),
            ("accounts_auditcheckpoint", "id", "id"),
        )
        for statement in (
            f"""CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}
                BEGIN SELECT RAISE(ABORT, {REFUSED}); END""",
            f"""CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table}
                BEGIN SELECT RAISE(ABORT, {REFUSED}); END""",
            f"""CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table}
                WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key} OR {other} = NEW.{other})
                BEGIN SELECT RAISE(ABORT, {REFUSED}); END""",
        )
    ],
    "postgresql": postgresql_triggers(f"{OLD['postgresql']} OR {GONE}")
    + [f"ALTER TABLE accounts_auditevent ALTER COLUMN nonce SET DEFAULT {NONCE}"]
    + [
        statement
        for table in KEPT
        for statement in (
            f"""CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table}
                FOR EACH ROW EXECUTE FUNCTION accounts_auditevent_refuse()""",
            f"""CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}
                FOR EACH STATEMENT EXECUTE FUNCTION accounts_auditevent_refuse()""",
        )
    ],
}

def run(statements):
    def execute(apps, schema_editor):
        for statement in statements[schema_editor.connection.vendor]:
            schema_editor.execute(statement)

    return execute


def fill_nonces(apps, schema_editor):
    connection = schema_editor.connection
    if connection.vendor == "postgresql":
        schema_editor.execute(f"UPDATE accounts_auditevent SET nonce = {NONCE} WHERE nonce IS NULL")
        return
    with connection.cursor() as cursor:
        while rows := cursor.execute(
            f"SELECT id FROM accounts_auditevent WHERE nonce IS NULL LIMIT {BATCH}"
        ).fetchall():
            cursor.executemany(
                "UPDATE accounts_auditevent SET nonce = %s WHERE id = %s", [(os.urandom(16), id) for (id,) in rows]
            )


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0007_suspension_and_audit_details'),
    ]

    operations = [
        migrations.RunPython(run(DROP), run(BEFORE)),
        migrations.AddField(
            model_name='auditevent',
            name='nonce',
            field=models.BinaryField(max_length=16, null=True),
        ),
        migrations.RunPython(fill_nonces, migrations.RunPython.noop),
        migrations.AlterField(
            model_name='auditevent',
            name='nonce',
            field=models.BinaryField(default=accounts.audit_models.new_nonce, help_text='Random, part of the hash of the content.', max_length=16),
        ),
        migrations.CreateModel(
            name='AuditLink',
            fields=[
                ('sequence', models.BigIntegerField(primary_key=True, serialize=False)),
                ('event_id', models.BigIntegerField()),
                ('at', models.DateTimeField()),
                ('content_hash', models.CharField(max_length=64)),
                ('hash', models.CharField(max_length=64)),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('event_id',), name='accounts_auditlink_unique_event')],
            },
        ),
        migrations.CreateModel(
            name='AuditCheckpoint',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('size', models.BigIntegerField(help_text='The number of events.')),
                ('note', models.TextField(help_text='The signed note, as `accounts.audit_chain` writes it.')),
                ('key', models.CharField(help_text='The public key, as a verifier key.', max_length=300)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
        ),
        migrations.RunPython(run(CREATE), run(DROP)),
    ]
