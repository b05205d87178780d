import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('credentials', '0008_clouds_places_and_origins'),
    ]

    operations = [
        migrations.AddField(
            model_name='bearertoken',
            name='concurrent_requests',
            field=models.PositiveIntegerField(help_text='In flight in one server process.', null=True),
        ),
        migrations.AddField(
            model_name='bearertoken',
            name='parent',
            field=models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='children', to='credentials.bearertoken'),
        ),
        migrations.AddField(
            model_name='bearertoken',
            name='requests_per_day',
            field=models.PositiveIntegerField(help_text='In a day of UTC, by the request log.', null=True),
        ),
        migrations.AddField(
            model_name='bearertoken',
            name='requests_per_month',
            field=models.PositiveIntegerField(help_text='In a month of UTC, by the request log.', null=True),
        ),
        migrations.AddConstraint(
            model_name='bearertoken',
            constraint=models.CheckConstraint(condition=models.Q(('requests_per_day__isnull', True), ('requests_per_day__gte', 1), _connector='OR'), name='credentials_bearertoken_requests_per_day_is_positive'),
        ),
        migrations.AddConstraint(
            model_name='bearertoken',
            constraint=models.CheckConstraint(condition=models.Q(('requests_per_month__isnull', True), ('requests_per_month__gte', 1), _connector='OR'), name='credentials_bearertoken_requests_per_month_is_positive'),
        ),
        migrations.AddConstraint(
            model_name='bearertoken',
            constraint=models.CheckConstraint(condition=models.Q(('concurrent_requests__isnull', True), ('concurrent_requests__gte', 1), _connector='OR'), name='credentials_bearertoken_concurrent_requests_is_positive'),
        ),
        migrations.AddConstraint(
            model_name='bearertoken',
            constraint=models.CheckConstraint(condition=models.Q(('parent__isnull', True), models.Q(('parent', models.F('id')), _negated=True), _connector='OR'), name='credentials_bearertoken_not_its_own_parent'),
        ),
    ]
