"""No response of any route contains a key, with every method and for every kind of caller.

The routes come from the URLconf. A route with an unknown parameter fails: add values for it to `paths_of`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, resolve

from accounts import access_tokens
from accounts.actors import Person
from accounts.models import AccessToken, User
from accounts.notices.choices import unsubscribe_url
from credentials.vault import keyring, unwrapping
from proxy import audit_checkpoints, audit_key
from tests.support import factories
from tests.support.canaries import Canary, leaks
from tests.support.rolled_back import rolled_back

KEY = "sk-canary-7Qm2Xv9LpT4wZ8Rb"
PASTED = "sk-pasted-3Hn6Yc1KsD5uJ0Fe"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@dataclass
class Scene:
    """Alice's endpoint with the canary key, and the callers: nobody, Alice, Bob and an operator."""

    made: factories.Connected
    people: dict[str, User | None]
    access_token: str
    canaries: list[Canary]


@pytest.fixture
def scene(alice: User, bob: User, tmp_path: Path, settings: Any) -> Scene:
    made = factories.make_endpoint(
        owner=alice, key=KEY, destination_url="https://api.example.com", header_template="Bearer {{secret}}"
    )
    operator = factories.make_user("operator@example.org", is_staff=True)
    token = access_tokens.create(actor=Person(alice), user=alice, label="sweep").plaintext
    ring = keyring.current()
    master_key = bytes(ring.key(ring.primary_id))
    sealed = made.credential.sealed()
    data_key = bytes(unwrapping.unwrap(sealed.wrap, sealed.format, made.credential.pk, ring))
    canaries = [
        Canary("the provider key", KEY.encode()),
        Canary("half of the provider key", KEY[10:22].encode()),
        Canary("the last characters of the provider key", KEY[-8:].encode()),
        Canary("a pasted key", PASTED.encode()),
        Canary("the master key", bytes(master_key)),
        Canary("the master key in base64", base64.b64encode(master_key)),
        Canary("the data key", data_key),
        Canary("the secret key", settings.SECRET_KEY.encode()),
        Canary("a bearer token", made.plaintext.encode()),
        Canary("an access token", token.encode()),
        Canary("a token's digest", bytes(made.token.digest)),
    ]
    settings.STRAKE_AUDIT_KEY_FILE = str(tmp_path / "audit-key")
    audit_key.create(tmp_path / "audit-key")
    assert audit_checkpoints.sign()
    people = {"nobody": None, "alice": alice, "bob": bob, "operator": operator}
    return Scene(made, people, token, canaries)


# --- The routes ----------------------------------------------------------------------------------------------------


@cache
def routes() -> list[str]:
    """Return every route of the URLconf, with its parameters as `<converter:name>`."""

    def walk(resolver: URLResolver, prefix: str) -> Iterator[str]:
        for pattern in resolver.url_patterns:
            route = prefix + str(pattern.pattern)
            if isinstance(pattern, URLResolver):
                yield from walk(pattern, route)
            else:
                assert isinstance(pattern, URLPattern)
                yield route

    return sorted(set(walk(get_resolver(), "/")))


PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>|\(\?P<(\w+)>[^)]*\)")


def paths_of(route: str, scene: Scene) -> list[str]:
    """Return the paths to call for a route, with real values. Fails for an unknown parameter."""
    endpoint = scene.made.endpoint
    values: dict[str, list[str]] = {
        "subdomain": [endpoint.subdomain],
        "token_id": [scene.made.token.pk, str(AccessToken.objects.visible_to(Person(endpoint.owner)).get().pk)],
        "provider": ["custom", "openai"],
        "token": ["link_" + "0" * 49, unsubscribe_url(endpoint.owner_id, "key.refused").split("/")[-2]],
        "slug": ["curl"],
        "session_id": ["1"],
        "access_token_id": ["patid_0"],
        "url": ["nothing/here"],
        "person_id": [str(endpoint.owner_id)],
        "path": ["strake/css/strake.css"],
    }
    route = re.sub(r"\\(.)|[\^$]|\\Z", r"\1", route)
    paths = [""]
    position = 0
    for found in PARAMETER.finditer(route):
        name = found[1] or found[2]
        assert name in values, f"{route}: add values for {name!r}"
        paths = [path + route[position : found.start()] + value for path in paths for value in values[name]]
        position = found.end()
    paths = [path + route[position:] for path in paths]
    return [re.sub(r"\(\?:.*?\)|\(\?!.*?\)|[()?*+]", "", path) for path in paths]


