"""The rights of the two halves' database roles, and what PostgreSQL refuses to whoever has their passwords."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from proxy.access import route_versions
from strake import database_roles
from tests.support.database_roles import Database, migrated
from tests.support.postgres import ROLE, SUPERUSER, Cluster
from tests.support.running import Strake

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def database(postgres_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with an endpoint, after `grant_roles`. No test leaves a change in it."""
    with migrated(postgres_cluster, tmp_path_factory.mktemp("roles") / "home") as shared:
        shared.strake.connect("https://api.example.com")
        shared.grant()
        yield shared


# --- The rights ----------------------------------------------------------------------------------------------------

READ_AND_WRITE = "DELETE, INSERT, SELECT, UPDATE"
WEB = {
    "accounts_accesstoken": "DELETE, INSERT, SELECT, UPDATE (last_used_at, revoked_at)",
    "accounts_auditcheckpoint": "SELECT",
    "accounts_auditevent": "INSERT, SELECT",
    "accounts_auditlink": "SELECT",
    "accounts_browsersession": "DELETE, INSERT, SELECT, UPDATE (ip, last_seen_at)",
    "accounts_cacheentry": READ_AND_WRITE,
    "accounts_devicegrant": "DELETE, INSERT, SELECT, UPDATE (allowed_at, asked_at, denied_at, interval, "
    "used_at, user_id)",
    "accounts_notice": "DELETE, INSERT, SELECT, UPDATE (first_at, seen_at)",
    "accounts_noticechoices": "DELETE, INSERT, SELECT, UPDATE (muted_mail, muted_webhook)",
    "accounts_noticewatch": "INSERT, SELECT, UPDATE (due_at, looked_until)",
    "accounts_outboxmail": "DELETE, INSERT, SELECT, UPDATE (attempts, details, due_at)",
    "accounts_signinlink": "DELETE, INSERT, SELECT, UPDATE (created_at, expires_at, token_digest, used_at)",
    "accounts_user": "DELETE, INSERT, SELECT, UPDATE (session_epoch, suspended_at)",
    "accounts_webhook": "DELETE, INSERT, SELECT, UPDATE (disabled_at, failing_since, failures, last_at, last_result, "
    "rotated_at, secret_digest, version)",
    "credentials_bearertoken": "DELETE, INSERT, SELECT, UPDATE (allow_minting, allowed_networks, allowed_origins, "
    "allowed_paths, concurrent_requests, digest, expires_at, label, last_used_at, preview, requests_per_day, "
    "requests_per_minute, requests_per_month, revoked_at)",
    "credentials_credential": READ_AND_WRITE,
    "credentials_derivedtoken": "DELETE, SELECT (credential_id, expires_at, failed_at, failure)",
    "credentials_endpoint": "DELETE, INSERT, SELECT, UPDATE (label, max_streams, paused_at)",
    "credentials_masterkeycheck": "INSERT, SELECT, UPDATE (created_at)",
    "credentials_sealedkey": "DELETE, INSERT, SELECT (credential_id, master_key_id), "
    "UPDATE (ciphertext, format, iv, master_key_id, wrapped_dek, wrapped_dek_iv)",
    "credentials_serverprocess": READ_AND_WRITE,
    "django_content_type": "SELECT",
    "django_migrations": "SELECT",
    "django_session": READ_AND_WRITE,
    "proxy_refusalcount": "DELETE, SELECT",
    "proxy_requestrecord": "DELETE, SELECT",
    "proxy_requestrollup": "DELETE, SELECT",
    "proxy_rollup": "DELETE, SELECT",
    "proxy_uploadcapability": "DELETE, SELECT (digest, expires_at, token_id)",
}
PROXY = {
    "accounts_auditcheckpoint": "INSERT, SELECT",
    "accounts_auditlink": "SELECT",
    "accounts_user": "SELECT (email, id, suspended_at)",
    "credentials_bearertoken": "SELECT, UPDATE (last_used_at)",
    "credentials_credential": "SELECT",
    "credentials_derivedtoken": "INSERT, SELECT, UPDATE",
    "credentials_endpoint": "SELECT",
    "credentials_masterkeycheck": "SELECT",
    "credentials_sealedkey": "SELECT",
    "credentials_serverprocess": READ_AND_WRITE,
    "django_migrations": "SELECT",
    "proxy_refusalcount": "INSERT, SELECT, UPDATE (count, last_at)",
    "proxy_requestrecord": "INSERT",
    "proxy_requestrollup": "INSERT, SELECT, UPDATE (count, latency_histogram)",
    "proxy_rollup": "INSERT, SELECT, UPDATE (count, latency_histogram, latency_max_ms)",
    "proxy_uploadcapability": "DELETE, INSERT, SELECT",
}


