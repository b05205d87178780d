"""Connecting a provider: choose it, paste the key, see the token once."""

from __future__ import annotations

import threading
from http import HTTPStatus

import pytest
from django.test import Client

from accounts import tokens
from accounts.models import AuditEvent, User
from credentials import providers
from credentials.models import BearerToken, Credential, Endpoint
from credentials.providers import Group
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
    for name in ("built-in demo", "OpenAI", "Anthropic", "Google Gemini", "Azure OpenAI", "Custom"):
        assert name in text(cards)
    for slug in ("demo", "openai", "anthropic", "azure-openai", "custom"):
        assert f'href="/endpoints/connect/{slug}/"' in cards.content.decode()
        assert signed_in.get(f"/endpoints/connect/{slug}/").status_code == HTTPStatus.OK


def test_cards_are_in_groups_and_have_words(signed_in: Client) -> None:
    page = signed_in.get("/endpoints/connect/").content.decode()
    headings = list(Group)
    assert [page.index(f">{heading}</h2>") for heading in headings] == sorted(
        page.index(f">{heading}</h2>") for heading in headings
    )
    assert page.count("<li data-words=") == len(providers.PROVIDERS)
    assert 'data-words="bedrock aws converse invoke"' in page


@pytest.mark.parametrize("slug", [provider.slug for provider in providers.PROVIDERS.values()])
def test_form_has_the_fields_of_its_provider(slug: str, signed_in: Client) -> None:
    provider = providers.get(slug)
    page = signed_in.get(f"/endpoints/connect/{slug}/").content.decode()
    assert ("no free call" in page) == (provider.key_check is None and slug not in {"custom", "mcp"})
    assert all(f'<option value="{choice.url}"' in page for choice in provider.choices)
    for name, expected in {
        "destination_url": not provider.destination_url,
        "header_name": slug == "custom",
        "places": slug == "custom",
    }.items():
        assert (f'name="{name}"' in page) == expected


def test_region_is_chosen_from_a_list(signed_in: Client, alice: User) -> None:
    url = "/endpoints/connect/bedrock/"
    for wrong in ("", "https://bedrock-runtime.xx-east-1.amazonaws.com", "https://evil.example.com"):
        page = signed_in.post(url, form(signed_in, url, destination_url=wrong))
        assert page.status_code == HTTPStatus.BAD_REQUEST
        assert element(page, "id_destination_url_error")
    chosen = "https://bedrock-runtime.eu-west-1.amazonaws.com"
    assert signed_in.post(url, form(signed_in, url, destination_url=chosen)).status_code == HTTPStatus.CREATED
    credential = Credential.objects.get()
    assert (credential.destination_url, credential.header_template) == (chosen, "Bearer {{secret}}")


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
    assert "rejected this key" in element(page, "id_api_key_error")
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
    assert "saved without checking" in text(saved)


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


PLACES = "X-Organization: acme: inc.\r\n\r\n  ?api_key={{secret}}  \r\nAuthorization: Basic {{secret:base64}}\r\n"


def test_custom_provider_has_further_places(signed_in: Client, provider: Upstream) -> None:
    values = {"destination_url": provider.url, "header_name": "X-Key", "header_template": "{{secret}}"}
    page = signed_in.post(CUSTOM, form(signed_in, CUSTOM, places=PLACES, **values))
    assert page.status_code == HTTPStatus.CREATED
    assert Credential.objects.get().places == [
        ["header", "X-Organization", "acme: inc."],
        ["query", "api_key", "{{secret}}"],
        ["header", "Authorization", "Basic {{secret:base64}}"],
    ]
    details = AuditEvent.objects.filter(action="endpoint.connected").latest("pk").details
    assert details["places"] == ["X-Organization", "?api_key", "Authorization"]
    assert "acme" not in str(details)


def test_key_may_be_in_the_query_alone(signed_in: Client, provider: Upstream) -> None:
    values = {"destination_url": provider.url, "places": "?key={{secret}}\nX-Organization: acme"}
    assert signed_in.post(CUSTOM, form(signed_in, CUSTOM, **values)).status_code == HTTPStatus.CREATED
    credential = Credential.objects.get()
    assert (credential.header_name, credential.header_template) == ("", "")


