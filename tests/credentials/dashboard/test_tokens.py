"""Adding, rotating and revoking tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts import tokens
from accounts.models import User
from credentials import services
from credentials.models import BearerToken
from tests.support import factories
from tests.support.factories import Connected
from tests.support.pages import Page, element, text, value
from tests.support.services import RedisServer


@pytest.fixture
def made(alice: User) -> Connected:
    return factories.make_endpoint(owner=alice, label="laptop")


def add(client: Client, made: Connected, **fields: str) -> tuple[Page, BearerToken | None]:
    """Send the form for a new token. Returns the response and the new token, if there is one."""
    url = f"/endpoints/{made.endpoint.subdomain}/tokens/"
    page = client.post(url, {"submission": value(client.get(url), "submission"), **fields}, follow=True)
    return page, BearerToken.objects.exclude(pk=made.token.pk).first()


def test_new_token_is_shown_once_with_its_limits(signed_in: Client, made: Connected) -> None:
    page, token = add(
        signed_in,
        made,
        label="CI",
        expires="7",
        requests_per_minute="60",
        allowed_paths="post /v1/chat/completions\r\n/v1/models\r\n\r\n",
        allowed_networks="192.0.2.7/24\n",
    )
    assert page.status_code == HTTPStatus.CREATED
    assert token is not None
    assert bytes(token.digest) == tokens.digest(element(page, "token"))
    assert token.label == "CI"
    assert token.requests_per_minute == 60
    assert token.allowed_paths == ["POST /v1/chat/completions", "* /v1/models"]
    assert token.allowed_networks == ["192.0.2.0/24"]
    assert token.expires_at is not None
    assert abs(token.expires_at - timezone.now() - timedelta(days=7)) < timedelta(minutes=1)
    listed = signed_in.get(f"/endpoints/{made.endpoint.subdomain}/")
    limits = ("60 requests a minute", "only POST /v1/chat/completions", "only /v1/models", "from 192.0.2.0/24")
    for limit in limits:
        assert limit in text(page)
        assert limit in text(listed)
    assert element(page, "token") not in listed.content.decode()


def test_token_expires_at_the_end_of_the_chosen_day(signed_in: Client, made: Connected) -> None:
    _, token = add(signed_in, made, expires="date", expires_on="2120-12-31")
    assert token is not None
    assert token.expires_at == datetime(2121, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "invalid"),
    [
        ({"requests_per_minute": "0"}, "requests_per_minute"),
        ({"requests_per_minute": "many"}, "requests_per_minute"),
        ({"expires": "date"}, "expires_on"),
        ({"expires": "date", "expires_on": "2001-01-01"}, "expires_on"),
        ({"expires": "date", "expires_on": "soon"}, "expires_on"),
        ({"expires": "13"}, "expires"),
        ({"allowed_paths": "v1/models"}, "allowed_paths"),
        ({"allowed_paths": "BREW /coffee"}, "allowed_paths"),
        ({"allowed_networks": "everywhere"}, "allowed_networks"),
    ],
)
def test_invalid_limit_is_reported_and_all_input_stays(
    signed_in: Client, made: Connected, fields: dict[str, str], invalid: str
) -> None:
    typed = {"label": "CI", "allowed_paths": "GET /v1/models", "allowed_networks": "192.0.2.0/24"} | fields
    page, token = add(signed_in, made, **typed)
    assert page.status_code == HTTPStatus.BAD_REQUEST
    assert token is None
    assert element(page, f"id_{invalid}_error")
    assert value(page, "label") == "CI"
    for name in ("allowed_paths", "allowed_networks"):
        assert element(page, f"id_{name}").strip() == typed[name]


def test_all_invalid_limits_are_reported_at_once(signed_in: Client, made: Connected) -> None:
    invalid = {"requests_per_minute": "0", "allowed_paths": "v1/models", "allowed_networks": "everywhere"}
    page, _ = add(signed_in, made, **invalid)
    for field in invalid:
        assert element(page, f"id_{field}_error")


def test_form_says_why_minting_is_refused(signed_in: Client, made: Connected) -> None:
    form = signed_in.get(f"/endpoints/{made.endpoint.subdomain}/tokens/")
    assert "go on working after you revoke this token" in text(form)
    _, refusing = add(signed_in, made, label="CI")
    assert refusing is not None
    assert not refusing.allow_minting
    refusing.delete()
    page, allowing = add(signed_in, made, label="Voice", allow_minting="on")
    assert allowing is not None
    assert allowing.allow_minting
    assert "may create credentials" in text(page)


def test_rotating_shows_the_new_token_once(signed_in: Client, made: Connected) -> None:
    url = f"/endpoints/{made.endpoint.subdomain}/tokens/{made.token.pk}/rotate/"
    confirmation = signed_in.get(url)
    assert "stops working at once" in text(confirmation)
    data = {"submission": value(confirmation, "submission")}
    page = signed_in.post(url, data)
    assert page.status_code == HTTPStatus.CREATED
    token = BearerToken.objects.get()
    assert (token.pk, token.label) == (made.token.pk, made.token.label)
    assert bytes(token.digest) == tokens.digest(element(page, "token")) != tokens.digest(made.plaintext)

    # Reloading the page does not rotate again.
    again = signed_in.post(url, data)
    assert again.status_code == HTTPStatus.SEE_OTHER
    assert bytes(BearerToken.objects.get().digest) == bytes(token.digest)


def test_revoking_is_final(signed_in: Client, made: Connected) -> None:
    url = f"/endpoints/{made.endpoint.subdomain}/tokens/{made.token.pk}/"
    assert "this can't be undone" in text(signed_in.get(f"{url}revoke/"))
    page = signed_in.post(f"{url}revoke/", follow=True)
    assert "Revoked “First token”" in text(page)
    assert BearerToken.objects.get().revoked_at is not None
    assert signed_in.get(f"{url}rotate/").status_code == HTTPStatus.NOT_FOUND
    assert signed_in.post(f"{url}rotate/").status_code == HTTPStatus.NOT_FOUND


def test_revoked_and_expired_tokens_are_hidden(signed_in: Client, made: Connected) -> None:
    now = timezone.now()
    factories.make_token(endpoint=made.endpoint, label="gone", revoked_at=now)
    factories.make_token(
        endpoint=made.endpoint, label="stale", created_at=now - timedelta(2), expires_at=now - timedelta(1)
    )
    page = text(signed_in.get(f"/endpoints/{made.endpoint.subdomain}/"))
    assert "gone" not in page
    assert "stale" not in page
    assert "Revoked or expired 2" in page
    everything = signed_in.get(f"/endpoints/{made.endpoint.subdomain}/?tokens=all")
    assert everything.content.decode().count("/rotate/") == 1, "only the live token can be rotated"
    page = text(everything)
    assert "gone" in page
    assert "stale" in page


def test_token_of_another_endpoint_returns_404(signed_in: Client, made: Connected, alice: User) -> None:
    other = factories.make_endpoint(owner=alice)
    url = f"/endpoints/{other.endpoint.subdomain}/tokens/{made.token.pk}/revoke/"
    assert signed_in.post(url).status_code == HTTPStatus.NOT_FOUND
    assert BearerToken.objects.get(pk=made.token.pk).revoked_at is None


@pytest.mark.redis
def test_store_failing_after_rotation_keeps_the_token(
    redis: RedisServer, client: Client, alice: User, made: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.force_login(alice)
    rotate = services.rotate_token

    def rotate_and_stop_the_store(**arguments: Any) -> services.Issued:
        issued = rotate(**arguments)
        redis.stop()
        return issued

    monkeypatch.setattr(services, "rotate_token", rotate_and_stop_the_store)
    page = client.post(f"/endpoints/{made.endpoint.subdomain}/tokens/{made.token.pk}/rotate/")
    assert page.status_code == HTTPStatus.CREATED
    made.token.refresh_from_db()
    assert bytes(made.token.digest) == tokens.digest(element(page, "token"))


@pytest.mark.redis
def test_store_outage_returns_503_and_rotates_nothing(
    redis: RedisServer, client: Client, alice: User, made: Connected, settings: Settings
) -> None:
    settings.SESSION_ENGINE = "accounts.sessions.database"
    client.force_login(alice)
    redis.stop()
    response = client.post(f"/endpoints/{made.endpoint.subdomain}/tokens/{made.token.pk}/rotate/")
    assert response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert not response.cookies
    before = bytes(made.token.digest)
    made.token.refresh_from_db()
    assert bytes(made.token.digest) == before


def test_form_sets_origins_and_explains_mistakes(signed_in: Client, made: Connected) -> None:
    url = f"/endpoints/{made.endpoint.subdomain}/tokens/"
    form = {"submission": value(signed_in.get(url), "submission"), "label": "page"}
    refused = signed_in.post(url, {**form, "allowed_origins": "https://a.example/app"}, follow=True)
    assert "An origin has no path. Write https://a.example" in text(refused)
    added = signed_in.post(url, {**form, "allowed_origins": "https://a.example\r\nhttp://localhost:3000\r\n"})
    assert added.status_code == HTTPStatus.CREATED
    token = BearerToken.objects.get(label="page")
    assert token.allowed_origins == ["https://a.example", "http://localhost:3000"]
    assert "pages of https://a.example" in text(signed_in.get(f"/endpoints/{made.endpoint.subdomain}/"))
