from django.db import migrations

# INSERT OR REPLACE deletes the conflicting row without firing the trigger that refuses DELETE.
NO_REPLACE = """CREATE TRIGGER IF NOT EXISTS accounts_auditevent_no_replace BEFORE INSERT ON accounts_auditevent
            WHEN EXISTS (SELECT 1 FROM accounts_auditevent WHERE id = NEW.id)
            BEGIN SELECT RAISE(ABORT, 'audit events are append-only'); END"""


def install(apps, schema_editor):
    if schema_editor.connection.vendor == "sqlite":
        schema_editor.execute(NO_REPLACE)


class Migration(migrations.Migration):
    """Create the trigger that 0003 did not have at first, in databases that were migrated with it then."""

    dependencies = [
        ('accounts', '0003_audit_append_only'),
    ]

    operations = [
        migrations.RunPython(install, migrations.RunPython.noop),
    ]
