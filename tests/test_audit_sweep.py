"""Every service and every route that changes something writes an audit event in the same transaction."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import DatabaseError
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from accounts import access_tokens, audit, device_grants, users
from accounts.actors import OPERATOR, Person
from accounts.models import (
    AccessToken,
    AuditEvent,
    BrowserSession,
    DeviceGrant,
    NoticeChoices,
    SignInLink,
    User,
    Webhook,
)
from accounts.notices import choices
from accounts.sessions import service as sessions
from accounts.sign_in import magic_links
from credentials import key_check, services
from credentials.errors import KeyRefused
from credentials.models import BearerToken, Credential, Endpoint, SealedKey
from credentials.webhooks import service as webhooks
from proxy import audit_checkpoints
from strake.urls import api
from tests.support import factories
from tests.support.factories import Connected
from tests.support.pages import FROM_LOOPBACK
from tests.support.rolled_back import rolled_back
from tests.test_urls_sweep import ROUTES, Route, url_of

pytestmark = pytest.mark.django_db

WATCHED: tuple[type[Model], ...] = (
    User,
    SignInLink,
    AccessToken,
    BrowserSession,
    Endpoint,
    Credential,
    SealedKey,
    BearerToken,
    NoticeChoices,
    Webhook,
    DeviceGrant,
)
# Times of use, which are not audited.
_UNAUDITED = {"last_seen_at", "last_used_at"}


def everything() -> dict[str, list[dict[str, Any]]]:
    return {
        model.__name__: [
            {name: value for name, value in row.items() if name not in _UNAUDITED}
            for row in model._default_manager.order_by("pk").values()
        ]
        for model in WATCHED
    }


@dataclass
class World:
    """A person who owns one of everything."""

    user: User
    connected: Connected
    paused: Connected
    access_token: AccessToken
    session: BrowserSession
    link: str
    suspended: User
    staff: User
    user_code: str

    @property
    def subdomain(self) -> str:
        return self.connected.endpoint.subdomain


@pytest.fixture
def world(alice: User, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(key_check, "check_key", lambda **_: None)
    Client().force_login(alice)
    paused = factories.make_endpoint(owner=alice)
    Endpoint.objects.update(paused_at=timezone.now())
    Webhook.objects.create(person=alice, url="https://example.com/", disabled_at=timezone.now())
    return World(
        alice,
        factories.make_endpoint(owner=alice),
        paused,
        access_tokens.create(actor=Person(alice), user=alice, label="old").token,
        BrowserSession.objects.get(),
        magic_links.operator_link(email=alice.email).split("/")[-2],
        User.objects.create(email="suspended@example.org", suspended_at=timezone.now()),
        factories.make_user(is_staff=True),
        device_grants.request(client="strake-cli", device="laptop").user_code,
    )


# --- Every service --------------------------------------------------------------------------------------------------

Service = Callable[[World, Person], object]
NEW_KEY = "sk-other-0123456789abcdef"
KEY: dict[str, Any] = {"api_key": NEW_KEY, "unchecked": True}
SERVICES: dict[str, tuple[Service, list[str]]] = {
    "services.connect": (
        lambda w, a: services.connect(
            actor=a, owner=w.user, provider="custom", destination_url="https://api.example.com", **KEY
        ),
        ["endpoint.connected", "token.issued"],
    ),
    "services.replace_key": (
        lambda w, a: services.replace_key(actor=a, subdomain=w.subdomain, **KEY),
        ["key.replaced"],
    ),
    "services.change_destination": (
        lambda w, a: services.change_destination(
            actor=a, subdomain=w.subdomain, destination_url="https://other.example.com", **KEY
        ),
        ["destination.changed"],
    ),
    "services.rename": (
        lambda w, a: services.rename(actor=a, subdomain=w.subdomain, label="new"),
        ["endpoint.renamed"],
    ),
    "services.pause": (lambda w, a: services.pause(actor=a, subdomain=w.subdomain), ["endpoint.paused"]),
    "services.resume": (
        lambda w, a: services.resume(actor=a, subdomain=w.paused.endpoint.subdomain),
        ["endpoint.resumed"],
    ),
    "services.limit_endpoint": (
        lambda w, a: services.limit_endpoint(actor=a, subdomain=w.subdomain, max_streams=5),
        ["endpoint.limited"],
    ),
    "services.delete_endpoint": (
        lambda w, a: services.delete_endpoint(actor=a, subdomain=w.subdomain, confirmation=w.subdomain),
        ["endpoint.deleted"],
    ),
    "services.issue_token": (lambda w, a: services.issue_token(actor=a, subdomain=w.subdomain), ["token.issued"]),
    "services.rotate_token": (
        lambda w, a: services.rotate_token(actor=a, token_id=w.connected.token.pk),
        ["token.rotated"],
    ),
    "services.update_token": (
        lambda w, a: services.update_token(actor=a, token_id=w.connected.token.pk, label="new"),
        ["token.changed"],
    ),
    "services.duplicate_token": (
        lambda w, a: services.duplicate_token(actor=a, token_id=w.connected.token.pk),
        ["token.issued"],
    ),
    "services.revoke_tokens": (
        lambda w, a: services.revoke_tokens(actor=a, subdomain=w.subdomain, token_ids=[w.connected.token.pk]),
        ["token.revoked"],
    ),
    "services.revoke_all_tokens": (
        lambda w, a: services.revoke_all_tokens(actor=a, subdomain=w.subdomain),
        ["token.revoked"],
    ),
    "services.revoke_token": (
        lambda w, a: services.revoke_token(actor=a, token_id=w.connected.token.pk),
        ["token.revoked"],
    ),
    "access_tokens.create": (
        lambda w, a: access_tokens.create(actor=a, user=w.user, label="new"),
        ["access_token.created"],
    ),
    "access_tokens.revoke_access_token": (
        lambda w, a: access_tokens.revoke_access_token(actor=a, token_id=w.access_token.pk),
        ["access_token.revoked"],
    ),
    "device_grants.allow": (
        lambda w, a: device_grants.allow(actor=a, user=w.user, user_code=w.user_code),
        ["device_grant.allowed"],
    ),
    "device_grants.deny": (
        lambda w, a: device_grants.deny(actor=a, user=w.user, user_code=w.user_code),
        ["device_grant.denied"],
    ),
    "service.end_session": (
        lambda w, a: sessions.end_session(actor=a, session_id=w.session.pk),
        ["session.ended"],
    ),
    "service.end_other_sessions": (
        lambda w, a: sessions.end_other_sessions(actor=a, keep=None),
        ["session.others_ended"],
    ),
    "service.revoke_sessions": (
        lambda w, a: sessions.revoke_sessions(actor=a, user=w.user),
        ["session.all_revoked"],
    ),
    "access_tokens.revoke_access_tokens": (
        lambda w, a: access_tokens.revoke_access_tokens(actor=OPERATOR, user=w.user),
        ["access_token.revoked"],
    ),
    "users.suspend": (
        lambda w, a: users.suspend(actor=OPERATOR, user=w.user),
        ["user.suspended", "session.all_revoked"],
    ),
    "users.resume": (lambda w, a: users.resume(actor=OPERATOR, user=w.suspended), ["user.resumed"]),
    "users.demote": (lambda w, a: users.demote(actor=OPERATOR, user=w.staff), ["user.demoted"]),
    "users.erase": (
        lambda w, a: users.erase(actor=OPERATOR, user=w.user),
        ["user.deleted", "session.all_revoked"],
    ),
    "users.delete_account": (
        lambda w, a: users.delete_account(actor=a, confirmation=w.user.email),
        ["user.deleted", "session.all_revoked"],
    ),
    "choices.choose": (lambda w, a: choices.choose(actor=a, mail=[], webhook=[]), ["notices.chosen"]),
    "service.set_webhook": (
        lambda w, a: webhooks.set_webhook(actor=a, url="https://other.example.com/hooks"),
        ["webhook.removed", "webhook.set"],
    ),
    "service.rotate_webhook_secret": (lambda w, a: webhooks.rotate_webhook_secret(actor=a), ["webhook.rotated"]),
    "service.resume_webhook": (lambda w, a: webhooks.resume_webhook(actor=a), ["webhook.resumed"]),
    "service.remove_webhook": (lambda w, a: webhooks.remove_webhook(actor=a), ["webhook.removed"]),
    "magic_links.redeem_link": (
        lambda w, a: magic_links.redeem_link(token=w.link, ip=a.ip, start_session=lambda user: None),
        ["signin.succeeded"],
    ),
    "magic_links.operator_link": (
        lambda w, a: magic_links.operator_link(email="new@example.org", staff=True),
        ["user.created", "user.made_staff", "signin.link_made"],
    ),
}
BY_OPERATORS = {
    "magic_links.operator_link",
    "access_tokens.revoke_access_tokens",
    "users.suspend",
    "users.resume",
    "users.demote",
    "users.erase",
}
# What an event must say beside who, what and where. The others have nothing to add.
DETAILS = {
    "endpoint.connected": {"provider", "destination", "header"},
    "endpoint.renamed": {"from", "to"},
    "endpoint.resumed": {"paused_at"},
    "endpoint.limited": {"from", "to"},
    "endpoint.deleted": {"provider", "tokens"},
    "destination.changed": {"from", "to"},
    "token.changed": {"label_from", "label_to"},
    "token.rotated": {"from", "to"},
    "token.revoked": {"preview"},
    "access_token.created": {"expires_at"},
    "access_token.revoked": {"last_used_at"},
    "device_grant.allowed": {"scopes", "address"},
    "device_grant.denied": {"scopes", "address"},
    "session.ended": {"session", "browser", "address"},
    "session.others_ended": {"sessions"},
    "session.all_revoked": {"sessions"},
    "signin.succeeded": {"browser"},
    "signin.link_made": {"expires_at"},
    "user.suspended": {"from", "to"},
    "user.resumed": {"from", "to", "suspended_at"},
    "user.made_staff": {"from", "to"},
    "user.demoted": {"from", "to"},
    "user.deleted": {"endpoints", "browser_sessions", "access_tokens"},
}


def test_every_service_is_listed() -> None:
    """Functions with an actor change something, except those that read, send, or act for a visitor."""
    services_with_actor = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in (services, access_tokens, device_grants, sessions, users, choices, webhooks)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__.startswith(module.__name__)
        and name[0] != "_"
        and "actor" in inspect.signature(function).parameters
    }
    others = {"services.get_endpoint", "device_grants.find", "choices.unsubscribe", "service.send_test_notice"}
    assert services_with_actor - others == set(SERVICES) - {"magic_links.redeem_link", "magic_links.operator_link"}


@pytest.mark.parametrize("name", SERVICES)
def test_service_audits_actor_action_and_address(name: str, world: World) -> None:
    service, actions = SERVICES[name]
    last = AuditEvent.objects.latest("pk").pk
    user_id = world.user.pk
    service(world, Person(world.user, "192.0.2.7", "session abc123"))
    events = list(AuditEvent.objects.filter(pk__gt=last).order_by("pk"))
    assert [event.action for event in events] == actions
    for event in events:
        assert event.subject_type
        assert event.subject_id
        if name not in BY_OPERATORS:
            assert (event.actor_id, event.account_id, event.ip) == (user_id, user_id, "192.0.2.7")
            assert event.via == ("" if name == "magic_links.redeem_link" else "session abc123")
        assert event.details.keys() >= DETAILS.get(event.action, set())


def test_limits_and_destinations_are_in_the_event(world: World) -> None:
    actor = Person(world.user)
    services.change_destination(
        actor=actor, subdomain=world.subdomain, destination_url="https://other.example.com", **KEY
    )
    changed = AuditEvent.objects.filter(action="destination.changed").latest("pk").details
    assert changed["to"] == "https://other.example.com"
    assert changed["from"] != changed["to"]
    services.issue_token(actor=actor, subdomain=world.subdomain, requests_per_minute=9, allowed_paths=["/v1/*"])
    issued = AuditEvent.objects.filter(action="token.issued").latest("pk").details
    assert issued == {"requests_per_minute": 9, "allowed_paths": ["* /v1/*"]}


@pytest.mark.parametrize("name", SERVICES)
def test_no_event_contains_a_secret(name: str, world: World) -> None:
    """Neither the pasted key nor any token, whole or with its checksum cut off."""
    result = SERVICES[name][0](world, Person(world.user, "192.0.2.7", "session abc123"))
    shown_once = {getattr(result, field, None) or "no plaintext" for field in ("plaintext", "secret")}
    secrets = {NEW_KEY, world.link, *shown_once}
    for event in AuditEvent.objects.values():
        shown = json.dumps(event, default=str)
        assert not [secret for secret in secrets if secret in shown or secret[:-6] in shown], event["action"]
        assert not re.search(r"(strk|pat|link)_[0-9A-Za-z]{5}", shown), event["action"]


@pytest.mark.parametrize("name", SERVICES)
def test_failing_audit_event_undoes_the_change(name: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything()

    def fail(*_: object, **__: object) -> None:
        raise DatabaseError

    monkeypatch.setattr(audit, "record", fail)
    with pytest.raises(DatabaseError):
        SERVICES[name][0](world, Person(world.user))
    assert everything() == before


@pytest.mark.parametrize("name", SERVICES)
def test_rolled_back_change_leaves_no_event(name: str, world: World) -> None:
    events, before = AuditEvent.objects.count(), everything()
    with rolled_back():
        SERVICES[name][0](world, Person(world.user))
        assert AuditEvent.objects.count() > events
    assert AuditEvent.objects.count() == events
    assert everything() == before


def test_refused_key_is_audited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise KeyRefused("no")

    monkeypatch.setattr(key_check, "check_key", refuse)
    before = everything()
    for name in ("services.connect", "services.replace_key", "services.change_destination"):
        with pytest.raises(KeyRefused):
            SERVICES[name][0](world, Person(world.user, "192.0.2.7"))
    events = AuditEvent.objects.filter(action="key.refused", actor=world.user, account=world.user, ip="192.0.2.7")
    assert list(events.order_by("pk").values_list("subject_type", flat=True)) == ["provider", "endpoint", "endpoint"]
    assert everything() == before


# --- Every route ---------------------------------------------------------------------------------------------------

# Routes that change something if the form is valid. The others change nothing, whatever they receive.
CHANGING = {
    "accounts:confirm",
    "accounts:sign_out",
    "accounts:end_session",
    "accounts:end_other_sessions",
    "accounts:delete_account",
    "accounts:new_access_token",
    "accounts:revoke_access_token",
    "accounts:device",
    "credentials:connect_provider",
    "credentials:rename",
    "credentials:limits",
    "credentials:pause",
    "credentials:resume",
    "credentials:delete",
    "credentials:replace_key",
    "credentials:change_destination",
    "credentials:issue_token",
    "credentials:edit_token",
    "credentials:change_over",
    "credentials:rotate_token",
    "credentials:revoke_token",
    "credentials:revoke_all",
    "credentials:choose_notices",
    "credentials:webhook",
    "credentials:rotate_webhook",
    "credentials:resume_webhook",
    "credentials:remove_webhook",
    "operators:suspend",
    "operators:resume",
    "operators:limits",
}
CHANGING_CALLS = {
    *("connect", "change_endpoint", "change_destination", "replace_key", "delete_endpoint"),
    *("issue_token", "change_token", "rotate_token", "revoke_token", "revoke_tokens", "duplicate_token"),
    *("revoke_held_token", "revoke_access_token", "revoke_current_access_token", "end_session", "end_sessions"),
    *("choose_notices", "set_webhook", "rotate_webhook_secret", "resume_webhook", "remove_webhook"),
}


def path_of(route: Route, world: World) -> str:
    path: str = url_of(route, world.connected)
    if "session_id" in route.parameters:
        path = path.replace("/1/", f"/{world.session.pk}/")
    if route.name == "accounts:revoke_access_token":
        path = path.replace(world.connected.token.pk, world.access_token.pk)
    return path


@pytest.mark.parametrize("name", ROUTES)
def test_changing_route_writes_an_event(name: str, world: World) -> None:
    """One form is valid for every page. A change by POST is audited, and other methods change nothing."""
    if name == "credentials:resume":
        services.pause(actor=Person(world.user), subdomain=world.subdomain)
    browser = Client(raise_request_exception=False)
    browser.force_login(world.staff if name.startswith("operators:") else world.user)
    if name == "operators:resume":
        users.suspend(actor=OPERATOR, user=world.user)
    path = path_of(ROUTES[name], world)
    before = everything()
    changes = AuditEvent.objects.exclude(action="audit.read")  # staff read other people's records
    for method in ("GET", "HEAD", "OPTIONS"):
        before, events = everything(), changes.count()
        browser.generic(method, path)
        assert everything() == before, method
        assert changes.count() == events, method
    form = {
        "label": "new",
        "confirmation": world.user.email if name.startswith("accounts:") else world.subdomain,
        "destination_url": "https://other.example.com",
        "token": world.link,
        "email": "alice@example.org",
        "days": "30",
        "scopes": "read",
        "max_streams": "5",
        "url": "https://other.example.com/hooks",
        "user_code": world.user_code,
        "decision": "allow",
        **KEY,
    }
    events = changes.count()
    browser.post(path, form)
    changed = everything() != before
    assert changed == (name in CHANGING)
    assert (changes.count() > events) == changed


@pytest.mark.parametrize(("name", "page"), [("people", "People"), ("person", "Person"), ("endpoints", "Endpoints")])
def test_staff_reading_records_is_audited(name: str, page: str, world: World) -> None:
    browser = Client(headers=FROM_LOOPBACK)
    browser.force_login(world.staff)
    path = path_of(ROUTES[f"operators:{name}"], world)
    for _ in range(2):
        browser.get(path, {"q": "alice"})
    [event] = AuditEvent.objects.filter(action="audit.read")
    assert (event.actor, event.account, event.ip) == (world.staff, world.staff, "127.0.0.1")
    assert event.via.startswith("session ")
    assert event.subject_label == page
    assert (event.subject_id == str(world.user.pk)) == (name == "person")
    assert event.details.get("q") == (None if name == "person" else "alice")


def api_calls() -> list[tuple[str, str, str]]:
    return [
        (method.upper(), path, str(operation["operationId"]).rpartition("_api_")[2])
        for path, methods in api.get_openapi_schema(path_prefix="/api/v1")["paths"].items()
        for method, operation in methods.items()
    ]


# Programs that are not signed in call these with forms. Nobody's audit log is concerned before a person has decided.
FOR_VISITORS = {"device_code", "device_token"}


@pytest.mark.parametrize(("method", "path", "name"), [call for call in api_calls() if call[2] not in FOR_VISITORS])
def test_changing_api_call_writes_an_event(method: str, path: str, name: str, world: World) -> None:
    made = access_tokens.create(actor=Person(world.user), user=world.user, label="script")
    audit_checkpoints.sign()  # which one call shows
    body = {
        "connect": {"provider": "custom", "destination_url": "https://api.example.com", **KEY},
        "replace_key": KEY,
        "change_destination": {"destination_url": "https://other.example.com", **KEY},
        "change_endpoint": {"label": "new", "paused": True, "max_streams": 5},
        "change_token": {"label": "new", "expires_in": 60},
        "test_connection": {"token": "strk_x"},
        "choose_notices": {"mail": [], "webhook": []},
        "set_webhook": {"url": "https://other.example.com/hooks"},
        "revoke_held_token": {"token": world.connected.plaintext},
    }.get(name, {})
    before, events = everything(), AuditEvent.objects.count()
    response = Client(headers={"Authorization": f"Bearer {made.plaintext}"}).generic(
        method,
        path.format(
            subdomain=world.subdomain,
            token_id=world.connected.token.pk,
            session_id=world.session.pk,
            access_token_id=world.access_token.pk,
        ),
        json.dumps(body),
        content_type="application/json",
    )
    assert response.status_code < 300, response.content
    changed = everything() != before
    assert changed == (name in CHANGING_CALLS)
    written = list(AuditEvent.objects.order_by("pk")[events:])
    assert bool(written) == changed
    if name != "revoke_held_token":  # whoever holds a token may end it
        acting = {"acting_id": made.token.pk, "acting_label": "script"}
        assert all(acting.items() <= event.details.items() for event in written)
