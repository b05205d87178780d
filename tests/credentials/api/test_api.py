"""The management API: its operations, its errors and its permissions."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.test import Client
from django.utils import timezone

from accounts import access_tokens, audit, audit_chain
from accounts.actors import Person
from accounts.models import AccessToken, AuditEvent, BrowserSession, User
from accounts.sign_in import throttle
from credentials.api import reference
from credentials.api.document import Document
from credentials.models import BearerToken, Credential, Endpoint, SealedKey
from proxy import audit_checkpoints
from strake.urls import api
from tests.support import factories
from tests.support.pages import FROM_LOOPBACK

pytestmark = pytest.mark.django_db

CUSTOM = {
    "provider": "custom",
    "api_key": "sk-0123456789",
    "destination_url": "https://api.example.com/v1",
    "unchecked": True,
}


class Caller:
    """A script with an access token, or without one if `user` is None."""

    def __init__(self, user: User | None) -> None:
        authorization = {"Authorization": f"Bearer {self.token_of(user)}"} if user else {}
        self.client = Client(headers=FROM_LOOPBACK | authorization)

    @staticmethod
    def token_of(user: User) -> str:
        return access_tokens.create(actor=Person(user), user=user, label="script").plaintext

    def __call__(self, method: str, path: str, body: Any = None, raw: str | None = None) -> tuple[int, Any]:
        """Send a request. Returns the status and the parsed body."""
        data = raw if raw is not None else ("" if body is None else json.dumps(body))
        response = self.client.generic(method, f"/api/v1{path}", data, content_type="application/json")
        return response.status_code, json.loads(response.content) if response.content else None


@pytest.fixture
def call(alice: User) -> Caller:
    return Caller(alice)


def test_me_returns_the_owner_of_the_token(call: Caller) -> None:
    assert call("GET", "/me") == (200, {"user": {"email": "alice@example.org"}})


def test_connecting_with_further_places(call: Caller, alice: User) -> None:
    places = [
        {"position": "query", "name": "api_key", "value": "{{secret}}"},
        {"position": "header", "name": "X-Organization", "value": "acme"},
    ]
    status, made = call("POST", "/endpoints", {**CUSTOM, "places": places})
    assert status == 201
    assert made["endpoint"]["header_name"] == ""
    assert made["endpoint"]["places"] == [
        {"position": "query", "name": "api_key"},
        {"position": "header", "name": "X-Organization"},
    ]
    assert Credential.objects.get().places == [
        ["query", "api_key", "{{secret}}"],
        ["header", "X-Organization", "acme"],
    ]
    for wrong in ([places[1] | {"name": "Host"}], [places[0] | {"position": "cookie"}], places * 5):
        assert call("POST", "/endpoints", {**CUSTOM, "places": wrong})[0] in {400, 422}


def test_lifecycle_of_an_endpoint(call: Caller, alice: User) -> None:
    status, made = call("POST", "/endpoints", {**CUSTOM, "label": "Mine"})
    assert status == 201
    subdomain = made["endpoint"]["subdomain"]
    assert made["endpoint"]["url"] == f"http://localhost:8000/p/{subdomain}"
    assert set(made["token"]) == {"id", "plaintext"}
    assert made["token"]["plaintext"].startswith("strk_")

    status, listed = call("GET", "/endpoints")
    assert status == 200
    [row] = listed["endpoints"]
    assert set(row) == {"subdomain", "label", "provider", "url", "created_at", "needs_key_again"}
    assert datetime.fromisoformat(row["created_at"]).tzinfo is not None

    status, shown = call("GET", f"/endpoints/{subdomain}")
    assert status == 200
    assert shown["endpoint"] == {
        **row,
        "destination_url": "https://api.example.com/v1",
        "header_name": "Authorization",
        "places": [],
        "kind": "static",
        "renewal_failure": "",
    }
    [token] = shown["tokens"]
    assert set(token) == {"id", "label", "preview", "created_at", "last_used_at", "expires_at", "revoked_at"}
    assert token["revoked_at"] is None

    status, added = call(
        "POST",
        f"/endpoints/{subdomain}/tokens",
        {
            "label": "CI",
            "expires_in": 3600,
            "requests_per_minute": 5,
            "allowed_paths": ["POST /v1/chat/completions"],
            "allowed_networks": ["192.0.2.0/24"],
            "allow_minting": True,
        },
    )
    assert status == 201
    stored = BearerToken.objects.get(pk=added["token"]["id"])
    assert stored.expires_at
    assert abs(stored.expires_at - timezone.now() - timedelta(hours=1)) < timedelta(minutes=1)
    assert (stored.requests_per_minute, stored.allowed_networks) == (5, ["192.0.2.0/24"])
    assert stored.allow_minting

    status, rotated = call("POST", f"/endpoints/{subdomain}/tokens/{added['token']['id']}/rotate")
    assert status == 200
    assert rotated["token"]["id"] == added["token"]["id"]
    assert rotated["token"]["plaintext"] != added["token"]["plaintext"]

    assert call("DELETE", f"/endpoints/{subdomain}/tokens/{added['token']['id']}") == (204, None)
    assert call("POST", f"/endpoints/{subdomain}/tokens/{added['token']['id']}/rotate")[0] == 404

    status, replaced = call(
        "POST", f"/endpoints/{subdomain}/credential/rotate", {"api_key": "sk-new", "unchecked": True}
    )
    assert (status, replaced["endpoint"]["url"]) == (200, made["endpoint"]["url"])

    assert call("DELETE", f"/endpoints/{subdomain}") == (204, None)
    assert call("GET", f"/endpoints/{subdomain}")[0] == 404
    assert AuditEvent.objects.filter(action="endpoint.deleted", actor=alice, ip="127.0.0.1").exists()


def test_expired_token_is_not_rotated(call: Caller, alice: User) -> None:
    now = timezone.now()
    made = factories.make_endpoint(owner=alice, created_at=now - timedelta(2), expires_at=now - timedelta(1))
    status, error = call("POST", f"/endpoints/{made.endpoint.subdomain}/tokens/{made.token.pk}/rotate")
    assert (status, error["error"]["code"]) == (404, "not_found")
    assert "expired" in error["error"]["message"]
    digest = bytes(made.token.digest)
    made.token.refresh_from_db()
    assert bytes(made.token.digest) == digest


def test_issuing_a_token_needs_no_body(call: Caller, alice: User) -> None:
    made = factories.make_endpoint(owner=alice)
    assert call("POST", f"/endpoints/{made.endpoint.subdomain}/tokens")[0] == 201


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({**CUSTOM, "colour": "red"}, "invalid_request"),
        ({**CUSTOM, "api_key": 5}, "invalid_request"),
        ({**CUSTOM, "label": "x" * 101}, "invalid_request"),
        ({**CUSTOM, "label": "a\u0000b"}, "invalid_request"),
        ({**CUSTOM, "unchecked": "yes"}, "invalid_request"),
        ({"provider": "custom"}, "invalid_request"),
        ([], "invalid_request"),
        (None, "invalid_request"),
        ({**CUSTOM, "provider": "nonesuch"}, "unknown_provider"),
        ({**CUSTOM, "api_key": "two words"}, "invalid_key"),
        ({**CUSTOM, "api_key": "line\nbreak"}, "invalid_key"),
        ({**CUSTOM, "destination_url": "http://api.example.com"}, "invalid_destination"),
        ({**CUSTOM, "destination_url": "https://127.0.0.1/"}, "invalid_destination"),
        ({**CUSTOM, "header_name": "Host"}, "invalid_destination"),
    ],
)
def test_invalid_endpoint_is_not_saved(call: Caller, body: Any, code: str) -> None:
    status, error = call("POST", "/endpoints", body)
    assert status == 422
    assert set(error) == {"error"}
    assert error["error"]["code"] == code
    assert error["error"]["message"]
    assert not Endpoint.objects.exists()


@pytest.mark.parametrize("raw", ["{", "\x00", '{"provider": NaN', '"' * 7, "[" * 20000])
def test_malformed_json_returns_400(call: Caller, raw: str) -> None:
    status, error = call("POST", "/endpoints", raw=raw)
    assert (status, error["error"]["code"]) == (400, "bad_request")


def test_oversized_body_returns_413(call: Caller) -> None:
    status, error = call("POST", "/endpoints", raw='{"label": "' + "x" * 70_000 + '"}')
    assert (status, error["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    "limit",
    [
        {"expires_in": 0},
        {"expires_in": -5},
        {"expires_in": 10**30},
        {"expires_in": "60"},
        {"requests_per_minute": 0},
        {"requests_per_minute": True},
        {"allowed_paths": ["no slash"]},
        {"allowed_paths": "POST /x"},
        {"allowed_networks": ["300.1.1.1"]},
        {"allowed_networks": ["10.0.0.0/8"] * 51},
    ],
)
def test_invalid_limits_return_422(call: Caller, alice: User, limit: dict[str, Any]) -> None:
    made = factories.make_endpoint(owner=alice)
    status, error = call("POST", f"/endpoints/{made.endpoint.subdomain}/tokens", limit)
    assert status == 422
    assert error["error"]["code"] in {"invalid_request", "invalid_limit"}
    assert made.endpoint.tokens.count() == 1


def test_unknown_paths_and_methods_return_json_errors(call: Caller) -> None:
    status, error = call("GET", "/nonesuch")
    assert (status, error["error"]["code"]) == (404, "not_found")
    status, error = call("PUT", "/me")
    assert (status, error["error"]["code"]) == (405, "method_not_allowed")
    for path in ["/endpoints/x", "/endpoints/ABCDEFGHIJKL", "/endpoints/%00", "/endpoints/..", "/endpoints/a%2Fb"]:
        status, error = call("GET", path)
        assert (status, error["error"]["code"], path) == (404, "not_found", path)


def test_no_response_contains_the_provider_key(call: Caller) -> None:
    for body in [
        {**CUSTOM, "api_key": "sk-canary 1"},
        {**CUSTOM, "api_key": ["sk-canary"]},
        {**CUSTOM, "api_key": "sk-canary", "x": 1},
        {**CUSTOM, "provider": 1, "api_key": "sk-canary"},
        {**CUSTOM, "api_key": "sk-canary"},
    ]:
        assert "canary" not in json.dumps(call("POST", "/endpoints", body))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer pat_x",
        "Basic YTpi",
        "bearer strk_" + "0" * 49,
        "Bearer pat_" + "0" * 49,
        "Béarer ü",
    ],
)
def test_missing_or_malformed_token_returns_401(alice: User, header: str) -> None:
    for path in ["/me", "/endpoints", "/endpoints/aaaaaaaaaaaa"]:
        response = Client().get(f"/api/v1{path}", headers={"Authorization": header} if header else {})
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "unauthorized"
        assert response.headers["WWW-Authenticate"] == "Bearer"


def test_revoked_and_expired_tokens_look_unknown(alice: User) -> None:
    responses = set()
    actor = Person(alice)
    revoked = access_tokens.create(actor=actor, user=alice, label="r")
    access_tokens.revoke_access_token(actor=actor, token_id=revoked.token.pk)
    expired = access_tokens.create(actor=actor, user=alice, label="e")
    expired.token.expires_at = timezone.now() - timedelta(seconds=1)
    expired.token.save()
    for plaintext in [revoked.plaintext, expired.plaintext, "pat_" + "0" * 49]:
        response = Client().get("/api/v1/me", headers={"Authorization": f"Bearer {plaintext}"})
        responses.add((response.status_code, response.content))
    assert len(responses) == 1


def test_session_cookie_does_not_authenticate(client: Client, alice: User) -> None:
    client.force_login(alice)
    assert client.get("/api/v1/me").status_code == 401


def test_only_invalid_tokens_are_throttled(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "BAD_TOKENS_PER_ADDRESS", throttle.Limit("bad-token-address", 3, 300))
    statuses = [Client().get("/api/v1/me", headers={"Authorization": "Bearer x"}) for _ in range(5)]
    assert [response.status_code for response in statuses] == [401, 401, 401, 429, 429]
    assert int(statuses[-1].headers["Retry-After"]) > 0
    assert Caller(alice)("GET", "/me")[0] == 200


def test_valid_token_is_not_counted(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(throttle, "count_address", fail)
    assert call("GET", "/me")[0] == 200


BODIES = {
    "issue_token": {},
    "replace_key": {"api_key": "sk-x", "unchecked": True},
    "change_destination": {"api_key": "sk-x", "unchecked": True, "destination_url": "https://api.example.com/v2"},
    "change_endpoint": {"label": "theirs", "paused": True},
    "change_token": {"label": "theirs"},
    "test_connection": {"token": "strk_x"},
}


def operations_on_objects() -> list[tuple[str, str, str]]:
    """Method, path and name of each operation of the OpenAPI document with a parameter in its path."""
    return [
        (method.upper(), path.removeprefix("/api/v1"), str(operation["operationId"]).rpartition("_api_")[2])
        for path, methods in api.get_openapi_schema(path_prefix="/api/v1")["paths"].items()
        for method, operation in methods.items()
        if "{" in path
    ]


def all_rows() -> list[Any]:
    models = (Endpoint, Credential, SealedKey, BearerToken, BrowserSession)
    rows = [list(model.objects.order_by("pk").values()) for model in models]
    return [*rows, list(AccessToken.objects.order_by("pk").values("pk", "revoked_at"))]


@pytest.mark.parametrize(("method", "path", "name"), operations_on_objects())
def test_objects_of_other_people_return_404(alice: User, charlie: User, method: str, path: str, name: str) -> None:
    """Mixtures included: the token of another person below an own endpoint, and the reverse."""
    hers, his = factories.make_endpoint(owner=alice), factories.make_endpoint(owner=charlie)
    Client().force_login(alice)
    own = {
        "session_id": BrowserSession.objects.get().pk,
        "access_token_id": access_tokens.create(actor=Person(alice), user=alice, label="hers").token.pk,
    }
    none = {"session_id": "ses_" + "0" * 16, "access_token_id": "patid_" + "0" * 16}
    stranger = Caller(charlie)
    before = all_rows()
    pairs = [(hers, hers), (hers, his)] + ([(his, hers)] if "{token_id}" in path else [])
    invented = stranger(method, path.format(subdomain="0" * 12, token_id="ctok_" + "0" * 16, **none), BODIES.get(name))
    assert (invented[0], invented[1]["error"]["code"]) == (404, "not_found")
    for endpoint, token in pairs:
        target = path.format(subdomain=endpoint.endpoint.subdomain, token_id=token.token.pk, **own)
        assert stranger(method, target, BODIES.get(name)) == invented, target
    assert all_rows() == before


def test_list_contains_only_own_endpoints(alice: User, charlie: User) -> None:
    factories.make_endpoint(owner=alice)
    own = factories.make_endpoint(owner=charlie)
    listed = Caller(charlie)("GET", "/endpoints")[1]
    assert [row["subdomain"] for row in listed["endpoints"]] == [own.endpoint.subdomain]


def test_reference_explains_every_status_of_the_document() -> None:
    assert {status for one in reference.calls() for status in one.errors} == set(reference.STATUSES)


def test_document_is_made_once(client: Client) -> None:
    assert client.get("/api/v1/openapi.json").status_code == 200
    with patch.object(Document, "get_paths", side_effect=AssertionError("made again")):
        assert client.get("/api/v1/openapi.json").status_code == 200


def test_openapi_document_lists_all_operations(client: Client) -> None:
    document = client.get("/api/v1/openapi.json").json()
    calls = {
        (method.upper(), path.removeprefix("/api/v1"))
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert calls == {
        ("GET", "/me"),
        ("GET", "/access-tokens"),
        ("GET", "/access-tokens/current"),
        ("DELETE", "/access-tokens/current"),
        ("DELETE", "/access-tokens/{access_token_id}"),
        ("GET", "/sessions"),
        ("DELETE", "/sessions"),
        ("DELETE", "/sessions/{session_id}"),
        ("GET", "/providers"),
        ("POST", "/tokens/revoke"),
        ("GET", "/notices"),
        ("PUT", "/notices"),
        ("POST", "/notices/test"),
        ("GET", "/notices/webhook"),
        ("PUT", "/notices/webhook"),
        ("DELETE", "/notices/webhook"),
        ("POST", "/notices/webhook/rotate"),
        ("POST", "/notices/webhook/resume"),
        ("GET", "/audit"),
        ("GET", "/audit/checkpoint"),
        ("POST", "/device/code"),
        ("POST", "/device/token"),
        ("GET", "/endpoints"),
        ("POST", "/endpoints"),
        ("GET", "/endpoints/{subdomain}"),
        ("PATCH", "/endpoints/{subdomain}"),
        ("DELETE", "/endpoints/{subdomain}"),
        ("GET", "/endpoints/{subdomain}/settings"),
        ("POST", "/endpoints/{subdomain}/destination"),
        ("GET", "/endpoints/{subdomain}/usage"),
        ("GET", "/endpoints/{subdomain}/requests"),
        ("POST", "/endpoints/{subdomain}/test"),
        ("GET", "/endpoints/{subdomain}/tokens"),
        ("POST", "/endpoints/{subdomain}/tokens/revoke-all"),
        ("GET", "/endpoints/{subdomain}/tokens/{token_id}"),
        ("PATCH", "/endpoints/{subdomain}/tokens/{token_id}"),
        ("POST", "/endpoints/{subdomain}/tokens/{token_id}/duplicate"),
        ("POST", "/endpoints/{subdomain}/tokens"),
        ("POST", "/endpoints/{subdomain}/tokens/{token_id}/rotate"),
        ("DELETE", "/endpoints/{subdomain}/tokens/{token_id}"),
        ("POST", "/endpoints/{subdomain}/credential/rotate"),
    }


# --- The audit log -------------------------------------------------------------------------------------------------


def test_audit_events_are_ones_own_with_their_links(call: Caller, alice: User, bob: User) -> None:
    for user in (alice, bob, alice):
        audit.record(Person(user), "token.issued", account=user, subject_type="t", subject_id="1")
    status, found = call("GET", "/audit?limit=2")
    assert status == 200
    assert {event["account"] for event in found["events"]} == {str(alice.pk)}
    for event in found["events"]:
        content = {name: event[name] for name in audit_chain.CONTENT_FIELDS}
        link = {name: event[name] for name in ("sequence", "at", "content_hash", "previous_hash")}
        assert event["content_hash"] == audit_chain.content_hash(content)
        assert event["hash"] == audit_chain.link_hash(**link)
    following = call("GET", f"/audit?since={found['next']}")[1]
    own = AuditEvent.objects.filter(account=alice).count()
    assert len(found["events"] + following["events"]) == own
    assert following["next"] is None


def test_newest_checkpoint(call: Caller) -> None:
    assert call("GET", "/audit/checkpoint")[0] == 404
    signed = audit_checkpoints.sign()
    assert signed is not None
    status, found = call("GET", "/audit/checkpoint")
    assert (status, found["checkpoint"]["note"], found["checkpoint"]["key"]) == (200, signed.note, signed.key)
