"""The access tokens page."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
import time_machine
from django.test import Client
from django.utils import timezone

from accounts import access_tokens
from accounts.audit import Actor
from accounts.models import AccessToken, User

pytestmark = pytest.mark.django_db


def test_token_is_shown_once_and_works(client: Client, alice: User) -> None:
    client.force_login(alice)
    response = client.post("/access-tokens/new/", {"label": "CI", "days": "30"})
    assert response.headers["Cache-Control"] == "no-store, no-transform"
    [plaintext] = set(re.findall(r"pat_\w{49}", response.content.decode()))
    assert access_tokens.authenticate(plaintext) == alice
    token = AccessToken.objects.get()
    assert token.expires_at
    assert abs(token.expires_at - timezone.now() - timedelta(days=30)) < timedelta(minutes=1)
    page = client.get("/access-tokens/").content.decode()
    assert "CI" in page
    assert plaintext not in page


def test_token_may_never_expire(client: Client, alice: User) -> None:
    client.force_login(alice)
    client.post("/access-tokens/new/", {"label": "CI", "days": ""})
    assert AccessToken.objects.get().expires_at is None


@pytest.mark.parametrize("data", [{}, {"label": "  "}, {"label": "x" * 101}, {"label": "x", "days": "5"}])
def test_mistakes_are_named_and_make_no_token(client: Client, alice: User, data: dict[str, str]) -> None:
    client.force_login(alice)
    response = client.post("/access-tokens/new/", data)
    assert response.status_code == 400
    assert 'class="error"' in response.content.decode()
    assert not AccessToken.objects.exists()


def test_making_one_needs_a_recent_sign_in(client: Client, alice: User) -> None:
    with time_machine.travel(timezone.now() - timedelta(minutes=20), tick=False):
        client.force_login(alice)
    again = "/signin/again/?next=%2Faccess-tokens%2Fnew%2F"
    assert client.get("/access-tokens/new/").headers["Location"] == again
    assert client.post("/access-tokens/new/", {"label": "x"}).headers["Location"] == again + "&unsaved=1"
    assert not AccessToken.objects.exists()


def test_revoking_asks_first_and_ends_the_token(client: Client, alice: User) -> None:
    created = access_tokens.create_access_token(actor=Actor(alice), user=alice, label="CI")
    client.force_login(alice)
    path = f"/access-tokens/{created.token.pk}/revoke/"
    assert "Revoke CI?" in client.get(path).content.decode()
    assert access_tokens.authenticate(created.plaintext) == alice
    assert "CI is revoked" in client.post(path, follow=True).content.decode()
    assert access_tokens.authenticate(created.plaintext) is None
    assert client.get(path).status_code == 404


def test_stranger_gets_404_and_sees_nothing(client: Client, alice: User, charlie: User) -> None:
    created = access_tokens.create_access_token(actor=Actor(alice), user=alice, label="Secret project")
    client.force_login(charlie)
    path = f"/access-tokens/{created.token.pk}/revoke/"
    assert client.get(path).status_code == client.post(path).status_code == 404
    assert "Secret project" not in client.get("/access-tokens/").content.decode()
    assert access_tokens.authenticate(created.plaintext) == alice
