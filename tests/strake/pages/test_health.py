"""The health page: what operators learn from the rows that server processes write."""

from __future__ import annotations

import tomllib
from datetime import timedelta
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone

from accounts.models import User
from accounts.sign_in import throttle
from credentials.vault import heartbeats
from credentials.vault.heartbeats import Vitals
from credentials.vault.models import MasterKeyCheck, ServerProcess
from strake import __version__
from tests.support import factories
from tests.support.factories import Connected
from tests.support.pages import text


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
    assert "Database fine responds in" in page
    assert "Cache fine responds in" in page
    assert "Proxy fine 1 process forwarding requests" in page
    [key_id] = used
    assert f"Master keys fine {key_id} is primary. Loaded: {key_id} " in page
    assert "Request log fine 0 records waiting " in page
    assert "Emails waiting fine 0 " in page
    assert "Sign-in emails fine 0 in this hour " in page
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

    monkeypatch.setattr("strake.pages.health.cache.set", down)
    page = shown(operator)
    assert "Cache look does not respond (ConnectionError)" in page
    assert "password" not in page


# --- Processes -----------------------------------------------------------------------------------------------------


def test_missing_proxy_processes_are_reported(operator: Client, used: dict[str, str]) -> None:
    report(key_ids=used, seconds_ago=heartbeats.EXPIRY_SECONDS + 1)
    report("web")
    page = shown(operator)
    assert "Something needs you" in page
    assert "Proxy look No proxy process has reported for 20 s." in page
    assert "Master keys note unknown until a proxy process reports" in page
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
    assert "Other versions note Restart these processes to finish the upgrade: host:11 (0.0.9) Master" in text(page)
    assert page.content.count(b'<span class="chip warn">0.0.9</span>') == 1
    assert "All is well" in text(page)


# --- Master keys ---------------------------------------------------------------------------------------------------


def test_missing_master_key_is_named(operator: Client, used: dict[str, str]) -> None:
    report(key_ids={"other": "00"})
    page = shown(operator)
    [key_id] = used
    assert "Something needs you" in page
    assert f"Master keys look Missing, so these endpoints need their key again: {key_id} (1 endpoint)." in page


def test_key_that_one_process_holds_is_not_missing(operator: Client, used: dict[str, str]) -> None:
    report(key_ids=used, name="host:11")
    report(key_ids={"other": "00"}, name="host:12")
    page = shown(operator)
    [key_id] = used
    assert "Something needs you" in page
    assert "The processes have loaded different keyrings." in page
    assert f"host:11: {key_id} is primary, {key_id} loaded" in page
    assert "host:12: other is primary, other loaded" in page
    assert "need their key again" not in page


def test_changed_master_key_is_named(operator: Client, used: dict[str, str]) -> None:
    [key_id] = used
    report(key_ids={key_id: "00" * 16})
    assert f"Master keys look Changed since their ids were first used: {key_id}." in shown(operator)


def test_different_keys_with_one_id_are_named(operator: Client, used: dict[str, str]) -> None:
    """Neither has been used, so the registry does not know which is right."""
    report(key_ids=used | {"new": "00"})
    report(key_ids=used | {"new": "11"})
    assert "Master keys look Different keys in different processes: new." in shown(operator)


def test_retired_primary_is_named(operator: Client, used: dict[str, str]) -> None:
    [key_id] = used
    MasterKeyCheck.objects.update(retired_at=timezone.now())
    report(key_ids=used)
    assert f"Master keys look {key_id} is primary but retired" in shown(operator)


# --- Request log ---------------------------------------------------------------------------------------------------


def test_waiting_records_are_added_and_the_worst_lag_counts(operator: Client, used: dict[str, str]) -> None:
    report(key_ids=used, waiting=1200, lag_seconds=75.04)
    report(key_ids=used, waiting=4, lag_seconds=0.4)
    page = shown(operator)
    assert "Something needs you" in page
    assert "Request log look 1,204 records waiting, 75.0 s behind " in page


def test_lost_records_are_a_note(operator: Client, used: dict[str, str]) -> None:
    report(key_ids=used, lost=1000)
    report(key_ids=used, lost=12, waiting=1, lag_seconds=0.4)
    page = shown(operator)
    assert "Request log note 1 record waiting, 0.4 s behind. 1,012 lost since the processes started " in page
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
