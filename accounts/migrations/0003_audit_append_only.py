from django.db import migrations

from accounts import append_only


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0002_browser_sessions'),
    ]

    operations = [
        migrations.RunPython(append_only.migrate_forwards, append_only.migrate_backwards),
    ]