def test_constants_leave_the_default_header(signed_in: Client, provider: Upstream) -> None:
    values = {"destination_url": provider.url, "places": "X-Organization: acme"}
    assert signed_in.post(CUSTOM, form(signed_in, CUSTOM, **values)).status_code == HTTPStatus.CREATED
    assert Credential.objects.get().header_template == "Bearer {{secret}}"


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ("X-Organization", "Write each line as"),
        ("?api_key", "Write each line as"),
        ("X Organization: a", "letters, digits and dashes"),
        ("Host: a", "cannot be sent in the header Host"),
        ("X-Strake-Hop: a", "cannot be sent in the header X-Strake-Hop"),
        ("X-Forwarded-User: a", "cannot be sent in the header"),
        ("?api key={{secret}}", "query parameter consists of"),
        ("?a%20b={{secret}}", "query parameter consists of"),
        ("X-Organization:", "1 to 256 printable ASCII"),
        ("X-Organization: é", "1 to 256 printable ASCII"),
        ("X-Two: {{secret}} {{secret}}", "once"),
        ("X-Two: {{secret}} {{secret:base64}}", "once"),
        ("X-Other: {{ secret }}", "once"),
        ("X-Other: {{secret:hex}}", "once"),
        ("X-A: 1\nx_a: 2", "is there twice"),
        ("authorization: {{secret}}", "is there twice"),
        ("?a=1\n?A=2", "is there twice"),
        ("\n".join(f"X-{number}: 1" for number in range(9)), "at most 8"),
    ],
)
def test_wrong_places_are_reported_at_their_field(
    places: str, message: str, signed_in: Client, provider: Upstream
) -> None:
    values = {"destination_url": provider.url, "header_name": "Authorization", "header_template": "{{secret}}"}
    page = signed_in.post(CUSTOM, form(signed_in, CUSTOM, places=places, **values))
    assert page.status_code == HTTPStatus.BAD_REQUEST
    assert message in element(page, "id_places_error")
    assert not Endpoint.objects.exists()


def test_changed_places_are_audited_by_name(signed_in: Client, provider: Upstream) -> None:
    values = {"destination_url": provider.url, "header_name": "X-Key", "header_template": "{{secret}}"}
    signed_in.post(CUSTOM, form(signed_in, CUSTOM, places="X-Old: one\nX-Kept: secret-one", **values))
    subdomain = Endpoint.objects.get().subdomain
    url = f"/endpoints/{subdomain}/destination/"
    assert "X-Kept: secret-one" in signed_in.get(url).content.decode()
    data = {"api_key": KEY, "places": "X-New: two\nX-Kept: secret-two", **values}
    assert signed_in.post(url, data).status_code == HTTPStatus.SEE_OTHER
    details = AuditEvent.objects.filter(action="destination.changed").latest("pk").details
    assert {name: value for name, value in details.items() if name.startswith("places")} == {
        "places_from": ["X-Old", "X-Kept"],
        "places_to": ["X-New", "X-Kept"],
        "places_changed": ["X-Kept"],
    }
    replaced = signed_in.post(f"/endpoints/{subdomain}/key/", {"api_key": KEY})
    assert replaced.status_code == HTTPStatus.SEE_OTHER
    assert Credential.objects.get().places == [["header", "X-New", "two"], ["header", "X-Kept", "secret-two"]]


def test_base_url_on_the_page_follows_the_destination(signed_in: Client, provider: Upstream) -> None:
    for path, suffix in {"": "/v1", "/v1": "", "/api/v1": "", "/api": "/v1"}.items():
        page = signed_in.post(CUSTOM, form(signed_in, CUSTOM, destination_url=provider.url + path))
        url = Endpoint.objects.latest("created_at").url
        assert f"{url}{suffix}/chat/completions" in text(page)
        assert ("OpenAI SDKs need" in text(page)) == bool(suffix)


def test_form_sent_twice_connects_once(signed_in: Client, provider: Upstream) -> None:
    data = form(signed_in)
    first = signed_in.post(DEMO, data)
    again = signed_in.post(DEMO, data)
    endpoint = Endpoint.objects.get()
    assert (again.status_code, again.headers["Location"]) == (HTTPStatus.SEE_OTHER, f"/endpoints/{endpoint.subdomain}/")
    followed = signed_in.get(again.headers["Location"])
    assert "already sent this form" in text(followed)
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
