import hashlib
import json
import uuid
from datetime import UTC, datetime

import rfc8785
from django.db import migrations, transaction

# Code and SQL are part of the history: never edit them here, write a new migration.
BATCH = 2000

# The hashes that `accounts.audit_chain` documents. The canonical JSON of RFC 8785 is simple here, since there are no
# numbers but whole ones: PostgreSQL escapes strings as the RFC demands, and only the order of the names is missing.
# Names are ASCII, so their bytes have the order of their UTF-16 code units.
FUNCTIONS = """
    CREATE OR REPLACE FUNCTION accounts_audit_canonical(value jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = {schema}, pg_temp AS $$
    BEGIN
        IF jsonb_typeof(value) = 'object' THEN
            RETURN '{{' || coalesce((
                SELECT string_agg(to_jsonb(key)::text || ':' || accounts_audit_canonical(item), ',' ORDER BY key COLLATE "C")
                FROM jsonb_each(value) AS pairs (key, item)), '') || '}}';
        ELSIF jsonb_typeof(value) = 'array' THEN
            RETURN '[' || coalesce((
                SELECT string_agg(accounts_audit_canonical(item), ',' ORDER BY position)
                FROM jsonb_array_elements(value) WITH ORDINALITY AS items (item, position)), '') || ']';
        END IF;
        RETURN value::text;
    END $$;

    CREATE OR REPLACE FUNCTION accounts_audit_content_hash(event accounts_auditevent) RETURNS text
    LANGUAGE sql STABLE SET search_path = {schema}, pg_temp AS $$
        SELECT encode(sha256(convert_to(E'strake/audit/content/v1\\n' || accounts_audit_canonical(jsonb_build_object(
            'account', event.account_id, 'actor', event.actor_id, 'action', event.action,
            'subject_type', event.subject_type, 'subject_id', event.subject_id, 'subject_label', event.subject_label,
            'ip', host(event.ip), 'via', event.via, 'details', event.details, 'nonce', encode(event.nonce, 'hex')
        )), 'UTF8')), 'hex')
    $$;

    CREATE OR REPLACE FUNCTION accounts_audit_link_hash(
        at timestamptz, content_hash text, previous_hash text, sequence bigint) RETURNS text
    LANGUAGE sql STABLE SET search_path = {schema}, pg_temp AS $$
        SELECT encode(sha256(convert_to(format(
            E'strake/audit/link/v1\\n{{"at":"%s","content_hash":"%s","previous_hash":"%s","sequence":%s}}',
            to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), content_hash, previous_hash, sequence
        ), 'UTF8')), 'hex')
    $$;

    CREATE OR REPLACE FUNCTION accounts_auditevent_last() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    DECLARE
        known text;
    BEGIN
        SELECT content_hash INTO known FROM accounts_auditlink WHERE event_id = NEW.id;
        IF NOT FOUND THEN
            -- Changes nothing, and puts the trigger that chains behind all others of this transaction.
            UPDATE accounts_auditevent SET nonce = nonce WHERE id = NEW.id;
        ELSIF known <> accounts_audit_content_hash(NEW) THEN
            RAISE EXCEPTION 'audit events are append-only' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NULL;
    END $$;

    CREATE OR REPLACE FUNCTION accounts_auditevent_chain() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    DECLARE
        digest CONSTANT text := accounts_audit_content_hash(NEW);
        last bigint;
        last_hash text;
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtext('accounts_auditlink'));
        SELECT sequence, hash INTO last, last_hash FROM accounts_auditlink ORDER BY sequence DESC LIMIT 1;
        last := coalesce(last, 0);
        INSERT INTO accounts_auditlink (sequence, event_id, at, content_hash, hash) VALUES (
            last + 1, NEW.id, NEW.at, digest,
            accounts_audit_link_hash(NEW.at, digest, coalesce(last_hash, repeat('0', 64)), last + 1));
        RETURN NULL;
    END $$;

    REVOKE ALL ON FUNCTION accounts_auditevent_last(), accounts_auditevent_chain() FROM PUBLIC
"""
# PostgreSQL checks foreign keys at the end of a transaction too, and locks the rows that they refer to. Whoever had the
# lock of the chain before could wait there for somebody who waits for the chain. So the chain comes last: the first
# trigger runs among the checks, and its UPDATE queues the second one behind them.
TRIGGERS = """
    CREATE CONSTRAINT TRIGGER accounts_auditevent_last AFTER INSERT ON accounts_auditevent
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION accounts_auditevent_last();
    CREATE CONSTRAINT TRIGGER accounts_auditevent_chain AFTER UPDATE ON accounts_auditevent
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION accounts_auditevent_chain()
"""
REMOVE = """
    DROP TRIGGER IF EXISTS accounts_auditevent_last ON accounts_auditevent;
    DROP TRIGGER IF EXISTS accounts_auditevent_chain ON accounts_auditevent;
    DROP FUNCTION IF EXISTS accounts_auditevent_last();
    DROP FUNCTION IF EXISTS accounts_auditevent_chain();
    DROP FUNCTION IF EXISTS accounts_audit_content_hash(accounts_auditevent);
    DROP FUNCTION IF EXISTS accounts_audit_link_hash(timestamptz, text, text, bigint);
    DROP FUNCTION IF EXISTS accounts_audit_canonical(jsonb)
"""
COLUMNS = "id, at, account_id, actor_id, action, subject_type, subject_id, subject_label, {ip}, via, details, nonce"
UNCHAINED = """
    SELECT {columns} FROM accounts_auditevent
    WHERE NOT EXISTS (SELECT 1 FROM accounts_auditlink WHERE event_id = accounts_auditevent.id)
    ORDER BY id LIMIT {limit}
"""


