"""Every route: public on purpose or closed to anonymous requests, and never open to the objects of other people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from urllib.parse import urlencode

import pytest
from django.http.response import HttpResponseBase
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from accounts import access_tokens
from accounts.actors import Person
from accounts.models import AuditEvent, User
from credentials.models import BearerToken, Credential, Endpoint, SealedKey
from tests.support import factories
from tests.support.factories import Connected

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
FORM = "application/x-www-form-urlencoded"

# Routes that anybody may open, with the reason. All others require a person.
PUBLIC = {
    "front_page",  # redirects to sign-in or the endpoints
    "healthz",  # for load balancers
    "security",
    "privacy",
    "theme",  # keeps a choice in a cookie
    "docs",  # shows the reader's own endpoints only after signing in
    "docs_browsers",
    "docs_errors",
    "docs_tool",
    "api_docs",  # the same as a page
    "api:openapi-json",  # contains no data of people
    "api:api-root",  # returns 404
    "api:revoke_held_token",  # whoever holds a token may end it
    "api:device_code",  # for programs that are not signed in yet
    "api:device_token",  # the device code is the credential
    "accounts:sign_in",
    "accounts:link_sent",
    "accounts:open_link",  # the link is the credential
    "accounts:confirm",
    "accounts:audit_checkpoint",  # for whoever wants to keep it: a number, a hash and a time
    "accounts:unsubscribe",  # the link in an email is the permission
    "accounts:sign_out",  # has no effect without a session
}


@dataclass(frozen=True, slots=True)
class Route:
    """A URL pattern and the names of its parameters."""

    name: str
    route: str
    parameters: frozenset[str]


def routes(resolver: URLResolver | None = None, prefix: str = "", namespace: str = "") -> Iterator[Route]:
    resolver = resolver or get_resolver()
    for pattern in resolver.url_patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            inner = f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace
            yield from routes(pattern, route, inner)
        elif isinstance(pattern, URLPattern):
            yield Route(f"{namespace}{pattern.name}", route, frozenset(pattern.pattern.regex.groupindex))


ROUTES = {route.name: route for route in routes()}
CLOSED = [name for name in ROUTES if name not in PUBLIC]
STAFF = [name for name in CLOSED if name.startswith("operators:")]


def url_of(route: Route, made: Connected) -> str:
    values = {
        "subdomain": made.endpoint.subdomain,
        "token_id": made.token.pk,
        "provider": made.endpoint.provider,
        "person_id": str(made.endpoint.owner_id),
    }
    return reverse(route.name, kwargs={name: values.get(name, "1") for name in route.parameters})


def is_refusal(response: HttpResponseBase) -> bool:
    if response.status_code in {301, 302, 303}:
        return response.headers["Location"].startswith("/signin/")
    return response.status_code in {401, 403}


def test_public_routes_exist() -> None:
    assert set(ROUTES) >= PUBLIC


def test_no_two_routes_share_a_name() -> None:
    names = [route.name for route in routes()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", CLOSED)
def test_anonymous_requests_are_refused(name: str, client: Client, alice: User) -> None:
    path = url_of(ROUTES[name], factories.make_endpoint(owner=alice))
    responses = {method: client.generic(method, path) for method in METHODS}
    assert any(is_refusal(response) for response in responses.values()), "every method returned 405"
    assert not [
        f"{method} {response.status_code}"
        for method, response in responses.items()
        if not is_refusal(response) and response.status_code != 405
    ]


# --- Two people ----------------------------------------------------------------------------------------------------

ID_PARAMETERS = frozenset({"subdomain", "token_id", "access_token_id", "session_id", "person_id"})
NO_ID = frozenset({"provider", "slug", "token"})  # public names and a secret
OWNED = [
    name
    for name in CLOSED
    if ROUTES[name].parameters & ID_PARAMETERS and not name.startswith("api:") and name not in STAFF
]


@dataclass(frozen=True)
class Belongings:
    """The objects of one person, and their ids by route parameter."""

    connected: Connected
    access_token: str
    session: str

    def ids(self, route: Route) -> dict[str, str]:
        token = self.access_token if route.name.startswith("accounts:") else self.connected.token.pk
        values = {"subdomain": self.connected.endpoint.subdomain, "token_id": token, "session_id": self.session}
        return {name: values[name] for name in route.parameters}


def belongings(user: User) -> Belongings:
    Client().force_login(user)
    return Belongings(
        factories.make_endpoint(owner=user, label=f"endpoint of {user.email}"),
        access_tokens.create(actor=Person(user), user=user, label="script").token.pk,
        user.browser_sessions.get().pk,
    )


def rows_of(user: User) -> list[object]:
    """All rows of one person."""
    found = [
        Endpoint.objects.filter(owner=user),
        Credential.objects.filter(endpoint__owner=user),
        SealedKey.objects.filter(credential__endpoint__owner=user),
        BearerToken.objects.filter(endpoint__owner=user),
        user.access_tokens.all(),
        user.browser_sessions.all(),
        AuditEvent.objects.filter(account=user),
    ]
    return [list(rows.order_by("pk").values()) for rows in found]


def test_every_route_parameter_is_classified() -> None:
    parameters = {name for route in ROUTES.values() for name in route.parameters}
    assert parameters == ID_PARAMETERS | NO_ID


@pytest.mark.parametrize("name", OWNED)
def test_objects_of_other_people_look_nonexistent(name: str, alice: User, charlie: User) -> None:
    """Every mixture of own and foreign ids gets the same response as invented ids, with and without form data."""
    route = ROUTES[name]
    hers, his = belongings(alice).ids(route), belongings(charlie).ids(route)
    before = rows_of(alice)
    browser = Client()
    browser.force_login(charlie)
    mixtures = product(*((("her", hers[name]), ("his", his[name])) for name in hers))
    for mixture in mixtures:
        if not any(whose == "her" for whose, _ in mixture):
            continue
        path = reverse(name, kwargs=dict(zip(hers, (value for _, value in mixture), strict=True)))
        invented = path
        for whose, value in mixture:
            if whose == "her":
                invented = invented.replace(value, "0" * 12)
        form = {
            "confirmation": hers.get("subdomain", ""),
            "label": "mine",
            "api_key": "sk-x",
            "token": "x",
            "max_streams": "5",
        }
        seen = set()
        for method in METHODS:
            for data in ({}, form):
                responses = [browser.generic(method, url, urlencode(data), FORM) for url in (path, invented)]
                statuses = [response.status_code for response in responses]
                assert statuses in ([404, 404], [405, 405]), f"{method} {path}"
                assert alice.email not in responses[0].content.decode()
                seen.add(responses[0].status_code)
        assert 404 in seen
    assert rows_of(alice) == before


@pytest.mark.parametrize("query", ["endpoint={}", "q={}", "text={}", "everybody=on"])
@pytest.mark.parametrize("name", [name for name in CLOSED if not ROUTES[name].parameters])
def test_lists_contain_only_own_objects(name: str, query: str, alice: User, charlie: User) -> None:
    hers = belongings(alice)
    browser = Client()
    browser.force_login(charlie)
    response = browser.get(f"{reverse(name)}?{query.format(hers.connected.endpoint.subdomain)}")
    body = (b"".join(response) if response.streaming else response.content).decode()
    assert alice.email not in body
    assert hers.connected.token.pk not in body
    assert hers.session not in body


@pytest.mark.parametrize("name", STAFF)
def test_pages_of_operators_are_closed_to_everybody_else(name: str, alice: User, charlie: User) -> None:
    """To owners too: the pages show what is known of everybody, and change what owners may not."""
    path = url_of(ROUTES[name], factories.make_endpoint(owner=alice))
    for person in (alice, charlie):
        before = rows_of(alice)
        browser = Client()
        browser.force_login(person)
        statuses = {browser.generic(method, path).status_code for method in METHODS}
        assert statuses == {403}
        assert rows_of(alice)[:3] == before[:3]


@pytest.mark.parametrize("path", ["/admin/", "/admin/people/"])
def test_operators_sign_in_by_link(path: str, client: Client, db: None, charlie: User) -> None:
    response = client.get(path, follow=True)
    assert response.redirect_chain[-1][0].startswith("/signin/?next=/admin/")
    assert 'type="password"' not in response.content.decode()
    client.force_login(charlie)
    assert client.get(path, follow=True).status_code == 403
    operator = Client()
    operator.force_login(factories.make_user(is_staff=True))
    assert operator.get(path, follow=True).status_code == 200
