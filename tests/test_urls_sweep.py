"""Every route there is: public on purpose, or closed to the anonymous; and never open to somebody else's things."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from urllib.parse import urlencode

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from accounts import access_tokens
from accounts.audit import Actor
from accounts.models import AuditEvent, User
from credentials.models import BearerToken, Credential, Endpoint
from tests import factories
from tests.factories import Connected

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
FORM = "application/x-www-form-urlencoded"

# What anybody may see, each for a reason. Everything else needs a person.
PUBLIC = {
    "front_page",  # leads to the sign-in or the endpoints
    "healthz",  # for load balancers
    "security",  # what Strake promises
    "privacy",
    "docs",  # how to use an endpoint; filled in with one's own only after signing in
    "docs_errors",
    "docs_tool",
    "api_docs",  # the same document for people
    "api:openapi-json",  # what scripts may call; holds nobody's data
    "api:api-root",  # a 404
    "accounts:sign_in",
    "accounts:link_sent",
    "accounts:open_link",  # the link itself is the credential
    "accounts:confirm",
    "accounts:sign_out",  # there is nothing to refuse to somebody who is not signed in
}


@dataclass(frozen=True, slots=True)
class Route:
    """One URL pattern, with the names of its parameters."""

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
CLOSED = [name for name in ROUTES if name not in PUBLIC and not name.startswith("admin:")]


def address(route: Route, made: Connected) -> str:
    values = {
        "subdomain": made.endpoint.subdomain,
        "token_id": made.token.pk,
        "provider": made.endpoint.provider,
        "pk": "1",
        "id": "1",
    }
    return reverse(route.name, kwargs={name: values.get(name, "1") for name in route.parameters})


def is_refusal(response: HttpResponse) -> bool:
    if response.status_code in {301, 302, 303}:
        return response.headers["Location"].startswith(("/signin/", "/admin/login/"))
    return response.status_code in {401, 403}


def test_public_routes_are_routes():
    assert set(ROUTES) >= PUBLIC


def test_no_two_routes_share_a_name():
    names = [route.name for route in routes() if not route.name.startswith("admin:")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", CLOSED)
def test_the_anonymous_are_refused(name: str, client: Client, alice: User):
    path = address(ROUTES[name], factories.make_endpoint(owner=alice))
    answers = {method: client.generic(method, path) for method in METHODS}
    assert any(is_refusal(answer) for answer in answers.values()), "no method got as far as being refused"
    assert not [
        f"{method} {answer.status_code}"
        for method, answer in answers.items()
        if not is_refusal(answer) and answer.status_code != 405
    ]


# --- Of two people -------------------------------------------------------------------------------------------------

ID_PARAMETERS = frozenset({"subdomain", "token_id", "session_id"})
NO_ID = frozenset({"provider", "slug", "token"})  # a word of ours, or a secret of its own
OF_SOMEBODY = [name for name in CLOSED if ROUTES[name].parameters & ID_PARAMETERS and not name.startswith("api:")]


@dataclass(frozen=True)
class Belongings:
    """What one person has, by the parameter that names it in a route."""

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
        access_tokens.create_access_token(actor=Actor(user), user=user, label="script").token.pk,
        user.browser_sessions.get().pk,
    )


def things_of(user: User) -> list[object]:
    """All that is stored for one person."""
    found = [
        Endpoint.objects.filter(owner=user),
        Credential.objects.filter(endpoint__owner=user),
        BearerToken.objects.filter(endpoint__owner=user),
        user.access_tokens.all(),
        user.browser_sessions.all(),
        AuditEvent.objects.filter(account=user),
    ]
    return [list(rows.order_by("pk").values()) for rows in found]


def test_every_parameter_of_a_route_is_an_id_or_known_to_be_none():
    parameters = {name for route in ROUTES.values() if not route.name.startswith("admin:") for name in route.parameters}
    assert parameters == ID_PARAMETERS | NO_ID


@pytest.mark.parametrize("name", OF_SOMEBODY)
def test_what_is_somebody_elses_is_as_good_as_not_there(name: str, alice: User, charlie: User):
    """Every mixture of one's own ids and another's, whatever is sent along, is answered as if it were invented."""
    route = ROUTES[name]
    hers, his = belongings(alice).ids(route), belongings(charlie).ids(route)
    before = things_of(alice)
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
                answers = [browser.generic(method, url, urlencode(data), FORM) for url in (path, invented)]
                assert [answer.status_code for answer in answers] in ([404, 404], [405, 405]), f"{method} {path}"
                assert alice.email not in answers[0].content.decode()
                seen.add(answers[0].status_code)
        assert 404 in seen
    assert things_of(alice) == before


@pytest.mark.parametrize("query", ["endpoint={}", "q={}", "text={}", "everybody=on"])
@pytest.mark.parametrize("name", [name for name in CLOSED if not ROUTES[name].parameters])
def test_lists_hold_only_ones_own_whatever_is_asked_for(name: str, query: str, alice: User, charlie: User):
    hers = belongings(alice)
    browser = Client()
    browser.force_login(charlie)
    answer = browser.get(f"{reverse(name)}?{query.format(hers.connected.endpoint.subdomain)}")
    body = (b"".join(answer) if answer.streaming else answer.content).decode()
    assert alice.email not in body
    assert hers.connected.token.pk not in body
    assert hers.session not in body


OF_OPERATORS = [name for name in ROUTES if name.startswith("admin:") and not ROUTES[name].parameters]
OF_OPERATORS.remove("admin:logout")  # ends a session; there is nothing to refuse


@pytest.mark.parametrize("name", OF_OPERATORS)
@pytest.mark.parametrize("who", ["anonymous", "charlie"])
def test_the_operators_pages_are_closed_to_everybody_else(
    name: str, who: str, client: Client, request: pytest.FixtureRequest, db: None
):
    if who == "charlie":
        client.force_login(request.getfixturevalue("charlie"))
    answer = client.get(reverse(name), follow=False)
    assert is_refusal(answer) or answer.status_code in {404, 405}


@pytest.mark.parametrize("path", ["/admin/", "/admin/login/"])
def test_operators_sign_in_by_link_too(path: str, client: Client, db: None, charlie: User):
    answer = client.get(path, follow=True)
    assert answer.redirect_chain[-1][0].startswith("/signin/?next=/admin/")
    assert 'type="password"' not in answer.content.decode()
    client.force_login(charlie)
    assert client.get(path, follow=True).status_code == 403
    operator = Client()
    operator.force_login(factories.make_user(is_staff=True))
    assert operator.get("/admin/").status_code == 200
