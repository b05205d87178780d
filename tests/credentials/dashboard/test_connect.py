"""Connecting a provider: choose it, paste the key, see the token once."""

from __future__ import annotations

import threading
from http import HTTPStatus

import pytest
from django.test import Client

from accounts import tokens
from accounts.models import AuditEvent, User
from credentials.models import BearerToken, Credential, Endpoint
from tests.support.pages import element, text, value
from tests.support.upstream import Upstream, fixed

DEMO = "/endpoints/connect/demo/"
CUSTOM = "/endpoints/connect/custom/"
KEY = "sk-live-0123456789abcdefghij"


def form(client: Client, url: str = DEMO, **fields: str) -> dict[str, str]:
    """The data of a filled-in form, with its hidden number."""
    return {"submission": value(client.get(url), "submission"), "api_key": KEY, **fields}


def test_every_provider_has_a_card_and_a_form(signed_in: Client, provider: Upstream) -> None:
    cards = signed_in.get("/endpoints/connect/")
    for name in ("Demo", "OpenAI", "Anthropic", "Google Gemini", "Azure OpenAI", "Custom"):
        assert name in text(cards)
    for slug in ("demo", "openai", "anthropic", "azure-openai", "custom"):
        assert f'href="/endpoints/connect/{slug}/"' in cards.content.decode()
        assert signed_in.get(f"/endpoints/connect/{slug}/").status_code == HTTPStatus.OK


def test_unknown_provider_returns_404(signed_in: Client) -> None:
    assert signed_in.get("/endpoints/connect/nobody/").status_code == HTTPStatus.NOT_FOUND


def test_connecting_shows_url_and_token_once(signed_in: Client, provider: Upstream, alice: User) -> None:
    page = signed_in.post(DEMO, form(signed_in, label="laptop"))
    assert page.status_code == HTTPStatus.CREATED
    endpoint = Endpoint.objects.get(owner=alice)
    plaintext = element(page, "token")
    assert element(page, "url") == endpoint.url
    assert bytes(BearerToken.objects.get().digest) == tokens.digest(plaintext)
    assert endpoint.label == "laptop"
    assert page.headers["Cache-Control"] == "no-store, no-transform"
    for later in ("/endpoints/", f"/endpoints/{endpoint.subdomain}/", "/activity/"):
        assert plaintext not in signed_in.get(later).content.decode()
    assert [event.action for event in AuditEvent.objects.order_by("pk")][-2:] == ["endpoint.connected", "token.issued"]
    assert provider.last.header("authorization") == f"Bearer {KEY}".encode()


def test_no_page_contains_the_key(signed_in: Client, provider: Upstream) -> None:
    page = signed_in.post(DEMO, form(signed_in))
    subdomain = Endpoint.objects.get().subdomain
    for shown in (page, signed_in.get(f"/endpoints/{subdomain}/"), signed_in.get(f"/endpoints/{subdomain}/key/")):
        assert KEY not in shown.content.decode()


def test_refused_key_is_reported_and_other_input_stays(signed_in: Client, provider: Upstream) -> None:
    provider.on("/v1/models", fixed(401))
    page = signed_in.post(DEMO, form(signed_in, label="laptop"))
    assert page.status_code == HTTPStatus.BAD_REQUEST
    assert "not valid" in element(page, "id_api_key_error")
    assert value(page, "label") == "laptop"
    assert value(page, "api_key") == ""
    assert KEY not in page.content.decode()
    assert not Endpoint.objects.exists()


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel"])
def test_malformed_key_is_refused_without_a_check(signed_in: Client, provider: Upstream, key: str) -> None:
    page = signed_in.post(DEMO, form(signed_in, api_key=key, label="laptop"))
    assert page.status_code == HTTPStatus.BAD_REQUEST
    assert element(page, "id_api_key_error")
    assert value(page, "label") == "laptop"
    assert not provider.exchanges


def test_whitespace_around_a_key_is_stripped(signed_in: Client, provider: Upstream) -> None:
    assert signed_in.post(DEMO, form(signed_in, api_key=f"\n {KEY} \r\n")).status_code == HTTPStatus.CREATED
    assert provider.last.header("authorization") == f"Bearer {KEY}".encode()


