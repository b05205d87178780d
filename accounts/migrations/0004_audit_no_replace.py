from django.db import migrations

from accounts import append_only


class Migration(migrations.Migration):
    """Create the trigger that came later, in databases which have the earlier ones."""

    dependencies = [
        ('accounts', '0003_audit_append_only'),
    ]

    operations = [
        migrations.RunPython(append_only.migrate_forwards, migrations.RunPython.noop),
    ]