def test_each_role_has_exactly_these_rights(database: Database) -> None:
    everywhere = {"database": "CONNECT", "schema public": "USAGE"}
    maintenance = {"function proxy_requestrecord_maintain": "EXECUTE"}
    assert database.granted(database.web) == WEB | everywhere | maintenance
    assert database.granted(database.proxy) == PROXY | everywhere


def test_every_model_has_an_entry() -> None:
    assert set(database_roles.RIGHTS) == set(database_roles.models())


def test_every_table_has_a_model(database: Database) -> None:
    found = database.execute(
        SUPERUSER,
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
        "AND NOT relispartition",
    )
    assert sorted(name for (name,) in found) == database_roles.tables()


# --- The web half --------------------------------------------------------------------------------------------------

NEW_ROW = "INSERT INTO credentials_sealedkey SELECT gen_random_uuid(), 1, 'a', '', '', '', ''"
READS = {
    **{
        column: f"SELECT {column} FROM credentials_sealedkey"
        for column in ("ciphertext", "iv", "wrapped_dek", "wrapped_dek_iv", "format")
    },
    "every column": "SELECT * FROM credentials_sealedkey",
    "row": "SELECT sealed FROM credentials_sealedkey AS sealed",
    "row as JSON": "SELECT to_jsonb(sealed) FROM credentials_sealedkey AS sealed",
    "size": "SELECT sum(length(ciphertext)) FROM credentials_sealedkey",
    "condition": "SELECT 1 FROM credentials_sealedkey WHERE get_byte(ciphertext, 0) = 0",
    "order": "SELECT credential_id FROM credentials_sealedkey ORDER BY ciphertext",
    "lock": "SELECT iv FROM credentials_sealedkey FOR UPDATE",
    "RETURNING of UPDATE": "UPDATE credentials_sealedkey SET format = 1 RETURNING ciphertext",
    "RETURNING of DELETE": "DELETE FROM credentials_sealedkey RETURNING ciphertext",
    "RETURNING of INSERT": f"{NEW_ROW} RETURNING ciphertext",
    "RETURNING of upsert": f"{NEW_ROW} ON CONFLICT (credential_id) DO UPDATE SET format = 1 RETURNING ciphertext",
    "copied by UPDATE": "UPDATE credentials_sealedkey SET master_key_id = left(encode(ciphertext, 'hex'), 64)",
    "copied by upsert": f"{NEW_ROW} ON CONFLICT (credential_id) DO UPDATE "
    "SET master_key_id = encode(credentials_sealedkey.ciphertext, 'hex')",
    "copied by INSERT": "INSERT INTO accounts_cacheentry (key_digest) "
    "SELECT encode(ciphertext, 'hex') FROM credentials_sealedkey",
    "copied by MERGE": "MERGE INTO credentials_sealedkey AS to_row USING credentials_sealedkey AS from_row "
    "ON to_row.credential_id = from_row.credential_id "
    "WHEN MATCHED THEN UPDATE SET master_key_id = encode(from_row.ciphertext, 'hex')",
    "condition of UPDATE": "UPDATE credentials_sealedkey SET format = 1 WHERE get_byte(ciphertext, 0) < 128",
    "condition of DELETE": "DELETE FROM credentials_sealedkey WHERE get_byte(ciphertext, 0) < 128",
    "COPY": "COPY credentials_sealedkey TO STDOUT",
    "COPY of a query": "COPY (SELECT ciphertext FROM credentials_sealedkey) TO STDOUT",
    "cursor": "DO 'DECLARE c CURSOR FOR SELECT ciphertext FROM credentials_sealedkey; BEGIN OPEN c; END'",
    "view": "CREATE TEMP VIEW sealed AS SELECT ciphertext FROM credentials_sealedkey; SELECT * FROM sealed",
    "table": "CREATE TEMP TABLE sealed AS SELECT * FROM credentials_sealedkey",
    "function": "CREATE FUNCTION pg_temp.sealed() RETURNS SETOF bytea LANGUAGE sql SECURITY DEFINER "
    "AS 'SELECT ciphertext FROM credentials_sealedkey'; SELECT pg_temp.sealed()",
    "statistics": "SELECT stavalues1 FROM pg_statistic WHERE starelid = 'credentials_sealedkey'::regclass",
}
CREATES = {
    "table": "CREATE TABLE public.mine (x int)",
    "function": "CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT pg_catalog.now()'",
    "operator": "CREATE OPERATOR public.= (FUNCTION = pg_catalog.texteq, LEFTARG = text, RIGHTARG = text)",
    "schema": "CREATE SCHEMA mine",
    "trigger": "CREATE TRIGGER mine AFTER INSERT ON accounts_user EXECUTE FUNCTION accounts_auditevent_refuse()",
    "rule": "CREATE RULE mine AS ON UPDATE TO credentials_sealedkey DO ALSO NOTIFY mine",
    "policy": "ALTER TABLE credentials_sealedkey DISABLE ROW LEVEL SECURITY",
    "inheritance": "CREATE TEMP TABLE mine () INHERITS (credentials_sealedkey)",
    "foreign key": "CREATE TABLE mine (x uuid REFERENCES credentials_sealedkey)",
    "publication": "CREATE PUBLICATION mine FOR TABLE credentials_sealedkey",
    "replication slot": "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')",
    "role": "CREATE ROLE mine",
    "extension": "CREATE EXTENSION hstore",
    "program": "COPY (SELECT 1) TO PROGRAM 'true'",
    "file": "SELECT pg_read_file('postgresql.conf')",
}
BECOMES = ("SET ROLE {}", "SET SESSION AUTHORIZATION {}", "GRANT {} TO CURRENT_USER", "ALTER ROLE {} PASSWORD 'x'")


