"""The health page: what operators learn from the rows that server processes write."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone

from accounts.models import AuditEvent, User
from accounts.sign_in import throttle
from credentials.models import SealedKey
from credentials.vault import heartbeats
from credentials.vault.heartbeats import Vitals
from credentials.vault.models import MasterKeyCheck, ServerProcess
from proxy.models import RequestRollup
from strake import __version__, pruning
from strake.backups import BACKED_UP
from strake.health import findings
from tests.support import factories
from tests.support.database_roles import migrated
from tests.support.factories import Connected
from tests.support.pages import text
from tests.support.postgres import SUPERUSER, Cluster

ROOT = settings.ROOT
ASK = """
import json
import django
django.setup()
from strake.health import stores
tables = stores.tables()
print(json.dumps([stores.sizes().words, [table.name for table in tables if table.size and table.rows >= 0]]))
"""


@pytest.fixture
def operator(db: None) -> Client:
    client = Client()
    client.force_login(factories.make_user("operator@example.org", is_staff=True))
    return client


@pytest.fixture
def made(alice: User) -> Connected:
    """An endpoint, whose master key is the only one in the registry."""
    return factories.make_endpoint(owner=alice, label="laptop")


@pytest.fixture
def used(made: Connected) -> dict[str, str]:
    """The master key that the endpoint needs, as processes report it."""
    check = MasterKeyCheck.objects.get()
    return {check.key_id: bytes(check.check_value).hex()}


def report(kind: str = "proxy", *, seconds_ago: float = 0, name: str = "", version: str = "", **vitals: Any) -> None:
    """Write the row of a process. By default its primary key is the first of `key_ids`."""
    vitals.setdefault("primary_key_id", next(iter(vitals.get("key_ids", {})), ""))
    process_id = uuid4()
    heartbeats.record(process_id, kind, Vitals(**vitals), timezone.now())
    changes: dict[str, Any] = {"name": name, "version": version}
    ServerProcess.objects.filter(pk=process_id).update(
        seen_at=Now() - timedelta(seconds=seconds_ago), **{field: value for field, value in changes.items() if value}
    )


def shown(operator: Client) -> str:
    page = operator.get("/admin/health/")
    assert page.status_code == HTTPStatus.OK
    return text(page)


def test_page_is_for_staff(client: Client, charlie: User) -> None:
    assert client.get("/admin/health/").status_code == HTTPStatus.FOUND
    client.force_login(charlie)
    assert client.get("/admin/health/", follow=True).status_code == HTTPStatus.FORBIDDEN


def test_healthy_installation(operator: Client, used: dict[str, str]) -> None:
    report(key_ids=used)
    report("web")
    page = shown(operator)
    assert "All is well" in page
    assert "Database OK responds in" in page
    assert "Cache OK responds in" in page
    assert "Proxy OK 1 process forwarding requests" in page
    [key_id] = used
    assert f"Master keys OK {key_id} is primary. Loaded: {key_id} " in page
    assert "Request log OK 0 records waiting " in page
    assert "Emails waiting OK 0 " in page
    assert "Sign-in emails OK 0 in this hour " in page
    assert "Requests open now: 0 " in page


def test_flood_of_sign_in_emails_is_shown(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MAIL_ALARM", throttle.Limit("mail-alarm", 1, 3600))
    for _ in range(2):
        throttle.count(throttle.MAIL_ALARM, "")
    assert "2 in this hour, more than 1. Somebody may be flooding addresses." in shown(operator)


def test_released_version_is_shown(operator: Client) -> None:
    released = tomllib.loads((settings.ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"Strake {released}" in shown(operator)


def test_page_works_without_the_cache(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: object, **__: object) -> None:
        raise ConnectionError("redis://:password@10.0.0.1")

    monkeypatch.setattr("strake.health.stores.cache.set", down)
    page = shown(operator)
    assert "Cache Check does not respond (ConnectionError)" in page
    assert "password" not in page


# --- Processes -----------------------------------------------------------------------------------------------------


def test_missing_proxy_processes_are_reported(operator: Client, used: dict[str, str]) -> None:
    report(key_ids=used, seconds_ago=heartbeats.EXPIRY_SECONDS + 1)
    report("web")
    page = shown(operator)
    assert "Action needed" in page
    assert "Proxy Check No proxy process has reported for 20 s." in page
    assert "Master keys Note unknown until a proxy process reports" in page
    assert "need their key again" not in page


def test_every_live_process_is_listed(operator: Client, used: dict[str, str]) -> None:
    report(key_ids=used, name="host:11", in_flight_total=1204)
    report("web", name="host:12")
    report(key_ids=used, name="host:13", seconds_ago=heartbeats.EXPIRY_SECONDS + 1)
    page = shown(operator)
    [key_id] = used
    assert f"host:11 proxy {__version__} {key_id} 1,204 just now just now" in page
    assert f"host:12 web {__version__} - - just now just now" in page
    assert "host:13" not in page


def test_processes_of_another_version_are_marked(operator: Client, used: dict[str, str]) -> None:
    report(key_ids=used, name="host:11", version="0.0.9")
    report("web", name="host:12")
    page = operator.get("/admin/health/")
    assert "Other versions Note Restart these processes to finish the upgrade: host:11 (0.0.9) Master" in text(page)
    assert page.content.count(b'<span class="chip warn">0.0.9</span>') == 1
    assert "All is well" in text(page)


# --- Master keys ---------------------------------------------------------------------------------------------------


def test_missing_master_key_is_named(operator: Client, used: dict[str, str]) -> None:
    report(key_ids={"other": "00"})
    page = shown(operator)
    [key_id] = used
    assert "Action needed" in page
    assert f"Master keys Check Missing, so these endpoints need their key again: {key_id} (1 endpoint)." in page


def test_key_that_one_process_holds_is_not_missing(operator: Client, used: dict[str, str]) -> None:
    report(key_ids=used, name="host:11")
    report(key_ids={"other": "00"}, name="host:12")
    page = shown(operator)
    [key_id] = used
    assert "Action needed" in page
    assert "The processes have loaded different keyrings." in page
    assert f"host:11: {key_id} is primary, {key_id} loaded" in page
    assert "host:12: other is primary, other loaded" in page
    assert "need their key again" not in page


def test_keyrings_during_a_rotation_are_a_note(operator: Client, used: dict[str, str]) -> None:
    [old] = used
    both = used | {"new": "00"}
    states: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"key_ids": both}, {"key_ids": used}),  # created, and not copied yet
        ({"key_ids": both, "primary_key_id": "new"}, {"key_ids": both}),  # promoted, and not copied yet
    ]
    for here, there in states:
        ServerProcess.objects.all().delete()
        report(name="host:11", **here)
        report(name="host:12", **there)
        page = shown(operator)
        assert "All is well" in page
        assert "Master keys Note The processes have loaded different keyrings." in page
        assert f"host:12: {old} is primary" in page


def test_process_without_the_primary_key_of_another_is_named(operator: Client, used: dict[str, str]) -> None:
    report(key_ids=used | {"new": "00"}, primary_key_id="new", name="host:11")
    report(key_ids=used, name="host:12")
    assert "Master keys Check The processes have loaded different keyrings." in shown(operator)


def test_changed_master_key_is_named(operator: Client, used: dict[str, str]) -> None:
    [key_id] = used
    report(key_ids={key_id: "00" * 16})
    assert f"Master keys Check Changed since their ids were first used: {key_id}." in shown(operator)


def test_different_keys_with_one_id_are_named(operator: Client, used: dict[str, str]) -> None:
    """Neither has been used, so the registry does not know which is right."""
    report(key_ids=used | {"new": "00"})
    report(key_ids=used | {"new": "11"})
    assert "Master keys Check Different keys in different processes: new." in shown(operator)


def test_retired_primary_is_named(operator: Client, used: dict[str, str]) -> None:
    [key_id] = used
    MasterKeyCheck.objects.update(retired_at=timezone.now())
    report(key_ids=used)
    assert f"Master keys Check {key_id} is primary but retired" in shown(operator)


# --- Request log ---------------------------------------------------------------------------------------------------


def test_waiting_records_are_added_and_the_worst_lag_counts(operator: Client, used: dict[str, str]) -> None:
    report(key_ids=used, waiting=1200, lag_seconds=75.04)
    report(key_ids=used, waiting=4, lag_seconds=0.4)
    page = shown(operator)
    assert "Action needed" in page
    assert "Request log Check 1,204 records waiting, 75.0 s behind " in page


def test_lost_records_are_a_note(operator: Client, used: dict[str, str]) -> None:
    report(key_ids=used, lost=1000)
    report(key_ids=used, lost=12, waiting=1, lag_seconds=0.4)
    page = shown(operator)
    assert "Request log Note 1 record waiting, 0.4 s behind. 1,012 lost since the processes started " in page
    assert "All is well" in page


# --- Requests open now ---------------------------------------------------------------------------------------------


def test_open_requests_are_added_over_processes(operator: Client, made: Connected, used: dict[str, str]) -> None:
    busier = factories.make_endpoint(owner=factories.make_user("bob@example.org"), label="agent").endpoint
    laptop = made.endpoint
    report(key_ids=used, in_flight={str(laptop.pk): 3, str(busier.pk): 4}, in_flight_total=7)
    # An endpoint that was deleted meanwhile, and endpoints beyond the 100 that a process reports.
    report(key_ids=used, in_flight={str(busier.pk): 1000, str(uuid4()): 2}, in_flight_total=1012)
    page = shown(operator)
    assert "Requests open now: 1,019 " in page
    assert (
        f"Endpoint Owner Open agent {busier.subdomain} bob@example.org 1,004 "
        f"laptop {laptop.subdomain} alice@example.org 3 Other endpoints 12 " in page
    )


def test_only_the_busiest_endpoints_are_listed(operator: Client, alice: User, used: dict[str, str]) -> None:
    made = [factories.make_endpoint(owner=alice, label=f"tool-{number}").endpoint for number in range(12)]
    report(
        key_ids=used,
        in_flight={str(endpoint.pk): number + 1 for number, endpoint in enumerate(made)},
        in_flight_total=sum(range(13)),
    )
    page = shown(operator)
    assert "tool-11" in page
    assert "tool-2 " in page
    assert "tool-1 " not in page
    assert "Other endpoints 3 " in page


# --- Sizes and work --------------------------------------------------------------------------------------------------


def test_sizes_and_times_are_shown_as_people_read_them(operator: Client, used: dict[str, str]) -> None:
    report(key_ids=used)
    page = shown(operator)
    assert re.search(r"Database size OK [1-9][\d.,]* [kMG]B, .*WAL [\d.]+ \w+ Cache", page)
    assert re.search(r"Disk (OK|Note|Check) the disk with \S+ has [\d.]+ GB left", page)
    assert re.search(r"Database OK responds in (less than 1 ms|[1-9]\d* ms) ", page)
    assert "Servers OK 1 process on " in page
    assert " 0.0 " not in page
    assert [findings.duration(seconds) for seconds in (0.00001, 0.0123, 2)] == ["less than 1 ms", "12 ms", "2.0 s"]
    assert [findings.size(number) for number in (1, 999, 1000, 9_960_000, 999_700_000, 5 * 10**15)] == [
        "1 byte",
        "999 bytes",
        "1.0 kB",
        "10 MB",
        "1.0 GB",
        "5,000 TB",
    ]


def test_errors_are_those_of_a_day(operator: Client, made: Connected, used: dict[str, str]) -> None:
    report(key_ids=used)
    assert "Errors, 24 h OK no requests" in shown(operator)
    this_hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    for hours_ago, status_class, count in ((0, 2, 940), (1, 5, 60), (2, 2, 29_000), (23, 4, 1), (24, 5, 500)):
        RequestRollup.objects.create(
            endpoint=made.endpoint,
            token=made.token,
            hour=this_hour - timedelta(hours=hours_ago),
            status_class=status_class,
            count=count,
            latency_max_ms=1,
        )
    page = shown(operator)
    assert "Errors, this hour and the last Note 60 of 1,000 requests, 6.0 % " in page
    assert "Errors, 24 h OK 60 of 30,001 requests, 0.2 % " in page


def test_last_prune_and_backup_have_an_age(operator: Client, used: dict[str, str]) -> None:
    page = shown(operator)
    assert "Last prune Note none known yet." in page
    assert "Last backup Note none with manage.py backup in 30 days" in page
    now = timezone.now()
    pruning.note_end(now - timedelta(hours=2))
    AuditEvent.objects.create(action=BACKED_UP, subject_type="database", at=now - timedelta(hours=10))
    page = shown(operator)
    assert f"Last prune OK {now - timedelta(hours=2):%Y-%m-%d %H:%M} UTC, 2 hours ago " in page
    assert f"Last backup OK {now - timedelta(hours=10):%Y-%m-%d %H:%M} UTC, 10 hours ago " in page
    pruning.note_end(now - timedelta(days=2))
    assert "UTC, 2 days ago. See the log for pruning_failed or pruning_refused." in shown(operator)


def test_progress_of_a_rotation_is_shown(operator: Client, alice: User, used: dict[str, str]) -> None:
    old, new = *used, "2030-01-b"
    factories.make_endpoint(owner=alice, label="second")
    moved = factories.make_endpoint(owner=alice, label="third")
    report(key_ids=used, name="host:11")
    page = shown(operator)
    assert "Rotation OK nothing to do, 3 provider keys under the primary master key" in page
    assert f"{old} Primary 3 1 of 1" in page
    SealedKey.objects.filter(credential=moved.credential).update(master_key_id=new)
    report(key_ids={new: "00", **used}, name="host:12")
    ServerProcess.objects.filter(name="host:11").update(primary_key_id=new)
    page = shown(operator)
    words = "1 of 3 provider keys under the primary master key, 33 %. Run or finish: manage.py rotate_master_key"
    assert f"Rotation Note {words}" in page
    assert f"{new} Primary Not everywhere 1 1 of 2 not by host:11" in page
    assert f"{old} In use 2 2 of 2" in page


@pytest.mark.postgres
def test_sizes_of_tables_on_postgresql(postgres_cluster: Cluster, tmp_path: Path) -> None:
    """As the web half's role: sizes are for everybody, and the WAL only for whom the operator lets see it."""
    with migrated(postgres_cluster, tmp_path / "home") as database:
        database.grant()
        database.execute(SUPERUSER, "ANALYZE")
        environment = database.strake.environment | {"DATABASE_URL": database.url(database.web)}
        found = []
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", ASK], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
            )
            found.append(json.loads(done.stdout))
            database.execute(SUPERUSER, "GRANT EXECUTE ON FUNCTION pg_ls_waldir() TO {}", database.web)
    (hidden, tables), (shown, _) = found
    assert "write-ahead log not visible to this role" in hidden
    assert re.search(r"WAL [\d.]+ MB", shown)
    assert {"proxy_requestrecord", "accounts_auditevent"} <= set(tables)
    assert not [name for name in tables if re.search(r"\d$", name)], "partitions are one table"
