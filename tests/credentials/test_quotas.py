"""What one person may hold and ask for: endpoints, tokens, and checks that wait for a provider."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from uuid import UUID, uuid4

import pytest
from django.test import Client
from pytest_django import Settings

from accounts import access_tokens
from accounts.actors import OPERATOR, Actor, Person
from accounts.errors import QuotaReached, ServerBusy, TooManyRequests
from accounts.models import User
from credentials import outbound, services
from credentials.models import BearerToken, Endpoint
from tests.support import factories
from tests.support.pages import FROM_LOOPBACK, text, value
from tests.support.upstream import Upstream, fixed

pytestmark = pytest.mark.django_db

CUSTOM = "/endpoints/connect/custom/"
KEY = "sk-live-0123456789abcdef"


@pytest.fixture
def provider(upstream: Upstream, settings: Settings) -> Upstream:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"127.0.0.1:{upstream.port}"]
    upstream.default = fixed(200)
    return upstream


@pytest.fixture
def connect(provider: Upstream, alice: User) -> Callable[..., services.Connected]:
    """Connects an endpoint of Alice, as herself or as another actor."""

    def connect(actor: Actor | None = None) -> services.Connected:
        return services.connect(
            actor=actor or Person(alice),
            owner=alice,
            provider="azure-openai",
            api_key=KEY,
            destination_url=provider.url,
        )

    return connect


def post_to_api(user: User, path: str, body: Mapping[str, object]) -> tuple[int, dict[str, str], dict[str, str]]:
    """Returns status, headers and error of a call with an access token of `user`."""
    token = access_tokens.create(actor=OPERATOR, user=user, label="script").plaintext
    client = Client(headers=FROM_LOOPBACK | {"Authorization": f"Bearer {token}"})
    response = client.post(f"/api/v1{path}", body, content_type="application/json")
    return response.status_code, dict(response.headers), response.json().get("error", {})


# --- Quotas --------------------------------------------------------------------------------------------------------


def test_endpoint_quota_is_told_before_the_check(
    connect: Callable[..., services.Connected], provider: Upstream, settings: Settings, alice: User, bob: User
) -> None:
    settings.STRAKE_MAX_ENDPOINTS = 1
    made = connect()
    asked = len(provider.exchanges)
    with pytest.raises(QuotaReached) as reached:
        connect()
    assert str(reached.value) == (
        "You have reached the limit for endpoints, which is 1 for each person. Delete one that you no longer need, or "
        "ask the operator to raise STRAKE_MAX_ENDPOINTS."
    )
    assert len(provider.exchanges) == asked
    factories.make_endpoint(owner=bob)
    subdomain = made.endpoint.subdomain
    services.delete_endpoint(actor=Person(alice), subdomain=subdomain, confirmation=subdomain)
    connect()
    connect(OPERATOR)
    assert Endpoint.objects.filter(owner=alice).count() == 2


def test_token_quota_counts_live_tokens_of_all_endpoints(
    connect: Callable[..., services.Connected], settings: Settings, alice: User
) -> None:
    settings.STRAKE_MAX_TOKENS = 2
    first, second = connect(), connect()
    subdomain = second.endpoint.subdomain
    for add in (connect, lambda: services.issue_token(actor=Person(alice), subdomain=subdomain)):
        with pytest.raises(QuotaReached, match=r"Revoke one that you no longer need, .* STRAKE_MAX_TOKENS"):
            add()
    services.issue_token(actor=OPERATOR, subdomain=subdomain)
    for token in (first.token, second.token):
        services.revoke_token(actor=Person(alice), token_id=token.pk)
    services.issue_token(actor=Person(alice), subdomain=subdomain)
    assert BearerToken.objects.live().count() == 2


def test_quotas_are_errors_of_the_api(settings: Settings, alice: User) -> None:
    made = factories.make_endpoint(owner=alice)
    settings.STRAKE_MAX_TOKENS = 1
    status, _, error = post_to_api(alice, f"/endpoints/{made.endpoint.subdomain}/tokens", {})
    assert (status, error["code"]) == (403, "quota_reached")
    assert "STRAKE_MAX_TOKENS" in error["message"]


def test_pages_explain_quotas_and_keep_the_draft(
    client: Client, alice: User, provider: Upstream, settings: Settings
) -> None:
    made = factories.make_endpoint(owner=alice)
    client.force_login(alice)
    settings.STRAKE_MAX_TOKENS = 1
    tokens_page = f"/endpoints/{made.endpoint.subdomain}/tokens/"
    page = client.post(tokens_page, {"label": "laptop"}, follow=True)  # to the form, so that Back leads nowhere else
    assert value(page, "label") == "laptop"
    assert "You have reached the limit for tokens that work, which is 1" in text(page)
    page = client.post(CUSTOM, {"api_key": KEY, "destination_url": provider.url, "label": "laptop"})
    assert (page.status_code, value(page, "label"), value(page, "destination_url")) == (403, "laptop", provider.url)
    assert KEY not in page.content.decode()
    assert "You have reached the limit for tokens that work, which is 1" in text(page)


# --- Checks a minute -----------------------------------------------------------------------------------------------


def test_checks_a_minute_count_together(
    connect: Callable[..., services.Connected], provider: Upstream, settings: Settings, alice: User, bob: User
) -> None:
    settings.STRAKE_CHECKS_PER_MINUTE = 3
    subdomain = connect().endpoint.subdomain
    services.replace_key(actor=Person(alice), subdomain=subdomain, api_key=KEY)
    services.change_destination(
        actor=Person(alice), subdomain=subdomain, api_key=KEY, destination_url=f"{provider.url}/other"
    )
    asked = len(provider.exchanges)
    changes: list[Callable[[], object]] = [
        connect,
        lambda: services.replace_key(actor=Person(alice), subdomain=subdomain, api_key=KEY),
        lambda: services.change_destination(
            actor=Person(alice), subdomain=subdomain, api_key=KEY, destination_url=provider.url
        ),
    ]
    for change in changes:
        with pytest.raises(TooManyRequests, match="limit for checks of keys and connections, which is 3 a minute"):
            change()
    assert len(provider.exchanges) == asked
    connect(OPERATOR)
    with outbound.check_of(bob.pk):
        pass


def test_checks_a_minute_on_pages_and_in_the_api(
    client: Client, provider: Upstream, settings: Settings, alice: User
) -> None:
    settings.STRAKE_CHECKS_PER_MINUTE = 1
    body = {"provider": "custom", "api_key": KEY, "destination_url": provider.url}
    assert post_to_api(alice, "/endpoints", body)[0] == 201
    status, headers, error = post_to_api(alice, "/endpoints", body)
    assert (status, error["code"]) == (429, "rate_limited")
    assert 0 < int(headers["Retry-After"]) <= 61
    client.force_login(alice)
    page = client.post(CUSTOM, {"api_key": KEY, "destination_url": provider.url, "label": "laptop"})
    assert (page.status_code, value(page, "label")) == (429, "laptop")
    assert 0 < int(page.headers["Retry-After"]) <= 61
    assert "which is 1 a minute. Try again in" in text(page)


# --- Checks at a time ----------------------------------------------------------------------------------------------


@pytest.fixture
def places(settings: Settings) -> Iterator[ExitStack]:
    """Takes places until the end of the test. Eight threads have four."""
    settings.STRAKE_WEB_THREADS = 8
    with ExitStack() as stack:
        yield stack
    assert not outbound._taken


def test_person_may_wait_for_two_checks(places: ExitStack) -> None:
    person = uuid4()
    for _ in range(2):
        places.enter_context(outbound.place_of(person))
    with pytest.raises(TooManyRequests, match="Try again in a moment"):
        places.enter_context(outbound.place_of(person))


def test_second_place_leaves_half_of_them_free(places: ExitStack) -> None:
    first, second = uuid4(), uuid4()
    for person in (first, first, second):
        places.enter_context(outbound.place_of(person))
    with pytest.raises(TooManyRequests):
        places.enter_context(outbound.place_of(second))
    places.enter_context(outbound.place_of(uuid4()))


def test_half_of_the_threads_never_wait(places: ExitStack) -> None:
    for _ in range(4):
        places.enter_context(outbound.place_of(uuid4()))
    with pytest.raises(ServerBusy, match="Try again in a moment"):
        places.enter_context(outbound.place_of(uuid4()))


def test_place_is_free_after_a_failure(places: ExitStack) -> None:
    person = uuid4()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), outbound.place_of(person):
            raise ZeroDivisionError


def take(person: UUID, inside: threading.Barrier, outcomes: list[str]) -> None:
    inside.wait(30)
    try:
        with outbound.place_of(person):
            outcomes.append("taken")
            inside.wait(30)
    except (TooManyRequests, ServerBusy) as error:
        outcomes.append(type(error).__name__)
        inside.wait(30)


def test_threads_share_the_places(settings: Settings) -> None:
    settings.STRAKE_WEB_THREADS = 8
    outcomes: list[str] = []
    barrier = threading.Barrier(6)
    threads = [threading.Thread(target=take, args=[uuid4(), barrier, outcomes]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["ServerBusy"] * 2 + ["taken"] * 4


def test_busy_server_is_an_error_of_page_and_api(
    client: Client, provider: Upstream, places: ExitStack, alice: User
) -> None:
    for _ in range(4):
        places.enter_context(outbound.place_of(uuid4()))
    body = {"provider": "custom", "api_key": KEY, "destination_url": provider.url}
    status, headers, error = post_to_api(alice, "/endpoints", body)
    assert (status, error["code"], headers["Retry-After"]) == (503, "busy", "5")
    client.force_login(alice)
    page = client.post(CUSTOM, {"api_key": KEY, "destination_url": provider.url})
    assert (page.status_code, page.headers["Retry-After"]) == (503, "5")
    assert "Nothing was saved. Try again in a moment." in text(page)


def test_form_looks_no_name_up(
    client: Client, alice: User, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form is validated before the limits of look-ups apply."""
    looked_up: list[str] = []

    def look_up(host: str, *_: object, **__: object) -> list[object]:
        looked_up.append(host)
        return []

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    client.force_login(alice)
    for networks in ([], ["10.0.0.0/8"]):
        settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = networks
        page = client.post(CUSTOM, {"api_key": "two words", "destination_url": "https://api.example.com"})
        assert page.status_code == 400
    assert looked_up == []