def refused(database: Database, role: str, statement: str, *roles: str) -> str:
    """Run a statement that must be refused for lack of a right. Returns the error."""
    with pytest.raises(InsufficientPrivilege) as error:
        database.execute(role, statement, *roles)
    return str(error.value)


@pytest.mark.parametrize("way", READS)
def test_web_role_cannot_read_a_sealed_key(database: Database, way: str) -> None:
    assert re.search("credentials_sealedkey|pg_statistic", refused(database, database.web, READS[way]))


def test_web_role_can_read_whose_key_it_is(database: Database) -> None:
    rows = database.execute(database.web, "SELECT credential_id, master_key_id FROM credentials_sealedkey")
    assert rows == database.execute(ROLE, "SELECT credential_id, master_key_id FROM credentials_sealedkey")
    assert rows


NOTICES = """
from datetime import timedelta
from django.db import transaction
from django.utils import timezone
from accounts import users
from accounts.actors import Person
from accounts.models import NoticeWatch, OutboxMail, User, Webhook
from accounts.notices import choices, publishing, watch
from accounts.notices.kinds import KINDS
from credentials.webhooks import delivery, service

with transaction.atomic():
    person, now = Person(User.objects.get()), timezone.now()
    webhook = Webhook(person=person.user, url="https://example.com/", disabled_at=now)
    webhook.save()
    service.resume_webhook(actor=person)
    service.rotate_webhook_secret(actor=person)
    for wanted in ([], KINDS):
        choices.choose(actor=person, mail=wanted, webhook=wanted)
    for watcher in watch._watchers.values():
        watch._look(watcher)
        NoticeWatch.objects.update(due_at=now - timedelta(hours=1))
        watch._look(watcher)
    facts = {"token": {"label": "x"}, "endpoint": {}}
    expired = publishing.Sighting(person.user.pk, KINDS["token.expired"], "one", facts)
    for _ in range(2):
        print(publishing.publish([expired], now))
    delivery._note(OutboxMail.objects.get(kind="webhook"), delivery.NotDelivered("no", gone=True))
    print(OutboxMail.objects.get(details__notice="webhook.disabled").pk > 0 and 1)
    service.remove_webhook(actor=person)
    users.delete_account(actor=person, confirmation=person.user.email)
    transaction.set_rollback(True)
"""


def test_web_role_can_look_and_tell(database: Database) -> None:
    web = Strake(database.strake.home, database.strake.environment | {"DATABASE_URL": database.url(database.web)})
    assert web.python(NOTICES).split() == ["1", "0", "1"]


