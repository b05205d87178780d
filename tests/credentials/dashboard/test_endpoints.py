"""The list of endpoints, the page of one, and the actions on an endpoint as a whole."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from accounts.actors import Person
from accounts.models import User
from credentials import services
from credentials.models import Credential, Endpoint, SealedKey, ServerProcess
from proxy.models import RequestRollup
from tests.support import factories
from tests.support.pages import element, text, value
from tests.support.populate import populate
from tests.support.upstream import Upstream, fixed

KEY = "sk-live-0123456789abcdefghij"


@pytest.fixture
def endpoint(alice: User) -> Endpoint:
    return factories.make_endpoint(owner=alice, label="laptop").endpoint


def url(endpoint: Endpoint, *parts: str) -> str:
    return "/".join(["/endpoints", endpoint.subdomain, *parts, ""])


def pages(endpoint: Endpoint) -> list[str]:
    token = endpoint.tokens.get().pk
    return [
        url(endpoint),
        url(endpoint, "name"),
        url(endpoint, "limits"),
        url(endpoint, "delete"),
        url(endpoint, "key"),
        url(endpoint, "destination"),
        url(endpoint, "tokens"),
        url(endpoint, "tokens", token, "rotate"),
        url(endpoint, "tokens", token, "revoke"),
        url(endpoint, "tokens", token, "edit"),
        url(endpoint, "tokens", token, "change-over"),
        url(endpoint, "tokens", "revoke-all"),
        url(endpoint, "requests"),
        url(endpoint, "traffic"),
        url(endpoint, "tokens", token, "use"),
    ]


def actions(endpoint: Endpoint) -> list[str]:
    return [
        url(endpoint, "pause"),
        url(endpoint, "resume"),
        url(endpoint, "test"),
        url(endpoint, "tokens", "revoke"),
        *pages(endpoint)[1:-3],
    ]


def test_empty_list_links_to_connect(signed_in: Client) -> None:
    page = signed_in.get("/endpoints/")
    assert "Protect your first API key" in text(page)
    assert 'href="/endpoints/connect/"' in page.content.decode()


def test_stranger_gets_404_for_every_page_and_action(client: Client, charlie: User, endpoint: Endpoint) -> None:
    client.force_login(charlie)
    for page in pages(endpoint):
        assert client.get(page).status_code == HTTPStatus.NOT_FOUND, page
    values = {"confirmation": endpoint.subdomain, "label": "mine", "max_streams": "5", "api_key": KEY, "token": "x"}
    for action in actions(endpoint):
        assert client.post(action, values).status_code == HTTPStatus.NOT_FOUND, action
    assert "laptop" not in text(client.get("/endpoints/"))
    assert "laptop" not in text(client.get("/activity/"))
    found = Endpoint.objects.get()
    assert (found.label, found.paused_at, found.max_streams) == ("laptop", None, None)


def test_signed_out_people_are_redirected_to_sign_in(client: Client, endpoint: Endpoint) -> None:
    for page in ["/endpoints/", "/endpoints/connect/", "/activity/", *pages(endpoint)]:
        response = client.get(page)
        assert (response.status_code, response.headers["Location"]) == (HTTPStatus.FOUND, f"/signin/?next={page}")


def test_owner_can_open_every_page_of_an_endpoint(signed_in: Client, endpoint: Endpoint) -> None:
    for page in pages(endpoint):
        assert signed_in.get(page).status_code == HTTPStatus.OK, page


def test_list_is_searched_filtered_and_sorted(signed_in: Client, alice: User, endpoint: Endpoint) -> None:
    other = factories.make_endpoint(owner=alice, label="build server", provider="openai").endpoint
    services.pause(actor=Person(alice), subdomain=other.subdomain)

    def listed(query: str) -> list[str]:
        page = text(signed_in.get(f"/endpoints/?{query}"))
        return sorted((label for label in ("laptop", "build server") if label in page), key=page.index)

    assert listed("q=LAP") == ["laptop"]
    assert listed(f"q={other.subdomain[:6]}") == ["build server"]
    assert listed("q=openai") == ["build server"]
    assert listed("q=nothing") == []
    assert listed("state=paused") == ["build server"]
    assert listed("state=active") == ["laptop"]
    assert listed("sort=label") == ["build server", "laptop"]
    assert listed("sort=created") == ["build server", "laptop"]
    assert listed("sort=nonsense&page=99") == ["build server", "laptop"]

    Endpoint.objects.filter(pk=endpoint.pk).update(created_at=timezone.now() - timedelta(days=40))
    assert listed("state=stale") == ["laptop"]
    endpoint.tokens.update(last_used_at=timezone.now() - timedelta(days=29))
    assert listed("state=stale") == []
    factories.make_token(endpoint=endpoint, label="second")
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    token = other.tokens.get()
    RequestRollup.objects.create(endpoint=other, token=token, hour=hour, status_class=2, count=9, latency_max_ms=1)
    orders = {"status": "build server", "tokens": "laptop", "requests": "build server", "used": "laptop"}
    for sort, first in orders.items():
        assert listed(f"sort={sort}")[0] == first, sort
        assert listed(f"sort=-{sort}")[-1] == first, sort


def test_long_lists_are_paginated_in_constant_queries(signed_in: Client, alice: User, bob: User) -> None:
    populate(bob, endpoints=3, tokens_first=2, records=200)  # some of them failed
    populate(alice, endpoints=120, tokens_first=50, records=500)
    first = Endpoint.objects.filter(owner=alice, label__startswith="A rather long").get()
    few = Client()
    few.force_login(bob)
    his = Endpoint.objects.filter(owner=bob, label__startswith="A rather long").get()
    for large, small in (
        ("/endpoints/", "/endpoints/"),
        (url(first), url(his)),
        (url(first) + "?tokens=all&period=30d", url(his) + "?tokens=all&period=30d"),
        ("/activity/", "/activity/"),
        ("/docs/curl/", "/docs/curl/"),
    ):
        with CaptureQueriesContext(connection) as many:
            page = signed_in.get(large)
        with CaptureQueriesContext(connection) as less:
            few.get(small)
        assert page.status_code == HTTPStatus.OK
        assert len(many) <= len(less) <= 14, large
    page = signed_in.get("/endpoints/?page=2")
    assert "26\u201350 of 121" in text(page)
    assert page.content.count(b"<tr>") == 26


def test_page_shows_what_is_open_now(signed_in: Client, endpoint: Endpoint) -> None:
    """The sum of what the proxy processes that run have reported."""
    assert "Open now No requests" in text(signed_in.get(url(endpoint)))
    others = {"0" * 32: 7}
    for ago, count in ((0, 2), (1, 3), (3600, 50)):
        ServerProcess.objects.create(
            name="host:1",
            primary_key_id="a",
            in_flight={str(endpoint.pk): count, **others},
            seen_at=timezone.now() - timedelta(seconds=ago),
        )
    assert "Open now 5 requests in progress" in text(signed_in.get(url(endpoint)))


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("tokens/{token}/rotate", "Open streams, uploads and WebSocket connections end"),
        ("tokens/{token}/revoke", "Its open requests end"),
        ("key", "Requests that are open with the old key end"),
        ("delete", "Open requests end"),
    ],
)
def test_forms_say_that_what_is_open_ends(signed_in: Client, endpoint: Endpoint, page: str, says: str) -> None:
    assert says in text(signed_in.get(url(endpoint, page.format(token=endpoint.tokens.get().pk))))


def test_pause_and_resume(signed_in: Client, endpoint: Endpoint) -> None:
    paused = signed_in.post(url(endpoint, "pause"), follow=True)
    assert "Open requests have ended. Every request gets a 403 error until you resume" in text(paused)
    assert Endpoint.objects.get().paused_at is not None
    resumed = signed_in.post(url(endpoint, "resume"), follow=True)
    assert "Resumed." in text(resumed)
    assert Endpoint.objects.get().paused_at is None
    assert signed_in.get(url(endpoint, "pause")).status_code == HTTPStatus.METHOD_NOT_ALLOWED


def test_rename(signed_in: Client, endpoint: Endpoint) -> None:
    assert "Enter a name." in element(
        signed_in.post(url(endpoint, "name"), {"label": " "}, follow=True), "id_label_error"
    )
    signed_in.post(url(endpoint, "name"), {"label": '<b>"tower"</b>'})
    page = signed_in.get(url(endpoint))
    assert "&lt;b&gt;&quot;tower&quot;&lt;/b&gt;" in page.content.decode()
    assert "<b>" not in page.content.decode()


def test_limit_of_concurrent_requests(signed_in: Client, endpoint: Endpoint, settings: Settings) -> None:
    assert "Server default (2,000) · Change" in text(signed_in.get(url(endpoint)))
    assert value(signed_in.get(url(endpoint, "limits")), "max_streams") == ""
    limited = signed_in.post(url(endpoint, "limits"), {"max_streams": "5"}, follow=True)
    assert "Limited to 5 concurrent requests." in text(limited)
    assert "Concurrent requests 5 · Change" in text(limited)
    assert value(signed_in.get(url(endpoint, "limits")), "max_streams") == "5"
    settings.STRAKE_MAX_STREAMS = 3
    assert "Concurrent requests 3 · Change" in text(signed_in.get(url(endpoint))), "the smaller limit applies"
    removed = signed_in.post(url(endpoint, "limits"), {"max_streams": ""}, follow=True)
    assert "Removed the limit." in text(removed)
    assert Endpoint.objects.get().max_streams is None


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("0", "Enter 1 or more."),
        ("-3", "Enter 1 or more."),
        ("2001", "from 1 to 2,000"),
        ("5e", "Enter a whole number"),
        ("many", "Enter a whole number"),
        ("9" * 5000, "Enter a whole number"),
    ],
)
def test_invalid_limit_is_shown_again_and_not_saved(
    signed_in: Client, endpoint: Endpoint, typed: str, message: str
) -> None:
    Endpoint.objects.update(max_streams=7)
    page = signed_in.post(url(endpoint, "limits"), {"max_streams": typed}, follow=True)
    assert page.status_code == HTTPStatus.BAD_REQUEST
    assert message in element(page, "id_max_streams_error")
    assert value(page, "max_streams") == typed
    assert Endpoint.objects.get().max_streams == 7


def test_deleting_requires_the_subdomain(signed_in: Client, endpoint: Endpoint) -> None:
    wrong = signed_in.post(url(endpoint, "delete"), {"confirmation": "laptop"}, follow=True)
    assert wrong.status_code == HTTPStatus.BAD_REQUEST
    assert endpoint.subdomain in element(wrong, "id_confirmation_error")
    assert Endpoint.objects.exists()
    done = signed_in.post(url(endpoint, "delete"), {"confirmation": endpoint.subdomain}, follow=True)
    assert "Deleted “laptop”" in text(done)
    assert not Endpoint.objects.exists()
    assert not Credential.objects.exists()
    assert not SealedKey.objects.exists()


def test_confirmation_renders_as_page_or_dialog(signed_in: Client, endpoint: Endpoint) -> None:
    page = signed_in.get(url(endpoint, "delete"))
    dialog = signed_in.get(url(endpoint, "delete"), headers={"X-Strake-Dialog": "1"})
    assert b"<html" in page.content
    assert b"<html" not in dialog.content
    for shown in (page, dialog):
        assert f"Type {endpoint.subdomain} to confirm." in text(shown)


def test_endpoint_without_its_master_key_is_marked(signed_in: Client, endpoint: Endpoint, alice: User) -> None:
    neighbour = factories.make_endpoint(owner=alice, label="tower").endpoint
    SealedKey.objects.filter(credential__endpoint=endpoint).update(master_key_id="lost")
    assert "Needs its key again" in text(signed_in.get("/endpoints/"))
    assert "This endpoint needs its key again." in text(signed_in.get(url(endpoint)))
    assert "needs its key again" not in text(signed_in.get(url(neighbour)))


# --- The provider key ----------------------------------------------------------------------------------------------


def test_replacing_the_key_keeps_url_and_tokens(signed_in: Client, alice: User, provider: Upstream) -> None:
    made = factories.make_endpoint(owner=alice, provider="demo")
    page = signed_in.post(url(made.endpoint, "key"), {"api_key": KEY}, follow=True)
    assert "Saved the new key" in text(page)
    assert Credential.objects.get().sealed().ciphertext != made.credential.sealed().ciphertext
    assert made.endpoint.tokens.get() == made.token
    assert provider.last.header("authorization") == f"Bearer {KEY}".encode()


def test_refused_key_replaces_nothing(signed_in: Client, alice: User, provider: Upstream) -> None:
    made = factories.make_endpoint(owner=alice, provider="demo")
    provider.on("/v1/models", fixed(401))
    page = signed_in.post(url(made.endpoint, "key"), {"api_key": KEY, "unchecked": "on"})
    assert page.status_code == HTTPStatus.BAD_REQUEST
    assert "rejected this key" in element(page, "id_api_key_error")
    assert KEY not in page.content.decode()
    assert Credential.objects.get().sealed() == made.credential.sealed()


def test_changing_the_destination_requires_the_key(signed_in: Client, endpoint: Endpoint, provider: Upstream) -> None:
    values = {"destination_url": provider.url + "/v2", "header_name": "X-Key", "header_template": "{{secret}}"}
    without = signed_in.post(url(endpoint, "destination"), values)
    assert without.status_code == HTTPStatus.BAD_REQUEST
    assert "Paste the key." in element(without, "id_api_key_error")
    assert signed_in.post(url(endpoint, "destination"), values | {"api_key": KEY}).status_code == HTTPStatus.SEE_OTHER
    assert Credential.objects.get().destination_url == provider.url + "/v2"


def test_destination_of_a_known_provider_is_fixed(signed_in: Client, alice: User) -> None:
    made = factories.make_endpoint(owner=alice, provider="openai")
    assert signed_in.get(url(made.endpoint, "destination")).status_code == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize(
    "action", ["delete", "key", "destination", "tokens", "tokens/{token}/edit", "tokens/{token}/change-over"]
)
def test_sensitive_pages_require_a_recent_sign_in(client: Client, alice: User, endpoint: Endpoint, action: str) -> None:
    start = timezone.now()
    with time_machine.travel(start, tick=False) as clock:
        client.force_login(alice)
        clock.shift(16 * 60)
        page = url(endpoint, action.format(token=endpoint.tokens.get().pk))
        for response in (client.get(page), client.post(page)):
            assert response.status_code == HTTPStatus.SEE_OTHER
            assert response.headers["Location"].startswith("/signin/again/")
