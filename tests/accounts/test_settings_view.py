"""The settings page: sessions, and deleting the account."""

from __future__ import annotations

from datetime import timedelta
from html import unescape

import pytest
import time_machine
from django.test import Client
from django.utils import timezone

from accounts.models import AccessToken, AuditEvent, BrowserSession, SignInLink, User
from credentials.models import BearerToken, Credential, Endpoint
from tests import factories
from tests.accounts.test_sessions import is_signed_in, sign_in

pytestmark = pytest.mark.django_db


def test_sessions_are_listed_with_browser_and_address(alice: User, bob: User) -> None:
    browser = sign_in(alice)
    Client().force_login(alice)
    page = browser.get("/settings/")
    text = unescape(page.content.decode())
    assert text.count("Firefox on Linux") >= 1
    assert "Unknown browser" in text
    assert "127.0.0.1" in text
    assert "this one" in text
    assert "Sign out everywhere else" in text


def test_one_session_is_ended_from_the_page(alice: User) -> None:
    here, there = sign_in(alice), Client()
    there.force_login(alice)
    other = BrowserSession.objects.get(browser="Unknown browser")
    response = here.post(f"/settings/sessions/{other.pk}/end/", follow=True)
    assert "That browser is signed out." in response.content.decode()
    assert is_signed_in(here)
    assert not is_signed_in(there)


def test_all_others_are_ended_from_the_page(alice: User) -> None:
    here, there = sign_in(alice), Client()
    there.force_login(alice)
    assert "1 other browser is" in here.post("/settings/sessions/others/end/", follow=True).content.decode()
    assert not is_signed_in(there)
    assert "no other browser" in here.post("/settings/sessions/others/end/", follow=True).content.decode()


def test_stranger_cannot_end_sessions_of_others(alice: User, charlie: User) -> None:
    victim, stranger = sign_in(alice), sign_in(charlie)
    row = BrowserSession.objects.get(user=alice)
    assert stranger.post(f"/settings/sessions/{row.pk}/end/").status_code == 404
    assert is_signed_in(victim)


def test_account_is_deleted_with_everything_but_the_trail(alice: User, bob: User) -> None:
    mine, his = factories.make_endpoint(owner=alice), factories.make_endpoint(owner=bob)
    browser, elsewhere = sign_in(alice), sign_in(alice)
    response = browser.post("/settings/delete/", {"confirmation": " Alice@Example.org "})
    assert (response.status_code, response.headers["Location"]) == (303, "/signin/")
    assert "Your account is deleted" in browser.get("/signin/").content.decode()
    assert not is_signed_in(browser)
    assert not is_signed_in(elsewhere)
    assert list(User.objects.all()) == [bob]
    assert [e.pk for e in Endpoint.objects.all()] == [his.endpoint.pk]
    assert Credential.objects.count() == BearerToken.objects.count() == 1
    assert not Credential.objects.filter(pk=mine.credential.pk).exists()
    assert not AccessToken.objects.exists()
    assert not SignInLink.objects.exists()
    assert AuditEvent.objects.filter(action="user.deleted", subject_label="alice@example.org").exists()


def test_account_stays_unless_the_address_is_typed(alice: User) -> None:
    browser = sign_in(alice)
    for typed in ["", "bob@example.org", "yes"]:
        response = browser.post("/settings/delete/", {"confirmation": typed})
        assert response.status_code == 400
        assert "to delete your account" in response.content.decode()
    assert User.objects.filter(pk=alice.pk).exists()


def test_deleting_needs_a_recent_sign_in(alice: User) -> None:
    browser = Client()
    with time_machine.travel(timezone.now() - timedelta(minutes=20), tick=False):
        browser.force_login(alice)
    response = browser.post("/settings/delete/", {"confirmation": "alice@example.org"})
    assert response.headers["Location"].startswith("/signin/again/")
    assert User.objects.filter(pk=alice.pk).exists()
