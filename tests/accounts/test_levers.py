"""What operators do to a person: suspend, resume, demote, revoke access tokens, erase."""

from __future__ import annotations

import io
import json
import sys
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core import mail
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts import access_tokens, outbox, users
from accounts.actors import Operator, Person
from accounts.errors import LinkNotValid, NotFound, Suspended
from accounts.models import AuditEvent, BrowserSession, OutboxMail, SignInLink, User
from accounts.sign_in import magic_links
from credentials import key_check
from credentials.models import Credential, Endpoint
from strake.management.commands import serve
from tests.accounts.signing_in import confirm, is_signed_in, operator_link_path, sign_in, token_in, user_of
from tests.support import factories

pytestmark = pytest.mark.django_db
ANN = Operator("command test, ann on host1")


def run(*arguments: str, stdin: str = "") -> str:
    out, before = StringIO(), sys.stdin
    sys.stdin = io.StringIO(stdin)
    try:
        call_command(*arguments, stdout=out)
    finally:
        sys.stdin = before
    return out.getvalue().strip()


def event(action: str) -> AuditEvent:
    return AuditEvent.objects.filter(action=action).latest("pk")


def api(plaintext: str, path: str = "/api/v1/me") -> Any:
    return Client(headers={"Authorization": f"Bearer {plaintext}"}).get(path)


# --- Suspending ----------------------------------------------------------------------------------------------------


def test_suspending_ends_sessions_at_once(alice: User, bob: User) -> None:
    browsers, other = [sign_in(alice), sign_in(alice)], sign_in(bob)
    assert run("suspend_person", "Alice@example.org").startswith("alice@example.org is suspended")
    assert [is_signed_in(browser) for browser in browsers] == [False, False]
    assert is_signed_in(other)
    assert not BrowserSession.objects.filter(user=alice).exists()


def test_suspended_session_is_refused_even_if_a_store_brings_it_back(alice: User) -> None:
    browser = sign_in(alice)
    User.objects.filter(pk=alice.pk).update(suspended_at=timezone.now())
    assert not is_signed_in(browser)


def test_links_of_a_suspended_person_are_like_unknown_ones(alice: User) -> None:
    path = operator_link_path()
    unknown = path.replace(token_in(path), "link_" + "0" * 49)
    users.suspend(actor=ANN, user=alice)
    browser = Client()
    assert confirm(browser, path) == confirm(Client(), unknown) == 410
    assert not SignInLink.objects.exists()


def test_link_that_was_made_meanwhile_is_refused(alice: User) -> None:
    """A link that another process stored after the suspension had deleted those it saw."""
    path = operator_link_path()
    User.objects.filter(pk=alice.pk).update(suspended_at=timezone.now())
    with pytest.raises(LinkNotValid):
        magic_links.find_link(token=token_in(path), browser_id="")
    with pytest.raises(LinkNotValid):
        magic_links.redeem_link(token=token_in(path), ip=None, start_session=lambda user: None)
    assert SignInLink.objects.get().used_at is None


def test_suspended_person_gets_no_email_and_the_same_page(alice: User, bob: User) -> None:
    users.suspend(actor=ANN, user=alice)
    pages = {}
    for person in (alice, bob):
        pages[person.email] = Client().post("/signin/", {"email": person.email})
    assert {(page.status_code, page.headers["Location"]) for page in pages.values()} == {(303, "/signin/sent/")}
    outbox.run_due()
    assert [message.to for message in mail.outbox] == [["bob@example.org"]]
    assert not SignInLink.objects.filter(email=alice.email).exists()


def test_email_that_waits_is_dropped(alice: User) -> None:
    Client().post("/signin/", {"email": alice.email})
    assert OutboxMail.objects.exists()
    users.suspend(actor=ANN, user=alice)
    assert not OutboxMail.objects.exists()


def test_outbox_sends_a_suspended_person_no_kind_of_email(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = outbox.Kind("probe", lambda row: mail.EmailMessage("x", "y", to=[row.email]), lambda row: None)
    monkeypatch.setattr(outbox, "_kinds", {"probe": kind})
    User.objects.filter(pk=alice.pk).update(suspended_at=timezone.now())
    outbox.submit(kind, alice.email, {})
    outbox.run_due()
    assert not mail.outbox
    assert not OutboxMail.objects.exists()


def test_operator_is_told_that_a_person_is_suspended(alice: User) -> None:
    users.suspend(actor=ANN, user=alice)
    with pytest.raises(CommandError, match=r"resume_person alice@example\.org"):
        run("signin_link", "alice@example.org", "--staff")
    assert not SignInLink.objects.exists()
    assert not User.objects.get(pk=alice.pk).is_staff


def test_access_tokens_of_a_suspended_person_are_refused(alice: User) -> None:
    created = access_tokens.create(actor=Person(alice), user=alice, label="CI")
    assert api(created.plaintext).status_code == 200
    users.suspend(actor=ANN, user=alice)
    response = api(created.plaintext)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "suspended")
    access_tokens.revoke_access_token(actor=ANN, token_id=created.token.pk)
    assert api(created.plaintext).status_code == 401


