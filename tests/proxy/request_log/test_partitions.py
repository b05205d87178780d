"""On PostgreSQL, days of records are dropped whole, and the table of an older version becomes one of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from tests.support.database_roles import Database, migrated
from tests.support.postgres import PASSWORD, ROLE, SUPERUSER, Cluster
from tests.support.running import Strake, prepare_home
from tests.support.upstream import eventually

# --- The migration -------------------------------------------------------------------------------------------------

# What a server of the version before executes, in the schema of that time.
OLD_RECORDS = """
    INSERT INTO proxy_requestrecord (endpoint_id, token_id, status, latency_ms, first_byte_ms, at, error, phase) VALUES
"""
OLD_ROLLUPS = """
    INSERT INTO proxy_requestrollup (endpoint_id, hour, status_class, count, latency_histogram)
    VALUES ('{endpoint}', '2026-11-24 12:00:00{zone}', 2, 1, '[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]')
    ON CONFLICT (endpoint_id, hour, status_class) DO UPDATE SET count = proxy_requestrollup.count + excluded.count
"""
NEW_RECORDS = """
import json, time
from credentials.models import Endpoint
from proxy.models import OldRollup, RequestRecord
from proxy.request_log import stats
from proxy.request_log.writer import Entry, write
from strake.pages.request_lines import newest_lines, recent_lines
endpoint = Endpoint.objects.get()
token = endpoint.tokens.get()
now = time.time()
write([Entry(endpoint.pk, token.pk, 200, 5, 5, now + 86_400 * days) for days in (-40, -1, 0, 0, 3, 400)])
newest = RequestRecord.objects.filter(endpoint=endpoint).order_by("-at", "-id")
print(json.dumps({
    "records": RequestRecord.objects.count(),
    "ids": len(set(RequestRecord.objects.values_list("id", flat=True))),
    "latencies": sorted(RequestRecord.objects.values_list("latency_ms", flat=True)),
    "newest": [record.latency_ms for record in newest[:2]],
    "old": sum(OldRollup.objects.values_list("count", flat=True)),
    "last day": stats.last_day([endpoint])[endpoint.pk],
    "median": stats.steps_of(endpoint, stats.PERIODS["30d"])[1].p50,
    "newest is found": stats.newest_record_at() is not None,
    "lines": len(newest_lines(Endpoint.objects.all(), 50, after=None)) == len(recent_lines(endpoint, 50)),
}))
"""


def test_records_and_totals_survive_the_migration(strake_before: Strake) -> None:
    strake = strake_before
    strake.manage("migrate", "-v0", check=True)
    found = json.loads(strake.python(NEW_RECORDS))
    assert found == {
        "records": 9,
        "ids": 9,
        "latencies": [1, 2, 3, 5, 5, 5, 5, 5, 5],
        "newest": [5, 3],
        "old": 1,
        "last day": 4,
        "median": 5,
        "newest is found": True,
        "lines": True,
    }


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def strake_before(request: pytest.FixtureRequest, tmp_path: Path) -> Strake:
    """A Strake that is not running, with the tables and a few rows of the version before."""
    url = {"DATABASE_URL": request.getfixturevalue("postgres_url")} if request.param == "postgresql" else {}
    strake = Strake(tmp_path / "home", url)
    prepare(strake)
    strake.python(
        """
from datetime import timedelta
from django.db import connection
from django.utils import timezone
from credentials.models import Endpoint
endpoint = Endpoint.objects.get()
token = endpoint.tokens.get()
native = connection.features.has_native_uuid_field
key = str(endpoint.pk) if native else endpoint.pk.hex
with connection.cursor() as cursor:
    for latency, days in ((1, -60), (2, -1), (3, 100)):
        at = connection.ops.adapt_datetimefield_value(timezone.now() + timedelta(days=days))
        cursor.execute(sys.argv[1] + " (%s, %s, 200, %s, NULL, %s, '', '')", [key, token.pk, latency, at])
    cursor.execute(sys.argv[2].format(endpoint=key, zone="+00" if native else ""))
""",
        OLD_RECORDS,
        OLD_ROLLUPS,
    )
    return strake


def prepare(strake: Strake) -> None:
    """Migrate to the version before, and make an endpoint."""
    prepare_home(strake.home)
    strake.python("""
from django.core.management import call_command
for target in (["accounts"], ["credentials"], ["sessions"], ["proxy", "0003"]):
    call_command("migrate", *target, verbosity=0)
