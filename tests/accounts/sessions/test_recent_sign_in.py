"""Views that require a recent sign-in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
import time_machine
from django.core import mail
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.urls import path
from django.utils import timezone

from accounts.models import User
from accounts.sessions import service as sessions
from accounts.sessions.decorators import recent_sign_in_required
from strake.urls import urlpatterns as strake_urls
from tests.accounts.signing_in import token_in

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]


@recent_sign_in_required
def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("page")


@recent_sign_in_required(return_to=lambda thing: f"/things/{thing}/")
def delete(request: HttpRequest, thing: str) -> HttpResponse:
    return HttpResponse("done")


urlpatterns = [path("page/", page), path("things/<str:thing>/delete/", delete), *strake_urls]


def next_in(location: str) -> str:
    assert urlsplit(location).path == "/signin/again/"
    return parse_qs(urlsplit(location).query)["next"][0]


def test_recent_sign_in_is_enough(client: Client, alice: User) -> None:
    client.force_login(alice)
    assert client.get("/page/").content == b"page"
    assert client.post("/things/x/delete/").content == b"done"


def test_post_needs_sign_in_within_fifteen_minutes(client: Client, alice: User) -> None:
    start = timezone.now()
    with time_machine.travel(start, tick=False):
        client.force_login(alice)
    with time_machine.travel(start + timedelta(minutes=15), tick=False):
        assert client.post("/things/x/delete/").content == b"done"
    with time_machine.travel(start + timedelta(minutes=15, seconds=1), tick=False):
        assert next_in(client.get("/page/").headers["Location"]) == "/page/"
        assert next_in(client.post("/things/x/delete/").headers["Location"]) == "/things/x/"


def test_get_needs_sign_in_within_ten_minutes(client: Client, alice: User) -> None:
    """So a form can be submitted for five minutes. After that, people are told that nothing was saved."""
    start = timezone.now()
    with time_machine.travel(start, tick=False):
        client.force_login(alice)
    with time_machine.travel(start + timedelta(minutes=10), tick=False):
        assert client.get("/page/").status_code == 200
    with time_machine.travel(start + timedelta(minutes=10, seconds=1), tick=False):
        response = client.get("/page/", follow=True)
        assert response.redirect_chain == [("/signin/again/?next=%2Fpage%2F", 303)]
        assert "Nothing was saved" not in response.content.decode()
    with time_machine.travel(start + timedelta(minutes=16), tick=False):
        assert "Nothing was saved" in client.post("/page/", {"key": "x"}, follow=True).content.decode()


def test_link_leads_back_to_the_page(client: Client, alice: User, mailed_link: Callable[[], str]) -> None:
    with time_machine.travel(timezone.now() - timedelta(hours=1), tick=False):
        client.force_login(alice)
    again = client.get("/page/").headers["Location"]
    assert "alice@example.org" in client.get(again).content.decode()
    assert client.post("/signin/again/", {"next": next_in(again)}).status_code == 303
    link = mailed_link()
    assert mail.outbox[0].to == ["alice@example.org"]
    client.get(link)
    done = client.post("/signin/confirm/", {"token": token_in(link)})
    assert done.headers["Location"] == "/page/"
    assert client.get("/page/").status_code == 200


def test_get_sends_no_email(client: Client, alice: User, deliver: Callable[[], None]) -> None:
    with time_machine.travel(timezone.now() - timedelta(hours=1), tick=False):
        client.force_login(alice)
    client.get("/signin/again/?next=/page/")
    deliver()
    assert not mail.outbox


def test_anonymous_is_redirected_to_sign_in(client: Client) -> None:
    assert urlsplit(client.get("/page/").headers["Location"]).path == "/signin/"


def test_sign_in_in_the_future_is_not_recent(alice: User) -> None:
    request = RequestFactory().get("/")
    request.session = {"signed_in_at": timezone.now().timestamp() + 3600}  # type: ignore[assignment]
    assert not sessions.is_recent(request)
