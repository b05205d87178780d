"""Pages for signed-in people: settings and access tokens. The audit log's are in test_audit_log.py."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
import time_machine
from django.test import Client
from django.utils import timezone

from accounts import access_tokens
from accounts.actors import Person
from accounts.models import AccessToken, AuditEvent, BrowserSession, SignInLink, User
from credentials.models import BearerToken, Credential, Endpoint
from tests.accounts.signing_in import is_signed_in, sign_in, user_of
from tests.support import factories

pytestmark = pytest.mark.django_db


# --- Settings ------------------------------------------------------------------------------------------------------


def test_sessions_are_listed(alice: User, bob: User) -> None:
    browser = sign_in(alice)
    Client().force_login(alice)
    page = browser.get("/settings/")
    text = unescape(page.content.decode())
    assert text.count("Firefox on Linux") >= 1
    assert "Unknown browser" in text
    assert "127.0.0.1" in text
    assert "This browser" in text
    assert "Sign out all other sessions" in text


def test_one_session_can_be_ended(alice: User) -> None:
    here, there = sign_in(alice), Client()
    there.force_login(alice)
    other = BrowserSession.objects.get(browser="Unknown browser")
    response = here.post(f"/settings/sessions/{other.pk}/end/", follow=True)
    assert "That browser is signed out." in response.content.decode()
    assert is_signed_in(here)
    assert not is_signed_in(there)


def test_all_other_sessions_can_be_ended(alice: User) -> None:
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


def test_account_is_deleted_but_audit_events_stay(alice: User, bob: User) -> None:
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


def test_deleting_needs_the_typed_address(alice: User) -> None:
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


# --- Access tokens -------------------------------------------------------------------------------------------------


def test_token_is_shown_once_and_works(client: Client, alice: User) -> None:
    client.force_login(alice)
    data = {"label": "CI", "days": "30", "scopes": "tokens", "allowed_networks": "192.0.2.0/24\n2001:db8::1"}
    response = client.post("/access-tokens/new/", data)
    assert response.headers["Cache-Control"] == "no-store, no-transform"
    [plaintext] = set(re.findall(r"pat_\w{49}", response.content.decode()))
    assert access_tokens.authenticate(plaintext, address="192.0.2.7") is not None
    token = AccessToken.objects.get()
    assert (token.scopes, token.allowed_networks) == (["read", "tokens"], ["192.0.2.0/24", "2001:db8::1/128"])
    assert token.expires_at
    assert abs(token.expires_at - timezone.now() - timedelta(days=30)) < timedelta(minutes=1)
    page = client.get("/access-tokens/").content.decode()
    assert "CI" in page
    assert "read, tokens" in page
    assert "from 192.0.2.0/24, 2001:db8::1/128" in page
    assert plaintext not in page


def test_token_may_never_expire(client: Client, alice: User) -> None:
    client.force_login(alice)
    client.post("/access-tokens/new/", {"label": "CI", "days": "", "scopes": "tokens endpoints"})
    assert AccessToken.objects.get().expires_at is None


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"label": "  ", "scopes": "read"},
        {"label": "x" * 101, "scopes": "read"},
        {"label": "x", "scopes": "read", "days": "5"},
        {"label": "x"},
        {"label": "x", "scopes": "admin"},
        {"label": "x", "scopes": "read", "allowed_networks": "everywhere"},
    ],
)
def test_invalid_form_creates_no_token(client: Client, alice: User, data: dict[str, str]) -> None:
    client.force_login(alice)
    response = client.post("/access-tokens/new/", data)
    assert response.status_code == 400
    assert 'class="error"' in response.content.decode()
    assert not AccessToken.objects.exists()


def test_creating_a_token_needs_a_recent_sign_in(client: Client, alice: User) -> None:
    with time_machine.travel(timezone.now() - timedelta(minutes=20), tick=False):
        client.force_login(alice)
    again = "/signin/again/?next=%2Faccess-tokens%2Fnew%2F"
    assert client.get("/access-tokens/new/").headers["Location"] == again
    assert client.post("/access-tokens/new/", {"label": "x"}).headers["Location"] == again + "&unsaved=1"
    assert not AccessToken.objects.exists()


def test_revoking_a_token_needs_confirmation(client: Client, alice: User) -> None:
    created = access_tokens.create(actor=Person(alice), user=alice, label="CI")
    client.force_login(alice)
    path = f"/access-tokens/{created.token.pk}/revoke/"
    assert "Revoke CI?" in client.get(path).content.decode()
    assert user_of(created.plaintext) == alice
    assert "CI is revoked" in client.post(path, follow=True).content.decode()
    assert access_tokens.authenticate(created.plaintext) is None
    assert client.get(path).status_code == 404


def test_stranger_cannot_see_or_revoke_tokens(client: Client, alice: User, charlie: User) -> None:
    created = access_tokens.create(actor=Person(alice), user=alice, label="Secret project")
    client.force_login(charlie)
    path = f"/access-tokens/{created.token.pk}/revoke/"
    assert client.get(path).status_code == client.post(path).status_code == 404
    assert "Secret project" not in client.get("/access-tokens/").content.decode()
    assert user_of(created.plaintext) == alice
