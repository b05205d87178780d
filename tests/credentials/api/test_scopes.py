"""Scopes and networks of access tokens: each operation needs one scope, and says which."""

from __future__ import annotations

import pytest

from accounts.models import SCOPES, BrowserSession, User
from credentials.api.access import READ
from credentials.models import BearerToken, Credential, Endpoint
from strake.urls import api
from tests.credentials.api.calling import Script
from tests.support import factories

pytestmark = pytest.mark.django_db

DOCUMENT = api.get_openapi_schema(path_prefix="")
OPERATIONS = [
    (method.upper(), path, operation["security"][0]["AccessTokenAuth"][0])
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if operation.get("security")
]
IDS = {"token_id": "ctok_0", "session_id": "ses_0", "access_token_id": "patid_0"}
# What may be changed with any token, and why.
WITH_ANY_SCOPE = {("DELETE", "/access-tokens/current"): "whoever holds a token may end it"}


def test_whatever_changes_something_needs_more_than_read() -> None:
    found = {(method, path) for method, path, scope in OPERATIONS if method != "GET" and scope == "read"}
    assert found == set(WITH_ANY_SCOPE)
    assert {scope for _, _, scope in OPERATIONS} == set(SCOPES)
    assert all(scope == "read" for method, _, scope in OPERATIONS if method == "GET")


def test_operation_is_refused_without_its_scope(alice: User) -> None:
    made = factories.make_endpoint(owner=alice)
    before = [list(model.objects.values()) for model in (Endpoint, Credential, BearerToken, BrowserSession)]
    scripts = {scope: Script(alice, scopes=[scope]) for scope in SCOPES}
    for method, path, needed in OPERATIONS:
        for scope, script in scripts.items():
            if needed in {"read", scope}:
                continue
            target = path.format(subdomain=made.endpoint.subdomain, **IDS)
            status, answer = script(method, target, {})
            assert (status, answer["error"]["code"]) == (403, "scope_missing"), (method, path, scope)
            assert f"lacks the scope {needed}." in answer["error"]["message"]
    assert [list(model.objects.values()) for model in (Endpoint, Credential, BearerToken, BrowserSession)] == before


def test_connecting_returns_the_first_token_without_the_scope_tokens(alice: User) -> None:
    script = Script(alice, scopes=["endpoints"])
    new = {"provider": "custom", "api_key": "sk-1", "destination_url": "https://api.example.com", "unchecked": True}
    status, made = script("POST", "/endpoints", new)
    assert status == 201
    assert made["token"]["plaintext"].startswith("strk_")
    assert script("POST", f"/endpoints/{made['endpoint']['subdomain']}/tokens")[0] == 403


def test_token_is_refused_from_other_networks(alice: User) -> None:
    assert Script(alice, allowed_networks=["127.0.0.0/8"])("GET", "/me")[0] == 200
    status, answer = Script(alice, allowed_networks=["192.0.2.0/24"])("GET", "/me")
    assert (status, answer["error"]["code"]) == (403, "network_not_allowed")


def test_forgotten_scope_of_a_change_is_a_bug(alice: User, rf: object) -> None:
    class Request:
        method = "POST"

    with pytest.raises(TypeError, match="names the scope"):
        READ.authenticate(Request(), "pat_x")  # type: ignore[arg-type]
