"""Commands of the accounts app: output, exit codes and error messages."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts.models import AccessToken, AuditEvent, User
from tests.accounts.signing_in import user_of

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue().strip()


def test_signin_link_prints_a_link_and_creates_user(settings: Settings) -> None:
    settings.STRAKE_SIGNUP = ["closed"]
    link = run("signin_link", " New@Example.ORG ")
    assert link.startswith("http://localhost:8000/signin/link/link_")
    browser = Client()
    browser.get(link.removeprefix("http://localhost:8000"))
    token = browser.get("/signin/confirm/").context["link"].token
    assert browser.post("/signin/confirm/", {"token": token}).status_code == 303
    assert User.objects.get().email == "new@example.org"


def test_signin_link_staff_is_opt_in_and_permanent() -> None:
    run("signin_link", "a@example.org")
    assert not User.objects.get().is_staff
    run("signin_link", "a@example.org", "--staff")
    run("signin_link", "a@example.org")
    assert User.objects.get().is_staff
    assert AuditEvent.objects.filter(action="user.made_staff").count() == 1


def test_signin_link_ignores_the_live_link_limit() -> None:
    assert len({run("signin_link", "a@example.org") for _ in range(5)}) == 5


@pytest.mark.parametrize(
    "arguments",
    [
        ["signin_link", "nobody"],
        ["create_access_token", "--email", "nobody@example.org", "--label", "x"],
        ["create_access_token", "--email", "alice@example.org", "--label", "  "],
        ["create_access_token", "--email", "alice@example.org", "--label", "x", "--days", "0"],
        ["create_access_token", "--email", "alice@example.org", "--label", "x", "--days", "99999999999"],
        ["create_access_token", "--email", "alice@example.org", "--label", "x", "--expires-in", "8 hours"],
        ["create_access_token", "--email", "alice@example.org", "--label", "x", "--expires-in", "3651d"],
        ["create_access_token", "--email", "alice@example.org", "--label", "x", "--scope", "admin"],
        ["create_access_token", "--email", "alice@example.org", "--label", "x", "--network", "300.1.1.1"],
        ["revoke_sessions", "nobody@example.org"],
        ["revoke_sessions", "nobody"],
    ],
)
def test_invalid_arguments_fail_with_one_line(alice: User, arguments: list[str]) -> None:
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert caught.value.returncode == 1
    assert len(str(caught.value).splitlines()) == 1
    assert not AccessToken.objects.exists()


def test_access_token_is_printed_and_not_stored(alice: User) -> None:
    plaintext = run("create_access_token", "--email", "alice@example.org", "--label", "CI")
    assert user_of(plaintext) == alice
    [row] = AccessToken.objects.values()
    assert plaintext not in str(row)
    assert row["label"] == "CI"
    assert (row["scopes"], row["allowed_networks"], row["expires_at"]) == (["read", "tokens", "endpoints"], [], None)


def test_access_token_with_scope_expiry_and_network(alice: User) -> None:
    limits = ["--scope", "tokens", "--expires-in", "8h", "--network", "192.0.2.9"]
    run("create_access_token", "--email", "alice@example.org", "--label", "CI", *limits)
    token = AccessToken.objects.get()
    assert (token.scopes, token.allowed_networks) == (["read", "tokens"], ["192.0.2.9/32"])
    assert token.expires_at
    assert abs(token.expires_at - timezone.now() - timedelta(hours=8)) < timedelta(minutes=1)


def test_revoke_sessions_ends_every_session(alice: User, client: Client) -> None:
    client.force_login(alice)
    assert client.get("/settings/").status_code == 200
    assert run("revoke_sessions", "alice@example.org") == "Ended 1 session of alice@example.org."
    assert client.get("/settings/").status_code == 302