def chain(apps, schema_editor):
    """Give every event a link, by id. Servers continue to write: only the last batch keeps them waiting."""
    connection = schema_editor.connection
    using = connection.alias
    on_postgres = connection.vendor == "postgresql"
    while True:
        with transaction.atomic(using=using), connection.cursor() as cursor:
            if append(cursor, on_postgres) < BATCH:
                break
    with transaction.atomic(using=using), connection.cursor() as cursor:
        if on_postgres:
            cursor.execute("LOCK TABLE accounts_auditevent IN SHARE ROW EXCLUSIVE MODE")
        while append(cursor, on_postgres):
            pass
        if on_postgres:
            cursor.execute("SELECT current_schema()")
            (schema,) = cursor.fetchone()
            cursor.execute(REMOVE)
            cursor.execute(FUNCTIONS.format(schema=connection.ops.quote_name(schema)))
            cursor.execute(TRIGGERS)


def append(cursor, on_postgres):
    cursor.execute("SELECT sequence, hash FROM accounts_auditlink ORDER BY sequence DESC LIMIT 1")
    sequence, previous = cursor.fetchone() or (0, "0" * 64)
    ip = "host(ip)" if on_postgres else "ip"
    cursor.execute(UNCHAINED.format(columns=COLUMNS.format(ip=ip), limit=BATCH))
    links = []
    for id, at, account, actor, *texts, details, nonce in cursor.fetchall():
        names = ("action", "subject_type", "subject_id", "subject_label", "ip", "via")
        content = {
            **dict(zip(names, texts)),
            "account": identifier(account),
            "actor": identifier(actor),
            "details": json.loads(details) if isinstance(details, str) else details,
            "nonce": bytes(nonce).hex(),
        }
        moment = at if isinstance(at, datetime) else datetime.fromisoformat(at)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        sequence += 1
        content_hash = digest("content", content)
        link = {
            "at": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "content_hash": content_hash,
            "previous_hash": previous,
            "sequence": sequence,
        }
        previous = digest("link", link)
        links.append((sequence, id, at, content_hash, previous))
    cursor.executemany(
        "INSERT INTO accounts_auditlink (sequence, event_id, at, content_hash, hash) VALUES (%s, %s, %s, %s, %s)", links
    )
    return len(links)


def digest(domain, value):
    return hashlib.sha256(f"strake/audit/{domain}/v1\n".encode() + rfc8785.dumps(value)).hexdigest()


def identifier(value):
    return None if value is None else str(uuid.UUID(str(value)))


def unchain(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        with schema_editor.connection.cursor() as cursor:
            cursor.execute(REMOVE)


class Migration(migrations.Migration):

    # Several short transactions: servers write events meanwhile.
    atomic = False

    dependencies = [
        ('accounts', '0008_audit_chain'),
    ]

    operations = [
        migrations.RunPython(chain, unchain),
    ]