FORM = {
    "api_key": PASTED,
    "key": PASTED,
    "secret": PASTED,
    "provider": "custom",
    "label": "swept",
    "name": "swept",
    "destination_url": "https://10.0.0.1/not-allowed",
    "header_name": "not a header",
    "header_template": "without the placeholder",
    "email": "alice@example.org",
    "confirmation": "wrong",
    "subdomain": "wrong",
    "requests_per_minute": "many",
    "allowed_paths": "nothing",
    "allowed_networks": "nowhere",
    "expires_in": "never",
    "max_streams": "none",
}


# Routes that only return 404 or 405.
NOT_FOUND_ONLY = {"/api/v1/"}


def everything(response: Any) -> bytes:
    """Return the status, headers, cookies and body of a response."""
    body = b"".join(response.streaming_content) if response.streaming else response.content
    head = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
    return f"{response.status_code}\n{head}\n{response.cookies.output()}\n\n".encode() + body


def browsers(scene: Scene) -> Iterator[tuple[str, Client]]:
    for name, user in scene.people.items():
        client = Client(raise_request_exception=False)
        if user is not None:
            client.force_login(user)
        yield name, client
    yield "a script", Client(raise_request_exception=False, headers={"authorization": f"Bearer {scene.access_token}"})


def call(client: Client, method: str, path: str, data: dict[str, str], *, as_json: bool) -> bytes:
    """Call a path, and roll back what it changes, so that every route sees the same scene."""
    with rolled_back():
        if as_json:
            response = client.generic(method, path, json.dumps(data), content_type="application/json")
        elif method == "POST":
            response = client.post(path, data)
        else:
            response = client.generic(method, path)
        return everything(response)


def test_routes_include_every_kind() -> None:
    swept = routes()
    assert len(swept) > 20
    for known in ("/endpoints/<slug:subdomain>/", "/signin/", "/security/"):
        assert known in swept
    assert any(route.startswith("/admin/") for route in swept)
    assert any(route.startswith("/api/v1/") for route in swept)


@pytest.mark.parametrize("route", routes())
def test_no_response_contains_a_key(route: str, scene: Scene) -> None:
    statuses = set()
    for path in paths_of(route, scene):
        assert resolve(path).route.replace("^", "") == route[1:].replace("^", ""), "this path belongs to another route"
        for name, client in browsers(scene):
            for method in METHODS:
                for as_json in (False, True) if method in {"POST", "PUT", "PATCH"} else (False,):
                    response = call(client, method, path, FORM, as_json=as_json)
                    found = list(leaks(scene.canaries, response))
                    assert not found, f"{method} {path} as {name}: {found}"
                    statuses.add(int(response[:3]))
    assert bool(statuses - {404, 405}) == (route not in NOT_FOUND_ONLY), f"the only statuses are {statuses}"
    assert 500 not in statuses


def test_invalid_form_does_not_return_the_key(scene: Scene) -> None:
    client = Client()
    alice = scene.people["alice"]
    assert alice is not None
    client.force_login(alice)
    path = "/endpoints/connect/custom/"
    response = call(client, "POST", path, {**FORM, "api_key": PASTED + "\nsecond line"}, as_json=False)
    assert b"api_key" in response, "the page has no form"
    assert not list(leaks(scene.canaries, response))


@pytest.mark.parametrize(
    "body",
    [{"api_key": [PASTED]}, {"api_key": {"value": PASTED}}, {"provider": PASTED}, {PASTED: 1}, [PASTED], PASTED],
    ids=["list", "object", "another field", "name", "no object", "text"],
)
def test_api_does_not_return_a_misplaced_key(scene: Scene, body: object) -> None:
    script = Client(raise_request_exception=False, headers={"authorization": f"Bearer {scene.access_token}"})
    subdomain = scene.made.endpoint.subdomain
    for path in ("/api/v1/endpoints", f"/api/v1/endpoints/{subdomain}/credential/rotate"):
        response = script.post(path, json.dumps(body), content_type="application/json")
        assert response.status_code in {400, 422}
        assert not list(leaks(scene.canaries, everything(response)))


def test_leaks_are_noticed(scene: Scene) -> None:
    texts = {
        "plain": f"key={KEY}",
        "base64": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
        "hex": KEY.encode().hex(),
        "half": f"…{KEY[8:24]}…",
        "data key": scene.canaries[6].value.hex(),
    }
    for encoding, text in texts.items():
        assert list(leaks(scene.canaries, text.encode())), encoding