def test_resuming_gives_access_back(alice: User) -> None:
    created = access_tokens.create(actor=Person(alice), user=alice, label="CI")
    old = sign_in(alice)
    run("suspend_person", alice.email)
    assert run("resume_person", alice.email) == "alice@example.org has access again."
    assert user_of(created.plaintext) == alice
    assert not is_signed_in(old)
    assert is_signed_in(sign_in(alice))
    assert run("resume_person", alice.email) == "alice@example.org was not suspended."
    assert AuditEvent.objects.filter(action="user.resumed").count() == 1


def test_suspending_is_audited_with_who_and_why(alice: User) -> None:
    sign_in(alice)
    shown = json.loads(run("suspend_person", alice.email, "--reason", "key leaked\x1b[2J", "--json"))
    assert shown == {"email": "alice@example.org", "changed": True, "sessions": 1}
    found = event("user.suspended")
    assert found.via.startswith("command suspend_person, ")
    assert found.details == {"from": "active", "to": "suspended", "reason": "key leaked\ufffd[2J"}
    assert (found.account, found.actor) == (alice, None)
    assert json.loads(run("suspend_person", alice.email, "--json"))["changed"] is False
    assert AuditEvent.objects.filter(action="user.suspended").count() == 1


def test_typed_errors(alice: User) -> None:
    users.suspend(actor=ANN, user=alice)
    with pytest.raises(Suspended):
        magic_links.operator_link(email=alice.email)
    with pytest.raises(NotFound):
        users.erase(actor=Person(factories.make_user()), user=alice)


# --- The other levers ----------------------------------------------------------------------------------------------


