import django.db.models.deletion
from django.db import migrations, models

COLUMNS = "format, master_key_id, wrapped_dek, wrapped_dek_iv, ciphertext, iv"


class Migration(migrations.Migration):
    """Moves the sealed keys into a table of their own. There is no way back."""

    dependencies = [
        ('credentials', '0004_endpoint_max_streams'),
    ]

    operations = [
        migrations.CreateModel(
            name='SealedKey',
            fields=[
                ('credential', models.OneToOneField(editable=False, on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='sealed_key', serialize=False, to='credentials.credential')),
                ('format', models.PositiveSmallIntegerField(editable=False)),
                ('master_key_id', models.CharField(editable=False, max_length=64)),
                ('wrapped_dek', models.BinaryField()),
                ('wrapped_dek_iv', models.BinaryField(max_length=12)),
                ('ciphertext', models.BinaryField()),
                ('iv', models.BinaryField(max_length=12)),
            ],
            options={
                'base_manager_name': 'objects',
            },
        ),
        migrations.RunSQL(
            f"INSERT INTO credentials_sealedkey (credential_id, {COLUMNS}) SELECT id, {COLUMNS} FROM credentials_credential"
        ),
        migrations.RemoveIndex(
            model_name='credential',
            name='credentials_by_master_key',
        ),
        *[migrations.RemoveField(model_name='credential', name=name) for name in COLUMNS.split(", ")],
        migrations.AddIndex(
            model_name='sealedkey',
            index=models.Index(fields=['master_key_id', 'credential'], name='credentials_by_master_key'),
        ),
    ]
