"""Every route there is: public on purpose, or closed to the anonymous; and never open to somebody else's things."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from accounts.models import User
from tests import factories
from tests.factories import Connected

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

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
OF_AN_ENDPOINT = [name for name in CLOSED if "subdomain" in ROUTES[name].parameters]


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


@pytest.mark.parametrize("name", OF_AN_ENDPOINT)
def test_a_stranger_gets_the_answer_of_an_endpoint_that_does_not_exist(
    name: str, client: Client, alice: User, charlie: User
):
    made = factories.make_endpoint(owner=alice)
    real = address(ROUTES[name], made)
    invented = real.replace(made.endpoint.subdomain, "0" * 12)
    client.force_login(charlie)
    for method in METHODS:
        answer, control = client.generic(method, real), client.generic(method, invented)
        assert answer.status_code in {401, 404, 405}, f"{method} {answer.status_code}"
        assert answer.status_code == control.status_code
        assert made.endpoint.label not in answer.content.decode() or made.endpoint.label in control.content.decode()
    made.endpoint.refresh_from_db()
    made.token.refresh_from_db()
    assert made.endpoint.paused_at is None
    assert made.token.revoked_at is None


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
