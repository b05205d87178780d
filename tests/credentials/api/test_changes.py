"""What the management API has beyond the original calls: changes, preconditions, lists in pages, the account."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import AccessToken, AuditEvent, BrowserSession, User
from credentials.dashboard import snippets
from credentials.models import BearerToken, Endpoint
from tests.credentials.api.calling import Script
from tests.support import factories
from tests.support.factories import Connected

pytestmark = pytest.mark.django_db


@pytest.fixture
def script(alice: User) -> Script:
    return Script(alice)


@pytest.fixture
def made(alice: User) -> Connected:
    return factories.make_endpoint(owner=alice, label="Mine", requests_per_minute=5)


def path_of(made: Connected) -> str:
    return f"/endpoints/{made.endpoint.subdomain}"


def token_path(made: Connected) -> str:
    return f"{path_of(made)}/tokens/{made.token.pk}"


# --- Endpoints -----------------------------------------------------------------------------------------------------


def test_endpoint_changes_what_the_body_names(script: Script, made: Connected) -> None:
    status, changed = script("PATCH", path_of(made), {"label": "Renamed", "paused": True, "max_streams": 7})
    assert status == 200
    assert changed["endpoint"]["label"] == "Renamed"
    assert (changed["settings"]["max_streams"], changed["settings"]["paused_at"] is None) == (7, False)
    assert script("PATCH", path_of(made), {"paused": False})[1]["settings"]["max_streams"] == 7
    assert script("PATCH", path_of(made), {"max_streams": None})[1]["settings"] == {
        "label": "Renamed",
        "paused_at": None,
        "max_streams": None,
        "base_urls": snippets.base_urls(made.endpoint),
    }
    events = AuditEvent.objects.exclude(action__startswith="access_token").order_by("pk")
    assert list(events.values_list("action", flat=True)) == [
        *("endpoint.renamed", "endpoint.paused", "endpoint.limited", "endpoint.resumed", "endpoint.limited"),
    ]
    assert {event.details["acting_id"] for event in events} == {script.token.pk}


def test_change_happens_whole_or_not_at_all(script: Script, made: Connected) -> None:
    status, answer = script("PATCH", path_of(made), {"label": "Renamed", "paused": True, "max_streams": 10**9})
    assert (status, answer["error"]["code"]) == (422, "invalid_limit")
    made.endpoint.refresh_from_db()
    assert (made.endpoint.label, made.endpoint.paused_at) == ("Mine", None)
    assert not AuditEvent.objects.filter(action__startswith="endpoint").exists()


def test_destination_is_changed_with_its_key(script: Script, made: Connected) -> None:
    new = {"api_key": "sk-2", "destination_url": "https://other.example.com/v1", "unchecked": True}
    status, answer = script("POST", f"{path_of(made)}/destination", new)
    assert (status, answer["endpoint"]["destination_url"]) == (200, "https://other.example.com/v1")
    del new["api_key"]
    assert script("POST", f"{path_of(made)}/destination", new)[0] == 422


# --- Tokens --------------------------------------------------------------------------------------------------------


def test_token_changes_what_the_body_names(script: Script, made: Connected) -> None:
    moment = (timezone.now() + timedelta(days=3)).replace(microsecond=0)
    limits = {"expires_at": moment.isoformat(), "requests_per_day": 100, "allowed_paths": ["POST /v1/*"]}
    status, answer = script("PATCH", token_path(made), limits)
    assert status == 200
    assert datetime.fromisoformat(answer["token"]["expires_at"]) == moment
    assert (answer["token"]["requests_per_minute"], answer["token"]["requests_per_day"]) == (5, 100)
    answer = script("PATCH", token_path(made), {"label": "CI", "expires_in": None, "requests_per_minute": None})[1]
    assert (answer["token"]["label"], answer["token"]["expires_at"]) == ("CI", None)
    assert (answer["token"]["requests_per_minute"], answer["token"]["allowed_paths"]) == (None, ["POST /v1/*"])
    assert script("GET", token_path(made))[1] == answer


@pytest.mark.parametrize(
    "body",
    [
        {"expires_in": 60, "expires_at": "2999-01-01T00:00:00Z"},
        {"expires_at": "2999-01-01"},
        {"expires_at": "2999-01-01T00:00:00"},
        {"expires_at": 32472144000},
        {"expires_at": "32472144000"},
        {"expires_at": "2999-13-01T00:00:00Z"},
        {"expires_at": "1999-01-01T00:00:00Z"},
        {"requests_per_day": 0},
        {"digest": "00"},
    ],
)
def test_invalid_change_of_a_token_changes_nothing(script: Script, made: Connected, body: dict[str, Any]) -> None:
    before = BearerToken.objects.values().get()
    status, answer = script("PATCH", token_path(made), body)
    assert (status, answer["error"]["code"] in {"invalid_request", "invalid_limit"}) == (422, True)
    assert BearerToken.objects.values().get() == before


def test_children_and_copies(script: Script, made: Connected) -> None:
    tokens = f"{path_of(made)}/tokens"
    child = script("POST", tokens, {"label": "child", "parent_id": made.token.pk})[1]["token"]["id"]
    copy = script("POST", f"{tokens}/{made.token.pk}/duplicate", {"label": "copy"})[1]["token"]["id"]
    found = {token["id"]: token for token in script("GET", tokens)[1]["tokens"]}
    assert found[child]["parent_id"] == made.token.pk
    assert (found[copy]["label"], found[copy]["requests_per_minute"]) == ("copy", 5)


def test_revoking_several_is_all_or_nothing(script: Script, made: Connected) -> None:
    others = [factories.make_token(endpoint=made.endpoint)[0].pk for _ in range(3)]
    path = f"{path_of(made)}/tokens/revoke-all"
    assert script("POST", path, {"ids": [others[0], "ctok_0"]})[0] == 404
    assert BearerToken.objects.live().count() == 4
    assert script("POST", path, {"ids": others[:2]}) == (200, {"revoked": sorted(others[:2])})
    assert script("POST", path)[1]["revoked"] == sorted([made.token.pk, others[2]])
    assert not BearerToken.objects.live().exists()


# --- If-Match ------------------------------------------------------------------------------------------------------


def test_stale_change_of_an_endpoint_is_refused(script: Script, made: Connected) -> None:
    read = script.send("GET", path_of(made)).headers["ETag"]
    assert script.send("GET", f"{path_of(made)}/settings").headers["ETag"] == read
    changed = script.send("PATCH", path_of(made), {"paused": True}, **{"If-Match": f'"x", {read}'})
    assert changed.status_code == 200
    new = changed.headers["ETag"]
    assert new != read
    moved = {"api_key": "sk-2", "destination_url": "https://other.example.com/v1", "unchecked": True}
    for method, path, body in [
        ("PATCH", path_of(made), {"paused": False}),
        ("POST", f"{path_of(made)}/credential/rotate", {"api_key": "sk-2", "unchecked": True}),
        ("POST", f"{path_of(made)}/destination", moved),
        ("DELETE", path_of(made), None),
    ]:
        for stale in (read, f"W/{new}", "x", ""):
            status, answer = script(method, path, body, **{"If-Match": stale})
            assert (status, answer["error"]["code"]) == (412, "changed_meanwhile"), (method, path, stale)
    assert Endpoint.objects.get().paused_at is not None
    assert script("POST", f"{path_of(made)}/destination", moved, **{"If-Match": new})[0] == 200
    assert script.send("GET", path_of(made)).headers["ETag"] != new, "another key"
    assert script("DELETE", path_of(made), **{"If-Match": "*"})[0] == 204


def test_stale_change_of_a_token_is_refused(script: Script, made: Connected) -> None:
    read = script.send("GET", token_path(made)).headers["ETag"]
    BearerToken.objects.update(last_used_at=timezone.now())
    changed = script.send("PATCH", token_path(made), {"requests_per_minute": 9}, **{"If-Match": read})
    assert changed.status_code == 200, "using a token is no change of it"
    for method, path, body in [
        ("PATCH", token_path(made), {"label": "other"}),
        ("POST", f"{token_path(made)}/rotate", None),
        ("DELETE", token_path(made), None),
    ]:
        assert script(method, path, body, **{"If-Match": read})[0] == 412
    assert script("POST", f"{token_path(made)}/rotate", **{"If-Match": changed.headers["ETag"]})[0] == 200
    assert script("DELETE", token_path(made), **{"If-Match": changed.headers["ETag"]})[0] == 412, "another secret"


# --- Lists in pages ------------------------------------------------------------------------------------------------


def test_pages_of_a_list_neither_repeat_nor_skip(script: Script, alice: User) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    old = [factories.make_endpoint(owner=alice).endpoint.subdomain for _ in range(5)]
    Endpoint.objects.update(created_at=now)  # all at once: the order among them is that of their ids
    seen: list[str] = []
    cursor = ""
    for _ in range(5):
        answer = script("GET", f"/endpoints?limit=2{cursor}")[1]
        seen += [row["subdomain"] for row in answer["endpoints"]]
        factories.make_endpoint(owner=alice)
        if answer["next"] is None:
            break
        cursor = f"&cursor={answer['next']}"
    assert (len(seen), set(seen)) == (5, set(old))
    assert "next" not in script("GET", "/endpoints")[1]
    assert len(script("GET", "/endpoints")[1]["endpoints"]) == 8


@pytest.mark.parametrize("cursor", ["x", "%00", "é", "AAAA", "MjAyNi0wMS0wMQ", "MjAyNi0wMS0wMVQwMDowMDowMFogeA"])
def test_invalid_cursor(script: Script, made: Connected, cursor: str) -> None:
    """The last three decode to NULs, a date without a time, and a time with a wrong id."""
    for path in ("/endpoints", f"{path_of(made)}/requests"):
        status, answer = script("GET", f"{path}?cursor={cursor}")
        assert (status, answer["error"]["code"]) == (422, "invalid_cursor"), path


# --- The account ---------------------------------------------------------------------------------------------------


def test_access_tokens_are_listed_and_revoked(script: Script, alice: User, bob: User) -> None:
    other, _ = Script(alice, scopes=["read"], allowed_networks=["127.0.0.1"]), Script(bob)
    rows = script("GET", "/access-tokens")[1]["access_tokens"]
    assert {row["id"] for row in rows} == {script.token.pk, other.token.pk}
    assert other("GET", "/access-tokens/current")[1]["access_token"]["scopes"] == ["read"]
    assert other("DELETE", f"/access-tokens/{script.token.pk}")[0] == 403
    assert other("DELETE", "/access-tokens/current")[0] == 204
    assert other("GET", "/me")[0] == 401
    assert script("DELETE", f"/access-tokens/{script.token.pk}")[0] == 204
    assert script("GET", "/me")[0] == 401
    assert AccessToken.objects.live().count() == 1


def test_sessions_are_listed_and_ended(script: Script, alice: User, bob: User) -> None:
    browsers = [Client() for _ in range(3)]
    for browser in browsers:
        browser.force_login(alice)
    Client().force_login(bob)
    rows = script("GET", "/sessions")[1]["sessions"]
    assert len(rows) == 3
    assert script("DELETE", f"/sessions/{rows[0]['id']}")[0] == 204
    assert script("DELETE", "/sessions") == (200, {"ended": 2})
    assert BrowserSession.objects.get().user == bob
    assert all(browser.get("/settings/").status_code == 302 for browser in browsers)


def test_audit_newest_first_with_filters(script: Script, made: Connected) -> None:
    for label in ("a", "b", "c"):
        script("PATCH", path_of(made), {"label": label})
    query = "/audit?newest=true&action=endpoint.renamed&limit=2"
    first = script("GET", query)[1]
    rest = script("GET", f"{query}&before={first['next']}")[1]
    assert [event["details"]["to"] for event in first["events"] + rest["events"]] == ["c", "b", "a"]
    assert rest["next"] is None
