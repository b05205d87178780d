from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('credentials', '0003_server_process_check_values'),
    ]

    operations = [
        migrations.AddField(
            model_name='endpoint',
            name='max_streams',
            field=models.PositiveIntegerField(help_text='Requests in flight in one server process; without it, only STRAKE_MAX_STREAMS counts.', null=True),
        ),
        migrations.AddConstraint(
            model_name='endpoint',
            constraint=models.CheckConstraint(condition=models.Q(('max_streams__isnull', True), ('max_streams__gte', 1), _connector='OR'), name='credentials_endpoint_max_streams_is_positive'),
        ),
    ]
