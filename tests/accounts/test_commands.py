"""Operator commands of the accounts app, as scripts use them: output, exit codes, no traceback."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from accounts import access_tokens
from accounts.models import AccessToken, AuditEvent, User

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue().strip()


def test_signin_link_prints_one_working_link_and_makes_the_user(settings: object) -> None:
    settings.STRAKE_SIGNUP = ["closed"]  # type: ignore[attr-defined]
    link = run("signin_link", " New@Example.ORG ")
    assert link.startswith("http://localhost:8000/signin/link/link_")
    browser = Client()
    browser.get(link.removeprefix("http://localhost:8000"))
    token = browser.get("/signin/confirm/").context["link"].token
    assert browser.post("/signin/confirm/", {"token": token}).status_code == 303
    assert User.objects.get().email == "new@example.org"


def test_signin_link_makes_staff_only_when_asked_and_never_takes_it_back() -> None:
    run("signin_link", "a@example.org")
    assert not User.objects.get().is_staff
    run("signin_link", "a@example.org", "--staff")
    run("signin_link", "a@example.org")
    assert User.objects.get().is_staff
    assert AuditEvent.objects.filter(action="user.made_staff").count() == 1


def test_signin_link_is_not_bound_by_the_limit_on_live_links() -> None:
    assert len({run("signin_link", "a@example.org") for _ in range(5)}) == 5


@pytest.mark.parametrize(
    "arguments",
    [
        ["signin_link", "nobody"],
        ["create_access_token", "--email", "nobody@example.org", "--label", "x"],
        ["create_access_token", "--email", "alice@example.org", "--label", "  "],
        ["create_access_token", "--email", "alice@example.org", "--label", "x", "--days", "0"],
        ["create_access_token", "--email", "alice@example.org", "--label", "x", "--days", "99999999999"],
        ["revoke_sessions", "nobody@example.org"],
        ["revoke_sessions", "nobody"],
    ],
)
def test_mistakes_are_explained_in_one_line(alice: User, arguments: list[str]) -> None:
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert caught.value.returncode == 1
    assert len(str(caught.value).splitlines()) == 1
    assert not AccessToken.objects.exists()


def test_access_token_is_printed_once_and_stored_as_a_digest(alice: User) -> None:
    plaintext = run("create_access_token", "--email", "alice@example.org", "--label", "CI")
    assert access_tokens.authenticate(plaintext) == alice
    [row] = AccessToken.objects.values()
    assert plaintext not in str(row)
    assert row["label"] == "CI"


def test_revoke_sessions_signs_out_everywhere(alice: User, client: Client) -> None:
    client.force_login(alice)
    assert client.get("/settings/").status_code == 200
    assert run("revoke_sessions", "alice@example.org") == "Ended 1 session of alice@example.org."
    assert client.get("/settings/").status_code == 302