""")
    strake.connect("https://api.example.com")
    strake.hang_up()


@pytest.mark.postgres
def test_servers_of_the_version_before_go_on(postgres_cluster: Cluster, postgres_url: str, tmp_path: Path) -> None:
    """They insert from before the migration until after it, with the rights of that time."""
    strake = Strake(tmp_path / "home", {"DATABASE_URL": postgres_url})
    prepare(strake)
    name = postgres_url.rpartition("/")[2]
    role = f"proxy_of_{name}"
    inserted: list[int] = []
    errors: list[Exception] = []
    migrated_now, done = threading.Event(), threading.Event()
    with psycopg.connect(postgres_cluster.url_of(name, SUPERUSER), autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
        superuser.execute(f"GRANT INSERT ON proxy_requestrecord TO {role}")
        superuser.execute(f"GRANT SELECT, INSERT, UPDATE ON proxy_requestrollup TO {role}")
        try:
            insert = threading.Thread(
                target=insert_until,
                args=(postgres_cluster.url_of(name, role), migrated_now, done, inserted, errors),
            )
            insert.start()
            eventually(lambda: len(inserted) > 20)
            strake.manage("migrate", "-v0", check=True)
            migrated_now.set()
            insert.join(120)
            assert done.is_set(), errors
            count = "SELECT count(*), count(DISTINCT id) FROM proxy_requestrecord"
            assert superuser.execute(count).fetchall() == [(len(inserted), len(inserted))]
            assert superuser.execute("SELECT sum(count) FROM proxy_requestrollup").fetchone() == (len(inserted),)
        finally:
            superuser.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def insert_until(
    url: str, migrated_now: threading.Event, done: threading.Event, inserted: list[int], errors: list[Exception]
) -> None:
    """Insert records and add to totals until 20 times after the migration, in the statements of the version before.

    Like a server of that version, this writes again what fails for a reason outside of the rows, such as a deadlock.
    """
    endpoint, left = "00000000-0000-0000-0000-000000000001", 20
    try:
        with psycopg.connect(url) as connection:
            while left:
                row = f"('{endpoint}', 'ctok_a', 200, 1, NULL, now(), '', '')"
                try:
                    connection.execute((OLD_RECORDS + row).encode())
                    connection.execute(OLD_ROLLUPS.format(endpoint=endpoint, zone="+00").encode())
                    connection.commit()
                except psycopg.OperationalError:
                    connection.rollback()
                    continue
                inserted.append(1)
                left -= migrated_now.is_set()
        done.set()
    except psycopg.Error as error:
        errors.append(error)


@pytest.mark.postgres
def test_interrupted_migration_can_be_repeated(postgres_url: str, tmp_path: Path) -> None:
    strake = Strake(tmp_path / "home", {"DATABASE_URL": postgres_url})
    prepare(strake)
    # As after its first step, in the year before.
    with psycopg.connect(postgres_url) as connection:
        connection.execute(
            "CREATE TABLE proxy_requestrecord_other (LIKE proxy_requestrecord INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
        )
        connection.execute(
            "ALTER TABLE proxy_requestrecord ADD CONSTRAINT proxy_requestrecord_until "
            "CHECK (at < '2026-01-01') NOT VALID"
        )
    strake.manage("migrate", "-v0", check=True)
    assert json.loads(strake.python(NEW_RECORDS))["records"] == 6


# --- Days ----------------------------------------------------------------------------------------------------------

DAYS = """
    SELECT relname::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'proxy_requestrecord'::regclass ORDER BY 1
"""
# Takes the first 20 days out, so that there are days to drop: a new database has one for all of the past.
PAST_DAYS = """
    DROP TABLE proxy_requestrecord_before;
    DO $$
    DECLARE
        day timestamptz := date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '40 days';
    BEGIN
        SET LOCAL timezone = 'UTC';
        WHILE day < now() + interval '1 day' LOOP
            EXECUTE format('CREATE TABLE %I PARTITION OF proxy_requestrecord FOR VALUES FROM (%L) TO (%L)',
                'proxy_requestrecord_' || to_char(day, 'YYYYMMDD'), day, day + interval '1 day');
            day := day + interval '1 day';
        END LOOP;
    END $$;
    INSERT INTO proxy_requestrecord (endpoint_id, token_id, status, latency_ms, at)
        SELECT gen_random_uuid(), 'ctok_a', 200, 1, now() - number * interval '1 hour'
        FROM generate_series(0, 24 * 35) AS number
