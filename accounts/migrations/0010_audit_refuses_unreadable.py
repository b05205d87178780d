from django.db import migrations

# SQL is part of the history: never edit it here, write a new migration.
#
# Whoever has the password of the web half may insert events with any values. What Python cannot read, or would hash in
# another way, would stay in the chain for ever: no checkpoint would be signed any more, or every verification would fail
# there. So an event is refused if it has
# - a number that is not whole, or has more than 53 bits (RFC 8785 would write it in another way),
# - a name in `details` that is not ASCII (RFC 8785 orders names by UTF-16, and PostgreSQL by UTF-8),
# - an IP address with a netmask, which the hash leaves out,
# - a time that a `datetime` cannot hold, such as infinity,
# - lists or objects in `details` deeper than Python would read.
# Functions are replaced without locking a table.
FUNCTIONS = """
    CREATE OR REPLACE FUNCTION accounts_audit_canonical(value jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = {schema}, pg_temp AS $$
    BEGIN
        IF jsonb_typeof(value) = 'object' THEN
            IF EXISTS (SELECT 1 FROM jsonb_object_keys(value) AS names (name) WHERE octet_length(name) <> length(name)) THEN
                RAISE EXCEPTION 'audit events have ASCII names' USING ERRCODE = 'integrity_constraint_violation';
            END IF;
            RETURN '{{' || coalesce((
                SELECT string_agg(to_jsonb(key)::text || ':' || accounts_audit_canonical(item), ',' ORDER BY key COLLATE "C")
                FROM jsonb_each(value) AS pairs (key, item)), '') || '}}';
        ELSIF jsonb_typeof(value) = 'array' THEN
            RETURN '[' || coalesce((
                SELECT string_agg(accounts_audit_canonical(item), ',' ORDER BY position)
                FROM jsonb_array_elements(value) WITH ORDINALITY AS items (item, position)), '') || ']';
        ELSIF jsonb_typeof(value) = 'number' AND (
            value::text !~ '^(0|-?[1-9][0-9]{{0,15}})$' OR abs(value::numeric) > 9007199254740991
        ) THEN
            RAISE EXCEPTION 'audit events have whole numbers of 53 bits' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN value::text;
    END $$;

    CREATE OR REPLACE FUNCTION accounts_auditevent_last() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    DECLARE
        known text;
    BEGIN
        IF NEW.at < '1000-01-01Z' OR NEW.at >= '9999-01-01Z' OR NEW.ip <> host(NEW.ip)::inet
            OR jsonb_path_exists(NEW.details, 'strict $.**{{9}}') THEN
            RAISE EXCEPTION 'audit events have a plain time, address and details' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        SELECT content_hash INTO known FROM accounts_auditlink WHERE event_id = NEW.id;
        IF NOT FOUND THEN
            -- Changes nothing, and puts the trigger that chains behind all others of this transaction.
            UPDATE accounts_auditevent SET nonce = nonce WHERE id = NEW.id;
        ELSIF known <> accounts_audit_content_hash(NEW) THEN
            RAISE EXCEPTION 'audit events are append-only' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NULL;
    END $$
"""


def replace(apps, schema_editor):
    connection = schema_editor.connection
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_schema()")
            (schema,) = cursor.fetchone()
            cursor.execute(FUNCTIONS.format(schema=connection.ops.quote_name(schema)))


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0009_audit_links'),
    ]

    operations = [
        migrations.RunPython(replace, migrations.RunPython.noop),
    ]