@pytest.mark.parametrize("broken", ["master_key_id = NULL", "format = -1"])
def test_error_does_not_show_the_rest_of_the_row(database: Database, broken: str) -> None:
    """PostgreSQL's message about a row that breaks a constraint shows the row, as far as the role may read it."""
    ((ciphertext,),) = database.execute(ROLE, "SELECT encode(ciphertext, 'hex') FROM credentials_sealedkey")
    statement = f"UPDATE credentials_sealedkey SET {broken}"
    with pytest.raises(psycopg.IntegrityError) as shown:
        database.execute(ROLE, statement)
    assert ciphertext[:32] in str(shown.value), "the owner sees the row"
    with pytest.raises(psycopg.IntegrityError) as error:
        database.execute(database.web, statement)
    assert "Failing row contains" in str(error.value)
    assert ciphertext[:16] not in str(error.value)


def test_statistics_do_not_show_sealed_columns(database: Database) -> None:
    query = "SELECT attname FROM pg_stats WHERE tablename = 'credentials_sealedkey'"
    database.execute(ROLE, "ANALYZE credentials_sealedkey")
    assert ("ciphertext",) in database.execute(ROLE, query)
    assert {name for (name,) in database.execute(database.web, query)} == {"credential_id", "master_key_id"}


@pytest.mark.parametrize("what", CREATES)
def test_neither_role_can_create_or_run(database: Database, what: str) -> None:
    for role in (database.web, database.proxy):
        refused(database, role, CREATES[what])


@pytest.mark.parametrize("statement", BECOMES)
def test_neither_role_can_become_another(database: Database, statement: str) -> None:
    for role, others in (
        (database.web, (database.proxy, ROLE, SUPERUSER)),
        (database.proxy, (database.web, ROLE, SUPERUSER)),
    ):
        for other in others:
            refused(database, role, statement, other)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts_auditevent SET action = 'x'",
        "DELETE FROM accounts_auditevent",
        "UPDATE accounts_user SET is_staff = true",
        "UPDATE accounts_user SET email = 'x'",
        "UPDATE credentials_endpoint SET owner_id = gen_random_uuid()",
        "UPDATE credentials_masterkeycheck SET retired_at = NULL",
        "DELETE FROM credentials_masterkeycheck",
        "INSERT INTO proxy_requestrecord SELECT",
        "DELETE FROM django_migrations",
        "INSERT INTO auth_permission SELECT",
        "UPDATE credentials_sealedkey SET credential_id = gen_random_uuid()",
        "TRUNCATE credentials_sealedkey",
    ],
)
def test_web_role_cannot_write_what_no_page_writes(database: Database, statement: str) -> None:
    refused(database, database.web, statement)


# --- The proxy half ------------------------------------------------------------------------------------------------


def test_proxy_role_can_look_a_route_up(database: Database) -> None:
    """System columns need rights too."""
    ((subdomain,),) = database.execute(ROLE, "SELECT subdomain FROM credentials_endpoint")
    with database.connect(database.proxy) as connection:
        connection.execute(f"PREPARE look_up (text, text, text) AS {route_versions.statement()}".encode())
        rows = connection.execute(f"EXECUTE look_up ('{subdomain}', '00', '')".encode()).fetchall()
    assert len(rows) == 1


@pytest.mark.parametrize("table", sorted(WEB.keys() - PROXY.keys()))
def test_proxy_role_cannot_read_what_is_the_web_halfs(database: Database, table: str) -> None:
    assert table in refused(database, database.proxy, f"SELECT 1 FROM {table}")


@pytest.mark.parametrize(
    "statement",
    [
        *(
            f"{verb} credentials_{table}{rest}"
            for table in ("bearertoken", "endpoint", "credential", "sealedkey", "masterkeycheck")
            for verb, rest in (("INSERT INTO", " SELECT"), ("DELETE FROM", ""))
        ),
        "UPDATE credentials_bearertoken SET revoked_at = NULL",
        "UPDATE credentials_bearertoken SET digest = ''",
        "UPDATE credentials_endpoint SET paused_at = NULL",
        "UPDATE credentials_credential SET destination_url = ''",
        "UPDATE credentials_sealedkey SET iv = ''",
        "DELETE FROM proxy_requestrecord",
        "UPDATE proxy_requestrecord SET status = 200",
        "SELECT 1 FROM proxy_requestrecord",
        "SELECT 1 FROM proxy_requestrecord_before",
        "SELECT proxy_requestrecord_maintain('infinity')",
        "DROP TABLE proxy_requestrecord_before",
        "INSERT INTO accounts_auditevent SELECT",
    ],
)
def test_proxy_role_cannot_write_what_is_the_web_halfs(database: Database, statement: str) -> None:
    refused(database, database.proxy, statement)
