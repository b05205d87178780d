"""The nine calls of the first command-line clients. Neither their paths nor their answers may change."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts import access_tokens
from accounts.actors import Person
from accounts.models import User
from tests.support.pages import FROM_LOOPBACK

pytestmark = pytest.mark.django_db

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
ENDPOINT = {
    "subdomain": "<subdomain>",
    "label": "Mine",
    "provider": "custom",
    "url": "http://localhost:8000/p/<subdomain>",
    "created_at": "<time>",
    "needs_key_again": False,
}
DETAIL = {
    **ENDPOINT,
    "destination_url": "https://api.example.com/v1",
    "header_name": "Authorization",
    "places": [],
    "kind": "static",
    "renewal_failure": "",
}
TOKEN = {
    "id": "<token>",
    "label": "First token",
    "preview": "<preview>",
    "created_at": "<time>",
    "last_used_at": None,
    "expires_at": None,
    "revoked_at": None,
}
NEW_TOKEN = {
    "label": "CI",
    "expires_in": 3600,
    "requests_per_minute": 5,
    "allowed_paths": ["POST /v1/chat/completions"],
    "allowed_networks": ["192.0.2.0/24"],
}
CONNECT = {
    "provider": "custom",
    "api_key": "sk-0123456789",
    "label": "Mine",
    "destination_url": "https://api.example.com/v1",
    "header_name": "Authorization",
    "header_template": "Bearer {{secret}}",
    "unchecked": True,
}
ISSUED = {"token": {"id": "<token>", "plaintext": "<plaintext>"}}


@pytest.fixture
def call(alice: User) -> Callable[..., tuple[int, Any]]:
    token = access_tokens.create(actor=Person(alice), user=alice, label="script").plaintext
    client = Client(headers=FROM_LOOPBACK | {"Authorization": f"Bearer {token}"})

    def send(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = "" if body is None else json.dumps(body)
        response = client.generic(method, f"/api/v1{path}", data, content_type="application/json")
        return response.status_code, json.loads(response.content) if response.content else None

    return send


def without_chance(answer: Any, subdomain: str) -> Any:
    """The answer with names in place of what differs from run to run."""
    text = json.dumps(answer).replace(subdomain, "<subdomain>")
    for pattern, name in (
        (TIME, "<time>"),
        (re.compile(r"strk_[0-9A-Za-z]{49}"), "<plaintext>"),
        (re.compile(r"strk_[0-9A-Za-z]{4}\\u2026"), "<preview>"),
        (re.compile(r"ctok_[0-9A-Za-z]+"), "<token>"),
    ):
        text = pattern.sub(name, text)
    return json.loads(text)


def test_answers_of_the_original_calls(call: Callable[..., tuple[int, Any]]) -> None:
    """Exactly: another field is a change too."""
    assert call("GET", "/me") == (200, {"user": {"email": "alice@example.org"}})
    status, connected = call("POST", "/endpoints", CONNECT)
    subdomain, first = connected["endpoint"]["subdomain"], connected["token"]["id"]
    path, tokens = f"/endpoints/{subdomain}", f"/endpoints/{subdomain}/tokens"

    def answer(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, found = call(method, path, body)
        return status, without_chance(found, subdomain)

    assert (status, without_chance(connected, subdomain)) == (201, {"endpoint": DETAIL, **ISSUED})
    assert answer("GET", "/endpoints") == (200, {"endpoints": [ENDPOINT]})
    assert answer("GET", path) == (200, {"endpoint": DETAIL, "tokens": [TOKEN]})
    assert answer("POST", tokens, NEW_TOKEN) == (201, ISSUED)
    assert answer("POST", tokens) == (201, ISSUED)
    assert answer("POST", f"{tokens}/{first}/rotate") == (200, ISSUED)
    assert answer("POST", f"{path}/credential/rotate", {"api_key": "sk-1", "unchecked": True}) == (
        200,
        {"endpoint": DETAIL},
    )
    assert answer("DELETE", f"{tokens}/{first}") == (204, None)
    status, shown = answer("GET", path)
    assert [row["revoked_at"] for row in shown["tokens"]] == [None, None, "<time>"]
    assert answer("DELETE", path) == (204, None)
    assert answer("GET", path) == (404, {"error": {"code": "not_found", "message": "There is no such endpoint."}})