"""
AGES = "SELECT count(*), max(now() - at) < interval '31 days' FROM proxy_requestrecord"


@pytest.fixture
def database(postgres_cluster: Cluster, tmp_path: Path) -> Iterator[Database]:
    """A database with the roles of the halves, and 35 days of a record each hour."""
    with migrated(postgres_cluster, tmp_path / "home") as made:
        with psycopg.connect(made.url(ROLE)) as owner:
            owner.execute(PAST_DAYS)
        made.grant()
        yield made


def prune(database: Database) -> str:
    done = database.command("prune")
    assert done["failed"] == ""
    return done["output"]


def days(database: Database) -> list[str]:
    return [name.rpartition("_")[2] for (name,) in database.execute(ROLE, DAYS)]


def day(after: int) -> str:
    return f"{datetime.now(UTC) + timedelta(days=after):%Y%m%d}"


@pytest.mark.postgres
def test_command_drops_days_and_creates_those_ahead(database: Database) -> None:
    database.execute(ROLE, f"DROP TABLE proxy_requestrecord_{day(14)}, proxy_requestrecord_{day(13)}")
    printed = database.strake.manage("prune", check=True).stdout  # a process of its own, once
    assert "10 days of request records removed" in printed
    assert days(database) == [*(day(number) for number in range(-30, 15)), "other"]
    [[count, none_older]] = database.execute(ROLE, AGES)
    assert none_older
    assert count >= 24 * 30
    assert "0 days of request records removed" in prune(database)


@pytest.mark.postgres
def test_web_half_prunes_with_its_role(database: Database) -> None:
    """All but audit events: only the owner may remove these."""
    old = "SELECT 'old', '', '', '', jsonb_build_object(), now() - interval '400 days'"
    database.execute(
        ROLE, f"INSERT INTO accounts_auditevent (action, subject_type, subject_id, subject_label, details, at) {old}"
    )
    web = Strake(database.strake.home, database.strake.environment | {"DATABASE_URL": database.url(database.web)})
    web.python("from strake import pruning; pruning.run_in_turn()")
    [[_, none_older]] = database.execute(ROLE, AGES)
    assert none_older
    assert days(database)[0] == day(-30)
    count = "SELECT count(*) FROM accounts_auditevent WHERE action = 'old'"
    assert database.execute(ROLE, count) == [(1,)]
    prune(database)
    assert database.execute(ROLE, count) == [(0,)]


@pytest.mark.postgres
def test_nothing_younger_than_a_day_is_dropped(database: Database) -> None:
    database.execute(database.web, "SELECT proxy_requestrecord_maintain('infinity')")
    assert days(database)[0] >= day(-2)
    [[count, _]] = database.execute(ROLE, AGES)
    assert count >= 24


@pytest.mark.postgres
def test_days_in_use_wait_for_the_next_time(database: Database) -> None:
    """A backup that reads the table holds a lock for hours. Whoever inserts must not wait behind us for as long."""
    before = days(database)
    with psycopg.connect(database.url(ROLE)) as backup:
        backup.execute("SELECT count(*) FROM proxy_requestrecord")
        assert "0 days of request records removed" in prune(database)
        assert days(database) == before
    assert "10 days of request records removed" in prune(database)


@pytest.mark.postgres
def test_records_without_their_day_are_kept_and_pruned(database: Database) -> None:
    """After a fortnight without maintenance, and by clocks that are wrong. They stay in the default partition."""
    insert = "INSERT INTO proxy_requestrecord (endpoint_id, token_id, status, latency_ms, at) "
    row = "SELECT gen_random_uuid(), 'ctok_a', 200, 1, "
    database.execute(ROLE, f"DROP TABLE proxy_requestrecord_{day(0)}, proxy_requestrecord_{day(1)}")
    for number in range(2, 15):
        database.execute(ROLE, f"DROP TABLE proxy_requestrecord_{day(number)}")
    for at in ("now()", "now() + interval '1000 days'", "now() - interval '1000 days'"):
        database.execute(database.proxy, f"{insert} {row} {at}")
    prune(database)
    assert [name for name in days(database) if name >= day(0)] == [*(day(number) for number in range(1, 15)), "other"]
    others = database.execute(ROLE, "SELECT at::date - now()::date FROM proxy_requestrecord_other ORDER BY at")
    assert others == [(0,), (1000,)]


@pytest.mark.postgres
def test_old_table_is_pruned_in_batches(migrated_url: str, migrated_home: Path) -> None:
    strake = Strake(migrated_home, {"DATABASE_URL": migrated_url})
    with psycopg.connect(migrated_url) as connection:
        connection.execute(
            "INSERT INTO proxy_requestrecord (endpoint_id, token_id, status, latency_ms, at) "
            "SELECT gen_random_uuid(), 'ctok_a', 200, 1, now() - number * interval '4 minutes' "
            "FROM generate_series(0, 360 * 40) AS number"
        )
    printed = strake.manage("prune", check=True).stdout
    with psycopg.connect(migrated_url) as connection:
        [[count, none_older]] = connection.execute(AGES).fetchall()
    assert none_older
    assert f"{14_401 - count} request records removed" in printed