def test_demoting_takes_the_pages_of_operators_at_once(alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(is_staff=True)
    browser = sign_in(alice)
    assert browser.get("/admin/people/").status_code == 200
    assert run("demote_person", alice.email) == "alice@example.org is not staff any more."
    assert browser.get("/admin/people/").status_code == 403
    assert is_signed_in(browser)
    assert event("user.demoted").details == {"from": "staff", "to": "person"}
    assert run("demote_person", alice.email) == "alice@example.org was not staff."


def test_all_access_tokens_are_revoked(alice: User, bob: User) -> None:
    mine = [access_tokens.create(actor=Person(alice), user=alice, label=f"CI {n}") for n in range(2)]
    other = access_tokens.create(actor=Person(bob), user=bob, label="CI")
    listed = run("revoke_access_tokens", alice.email, "--dry-run")
    assert listed.splitlines()[-1] == "2 access tokens of alice@example.org would be revoked."
    assert mine[0].token.preview in listed
    assert user_of(mine[0].plaintext) == alice
    assert run("revoke_access_tokens", alice.email) == "2 access tokens of alice@example.org revoked."
    assert [user_of(created.plaintext) for created in mine] == [None, None]
    assert user_of(other.plaintext) == bob
    assert AuditEvent.objects.filter(action="access_token.revoked", account=alice).count() == 2
    assert json.loads(run("revoke_access_tokens", alice.email, "--json"))["access_tokens"] == 0


def test_erasing_needs_the_typed_address(alice: User) -> None:
    factories.make_endpoint(owner=alice)
    assert "would be deleted" in run("erase_person", alice.email, "--dry-run")
    for typed in ("", "bob@example.org\n", "yes\n"):
        with pytest.raises(CommandError, match="Nothing was deleted"):
            run("erase_person", alice.email, stdin=typed)
    assert Endpoint.objects.exists()
    shown = run("erase_person", alice.email, stdin="Alice@Example.org\n")
    assert "1 endpoints" in shown
    assert not User.objects.exists()
    assert not Endpoint.objects.exists()
    found = event("user.deleted")
    assert (found.details["endpoints"], found.subject_label) == (1, "alice@example.org")
    assert found.via.startswith("command erase_person, ")


def test_erasing_without_asking(alice: User) -> None:
    sign_in(alice)
    shown = json.loads(run("erase_person", alice.email, "--yes", "--json"))
    assert shown == {
        "email": "alice@example.org",
        "access_tokens": 0,
        "browser_sessions": 1,
        "endpoints": 0,
        "webhooks": 0,
        "dry_run": False,
    }
    assert not User.objects.exists()


@pytest.mark.parametrize(
    "command", ["suspend_person", "resume_person", "erase_person", "demote_person", "revoke_access_tokens"]
)
def test_unknown_person_is_exit_code_1(command: str) -> None:
    for email in ("nobody@example.org", '"\x1b[31m"@example.org'):
        with pytest.raises(CommandError) as caught:
            run(command, email)
        assert caught.value.returncode == 1
        assert "\x1b" not in str(caught.value)


# --- What an event says of who acted -------------------------------------------------------------------------------


def test_events_name_the_session_that_acted(alice: User, settings: Settings) -> None:
    browser = sign_in(alice)
    session = BrowserSession.objects.get()
    acting = {"acting_id": session.pk, "acting_label": "Firefox on Linux"}
    assert event("signin.succeeded").details == {"browser": "Firefox on Linux", **acting}
    name = f"session {session.pk.removeprefix('ses_')[:6]}"
    assert event("signin.succeeded").via == name
    endpoint = factories.make_endpoint(owner=alice).endpoint
    browser.post(f"/endpoints/{endpoint.subdomain}/name/", {"label": "New name"})
    renamed = event("endpoint.renamed")
    assert (renamed.via, renamed.ip) == (name, "127.0.0.1")
    assert renamed.details == {"from": endpoint.label, "to": "New name", **acting}
    page = browser.get("/audit/").content.decode()
    assert f"from {endpoint.label} → New name · via {name}, id {session.pk}" in page
    assert f'""acting_id"": ""{session.pk}""' in b"".join(browser.get("/audit.csv")).decode()
    browser.post("/signout/")
    assert event("session.signed_out").via == name


def test_events_name_the_access_token_that_acted(alice: User) -> None:
    created = access_tokens.create(actor=Person(alice), user=alice, label="CI " + "x" * 90)
    endpoint = factories.make_endpoint(owner=alice).endpoint
    client = Client(headers={"Authorization": f"Bearer {created.plaintext}"})
    body = {"expires_in": 3600, "requests_per_minute": 5, "allowed_networks": ["192.0.2.0/24"]}
    path = f"/api/v1/endpoints/{endpoint.subdomain}/tokens"
    assert client.post(path, json.dumps(body), content_type="application/json").status_code == 201
    issued = event("token.issued")
    assert issued.via.startswith(f"access token {created.token.preview} (CI xx")
    assert len(issued.via) == 80
    assert (issued.details["acting_id"], issued.details["acting_label"]) == (created.token.pk, created.token.label)
    assert issued.details["requests_per_minute"] == 5
    assert issued.details["allowed_networks"] == ["192.0.2.0/24"]
    assert datetime.fromisoformat(issued.details["expires_at"]) > timezone.now() + timedelta(minutes=50)


# --- Commands that meet a suspended or a new person ------------------------------------------------------------------


def test_server_starts_although_its_first_person_is_suspended(alice: User) -> None:
    users.suspend(actor=ANN, user=alice)
    out = StringIO()
    command = serve.Command(stdout=out)
    command._print_address("me@localhost.localdomain")
    assert "/signin/link/" in out.getvalue()
    users.suspend(actor=ANN, user=User.objects.get(email="me@localhost.localdomain"))
    command._print_address("me@localhost.localdomain")
    assert "There is no sign-in link: me@localhost.localdomain is suspended." in out.getvalue()


def test_connecting_for_a_new_person_is_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_check, "check_key", lambda **_: None)
    options = ["--provider", "custom", "--destination", "https://api.example.com", "--key-stdin", "--json"]
    made = json.loads(run("connect", "--email", "New@example.org", *options, stdin="sk-x\n"))
    assert made["token"].startswith("strk_")
    assert event("user.created").subject_label == "new@example.org"
    connected = event("endpoint.connected")
    assert connected.via.startswith("command connect, ")
    assert connected.details == {
        "provider": "custom",
        "destination": "https://api.example.com",
        "header": "Authorization",
    }


def test_connecting_with_further_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_check, "check_key", lambda **_: None)
    options = ["--provider", "custom", "--destination", "https://api.example.com", "--key-stdin", "--json"]
    places = ["--place", "?api_key={{secret}}", "--place", "X-Organization: acme"]
    run("connect", "--email", "new@example.org", *options, *places, stdin="sk-x\n")
    stored = Credential.objects.get()
    assert stored.header_name == ""
    assert stored.places == [["query", "api_key", "{{secret}}"], ["header", "X-Organization", "acme"]]
    with pytest.raises(CommandError, match="Write each line as"):
        run("connect", "--email", "new@example.org", *options, "--place", "X-Organization", stdin="sk-x\n")
