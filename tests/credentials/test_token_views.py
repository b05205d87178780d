"""Adding, rotating and revoking tokens in the dashboard."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import pytest
from django.test import Client
from django.utils import timezone

from accounts import tokens
from accounts.models import User
from credentials import services
from credentials.models import BearerToken
from tests import factories
from tests.conftest import OwnRedis
from tests.factories import Connected
from tests.pages import element, text, value


@pytest.fixture
def signed_in(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client


@pytest.fixture
def made(alice: User) -> Connected:
    return factories.make_endpoint(owner=alice, label="laptop")


def add(client: Client, made: Connected, **fields: str) -> tuple[object, BearerToken | None]:
    url = f"/endpoints/{made.endpoint.subdomain}/tokens/"
    page = client.post(url, {"submission": value(client.get(url), "submission"), **fields})
    return page, BearerToken.objects.exclude(pk=made.token.pk).first()


def test_a_new_token_is_shown_once_with_its_limits_in_words(signed_in: Client, made: Connected) -> None:
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
    words = ("60 requests a minute", "only POST /v1/chat/completions", "only /v1/models", "from 192.0.2.0/24")
    for said in words:
        assert said in text(page)
        assert said in text(listed)
    assert element(page, "token") not in listed.content.decode()


def test_a_token_ends_with_the_day_that_was_chosen(signed_in: Client, made: Connected) -> None:
    _, token = add(signed_in, made, expires="date", expires_on="2120-12-31")
    assert token is not None
    assert token.expires_at == datetime(2121, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "wrong"),
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
def test_a_wrong_limit_is_said_beside_its_field_and_nothing_typed_is_lost(
    signed_in: Client, made: Connected, fields: dict[str, str], wrong: str
) -> None:
    typed = {"label": "CI", "allowed_paths": "GET /v1/models", "allowed_networks": "192.0.2.0/24"} | fields
    page, token = add(signed_in, made, **typed)
    assert page.status_code == HTTPStatus.BAD_REQUEST
    assert token is None
    assert element(page, f"id_{wrong}_error")
    assert value(page, "label") == "CI"
    for name in ("allowed_paths", "allowed_networks"):
        assert element(page, f"id_{name}").strip() == typed[name]


def test_all_wrong_limits_are_said_at_once(signed_in: Client, made: Connected) -> None:
    wrong = {"requests_per_minute": "0", "allowed_paths": "v1/models", "allowed_networks": "everywhere"}
    page, _ = add(signed_in, made, **wrong)
    for field in wrong:
        assert element(page, f"id_{field}_error")


def test_rotating_shows_the_new_token_once_and_keeps_the_rest(signed_in: Client, made: Connected) -> None:
    url = f"/endpoints/{made.endpoint.subdomain}/tokens/{made.token.pk}/rotate/"
    question = signed_in.get(url)
    assert "stops working at once" in text(question)
    data = {"submission": value(question, "submission")}
    page = signed_in.post(url, data)
    assert page.status_code == HTTPStatus.CREATED
    token = BearerToken.objects.get()
    assert (token.pk, token.label) == (made.token.pk, made.token.label)
    assert bytes(token.digest) == tokens.digest(element(page, "token")) != tokens.digest(made.plaintext)

    # A reload rotates nothing.
    again = signed_in.post(url, data)
    assert again.status_code == HTTPStatus.SEE_OTHER
    assert bytes(BearerToken.objects.get().digest) == bytes(token.digest)


def test_revoking_is_for_good(signed_in: Client, made: Connected) -> None:
    url = f"/endpoints/{made.endpoint.subdomain}/tokens/{made.token.pk}/"
    assert "for good" in text(signed_in.get(f"{url}revoke/"))
    page = signed_in.post(f"{url}revoke/", follow=True)
    assert "First token is revoked" in text(page)
    assert BearerToken.objects.get().revoked_at is not None
    assert signed_in.get(f"{url}rotate/").status_code == HTTPStatus.NOT_FOUND
    assert signed_in.post(f"{url}rotate/").status_code == HTTPStatus.NOT_FOUND


def test_revoked_and_expired_tokens_are_put_aside(signed_in: Client, made: Connected) -> None:
    now = timezone.now()
    factories.make_token(endpoint=made.endpoint, label="gone", revoked_at=now)
    factories.make_token(
        endpoint=made.endpoint, label="stale", created_at=now - timedelta(2), expires_at=now - timedelta(1)
    )
    page = text(signed_in.get(f"/endpoints/{made.endpoint.subdomain}/"))
    assert "gone" not in page
    assert "stale" not in page
    assert "Show 2 revoked or expired tokens" in page
    everything = signed_in.get(f"/endpoints/{made.endpoint.subdomain}/?tokens=all")
    assert everything.content.decode().count("/rotate/") == 1, "what is over is not rotated"
    page = text(everything)
    assert "gone" in page
    assert "stale" in page


def test_a_token_of_another_endpoint_is_not_reached_through_this_one(
    signed_in: Client, made: Connected, alice: User
) -> None:
    other = factories.make_endpoint(owner=alice)
    url = f"/endpoints/{other.endpoint.subdomain}/tokens/{made.token.pk}/revoke/"
    assert signed_in.post(url).status_code == HTTPStatus.NOT_FOUND
    assert BearerToken.objects.get(pk=made.token.pk).revoked_at is None


@pytest.mark.redis
def test_store_that_dies_after_the_deed_does_not_cost_the_token(
    redis: OwnRedis, client: Client, alice: User, made: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.force_login(alice)
    rotate = services.rotate_token

    def rotate_and_lose_the_store(**arguments: str) -> services.Issued:
        issued = rotate(**arguments)
        redis.stop()
        return issued

    monkeypatch.setattr(services, "rotate_token", rotate_and_lose_the_store)
    page = client.post(f"/endpoints/{made.endpoint.subdomain}/tokens/{made.token.pk}/rotate/")
    assert page.status_code == HTTPStatus.CREATED
    made.token.refresh_from_db()
    assert bytes(made.token.digest) == tokens.digest(element(page, "token"))


@pytest.mark.redis
def test_store_that_is_down_is_a_503_and_nothing_is_done(
    redis: OwnRedis, client: Client, alice: User, made: Connected, settings: object
) -> None:
    settings.SESSION_ENGINE = "accounts.session_database"  # type: ignore[attr-defined]
    client.force_login(alice)
    redis.stop()
    answer = client.post(f"/endpoints/{made.endpoint.subdomain}/tokens/{made.token.pk}/rotate/")
    assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert not answer.cookies
    before = bytes(made.token.digest)
    made.token.refresh_from_db()
    assert bytes(made.token.digest) == before