def test_unreachable_provider_offers_saving_unchecked(signed_in: Client, provider: Upstream) -> None:
    provider.on("/v1/models", fixed(503))
    page = signed_in.post(DEMO, form(signed_in, label="laptop"))
    assert page.status_code == HTTPStatus.BAD_GATEWAY
    assert "Save without checking" in text(page)
    assert value(page, "label") == "laptop"
    assert KEY not in page.content.decode()
    assert not Endpoint.objects.exists()

    saved = signed_in.post(DEMO, form(signed_in, label="laptop", unchecked="on"))
    assert saved.status_code == HTTPStatus.CREATED
    assert "unchecked" in text(saved)


def test_refused_key_is_not_saved_unchecked(signed_in: Client, provider: Upstream) -> None:
    provider.on("/v1/models", fixed(403))
    page = signed_in.post(DEMO, form(signed_in, unchecked="on"))
    assert page.status_code == HTTPStatus.BAD_REQUEST
    assert not Endpoint.objects.exists()


@pytest.mark.parametrize(
    ("fields", "invalid"),
    [
        ({"destination_url": ""}, "destination_url"),
        ({"destination_url": "http://api.example.com"}, "destination_url"),
        ({"destination_url": "https://10.0.0.1"}, "destination_url"),
        ({"destination_url": "https://api.example.com/?key=1"}, "destination_url"),
        ({"header_name": "Host"}, "header_name"),
        ({"header_template": "Bearer"}, "header_template"),
    ],
)
def test_invalid_destination_is_reported_at_its_field(
    signed_in: Client, provider: Upstream, fields: dict[str, str], invalid: str
) -> None:
    values = {
        "destination_url": provider.url,
        "header_name": "X-Key",
        "header_template": "Key {{secret}}",
        "label": "laptop",
    } | fields
    page = signed_in.post(CUSTOM, form(signed_in, CUSTOM, **values))
    assert page.status_code == HTTPStatus.BAD_REQUEST
    assert element(page, f"id_{invalid}_error")
    for name, typed in values.items():
        assert value(page, name) == typed
    assert not Endpoint.objects.exists()


def test_all_invalid_fields_are_reported_at_once(signed_in: Client, provider: Upstream) -> None:
    values = {"destination_url": "https://api.example.com/?a=1", "header_name": "Host", "api_key": "two words"}
    page = signed_in.post(CUSTOM, form(signed_in, CUSTOM, **values))
    for field in values:
        assert element(page, f"id_{field}_error")
    assert "two words" not in text(page)


def test_custom_provider_uses_its_own_header(signed_in: Client, provider: Upstream) -> None:
    values = {"destination_url": provider.url + "/base/", "header_name": "X-Key", "header_template": "Key {{secret}}"}
    assert signed_in.post(CUSTOM, form(signed_in, CUSTOM, **values)).status_code == HTTPStatus.CREATED
    credential = Credential.objects.get()
    assert credential.destination_url == provider.url + "/base"
    assert (credential.header_name, credential.header_template) == ("X-Key", "Key {{secret}}")


def test_form_sent_twice_connects_once(signed_in: Client, provider: Upstream) -> None:
    data = form(signed_in)
    first = signed_in.post(DEMO, data)
    again = signed_in.post(DEMO, data)
    endpoint = Endpoint.objects.get()
    assert (again.status_code, again.headers["Location"]) == (HTTPStatus.SEE_OTHER, f"/endpoints/{endpoint.subdomain}/")
    followed = signed_in.get(again.headers["Location"])
    assert "done already" in text(followed)
    assert element(first, "token") not in followed.content.decode()


@pytest.mark.django_db(transaction=True)
def test_concurrent_submissions_connect_once(alice: User, provider: Upstream) -> None:
    """Without JavaScript both clicks reach the server while the key check of the first is still running."""
    clients = [Client(), Client()]
    clients[0].force_login(alice)
    clients[1].cookies = clients[0].cookies
    data = form(clients[0])
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda client=client: statuses.append(client.post(DEMO, data).status_code))
        for client in clients
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(statuses) == [HTTPStatus.CREATED, HTTPStatus.SEE_OTHER]
    assert Endpoint.objects.count() == 1


def test_failed_form_can_be_sent_again(signed_in: Client, provider: Upstream) -> None:
    data = form(signed_in)
    provider.on("/v1/models", fixed(401))
    assert signed_in.post(DEMO, data).status_code == HTTPStatus.BAD_REQUEST
    provider.clear()
    assert signed_in.post(DEMO, data).status_code == HTTPStatus.CREATED


def test_signing_in_leads_back_to_the_form(client: Client, db: None) -> None:
    response = client.post(DEMO, {"api_key": KEY})
    assert response.status_code == HTTPStatus.FOUND
    assert response.headers["Location"] == f"/signin/?next={DEMO}"
