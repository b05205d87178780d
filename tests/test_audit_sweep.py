"""Whatever changes something writes who did it, in the same transaction: every verb of the code, every route."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from accounts import access_tokens, audit, links, sessions, users
from accounts.audit import Actor
from accounts.models import AccessToken, AuditEvent, BrowserSession, SignInLink, User
from credentials import key_check, services
from credentials.errors import KeyRefused
from credentials.models import BearerToken, Credential, Endpoint
from tests import factories
from tests.factories import Connected
from tests.test_urls_sweep import ROUTES, Route, address

pytestmark = pytest.mark.django_db

WATCHED: tuple[type[Model], ...] = (
    User,
    SignInLink,
    AccessToken,
    BrowserSession,
    Endpoint,
    Credential,
    BearerToken,
)
# Not deeds of anybody: when something was used last.
_NOTES = {"last_seen_at", "last_used_at"}


def everything() -> dict[str, list[dict[str, Any]]]:
    return {
        model.__name__: [
            {name: value for name, value in row.items() if name not in _NOTES}
            for row in model._default_manager.order_by("pk").values()
        ]
        for model in WATCHED
    }


@dataclass
class World:
    """A person with one of everything."""

    user: User
    connected: Connected
    paused: Connected
    access_token: AccessToken
    session: BrowserSession
    link: str

    @property
    def subdomain(self) -> str:
        return self.connected.endpoint.subdomain


@pytest.fixture
def world(alice: User, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(key_check, "check_key", lambda **_: None)
    Client().force_login(alice)
    paused = factories.make_endpoint(owner=alice)
    Endpoint.objects.update(paused_at=timezone.now())
    return World(
        alice,
        factories.make_endpoint(owner=alice),
        paused,
        access_tokens.create_access_token(actor=Actor(alice), user=alice, label="old").token,
        BrowserSession.objects.get(),
        links.operator_link(email=alice.email).split("/")[-2],
    )


# --- Every verb ----------------------------------------------------------------------------------------------------

Verb = Callable[[World, Actor], object]
KEY = {"api_key": "sk-other", "unchecked": True}
VERBS: dict[str, tuple[Verb, list[str]]] = {
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
    "services.revoke_token": (
        lambda w, a: services.revoke_token(actor=a, token_id=w.connected.token.pk),
        ["token.revoked"],
    ),
    "access_tokens.create_access_token": (
        lambda w, a: access_tokens.create_access_token(actor=a, user=w.user, label="new"),
        ["access_token.created"],
    ),
    "access_tokens.revoke_access_token": (
        lambda w, a: access_tokens.revoke_access_token(actor=a, token_id=w.access_token.pk),
        ["access_token.revoked"],
    ),
    "sessions.end_session": (
        lambda w, a: sessions.end_session(actor=a, session_id=w.session.pk),
        ["session.ended"],
    ),
    "sessions.end_other_sessions": (
        lambda w, a: sessions.end_other_sessions(actor=a, keep=None),
        ["session.others_ended"],
    ),
    "sessions.revoke_sessions": (
        lambda w, a: sessions.revoke_sessions(actor=a, user=w.user),
        ["session.all_revoked"],
    ),
    "users.delete_account": (
        lambda w, a: users.delete_account(actor=a, confirmation=w.user.email),
        ["user.deleted", "session.all_revoked"],
    ),
    "links.redeem_link": (
        lambda w, a: links.redeem_link(token=w.link, ip=a.ip, start_session=lambda user: None),
        ["signin.succeeded"],
    ),
    "links.operator_link": (
        lambda w, a: links.operator_link(email="new@example.org", staff=True),
        ["user.created", "user.made_staff", "signin.link_made"],
    ),
}
OF_OPERATORS = {"links.operator_link"}


def test_no_verb_is_missing() -> None:
    """Whatever takes an actor acts, but for what only looks."""
    verbs = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in (services, access_tokens, sessions, users)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and name[0] != "_"
        and "actor" in inspect.signature(function).parameters
    }
    looks = {"services.get_endpoint", "services.endpoints_for", "access_tokens.access_tokens_for"}
    assert verbs - looks == set(VERBS) - {"links.redeem_link", "links.operator_link"}


@pytest.mark.parametrize("name", VERBS)
def test_verb_tells_who_did_what_from_where(name: str, world: World) -> None:
    verb, actions = VERBS[name]
    last = AuditEvent.objects.latest("pk").pk
    user_id = world.user.pk
    verb(world, Actor(world.user, "192.0.2.7"))
    events = list(AuditEvent.objects.filter(pk__gt=last).order_by("pk"))
    assert [event.action for event in events] == actions
    for event in events:
        assert event.subject_type
        assert event.subject_id
        if name not in OF_OPERATORS:
            assert (event.actor_id, event.account_id, event.ip) == (user_id, user_id, "192.0.2.7")


@pytest.mark.parametrize("name", VERBS)
def test_verb_whose_event_cannot_be_written_changes_nothing(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything()

    def fail(*_: object, **__: object) -> None:
        raise DatabaseError

    monkeypatch.setattr(audit, "record", fail)
    with pytest.raises(DatabaseError):
        VERBS[name][0](world, Actor(world.user))
    assert everything() == before


@pytest.mark.parametrize("name", VERBS)
def test_verb_that_is_rolled_back_leaves_no_event(name: str, world: World) -> None:
    events, before = AuditEvent.objects.count(), everything()
    with transaction.atomic():
        VERBS[name][0](world, Actor(world.user))
        assert AuditEvent.objects.count() > events
        transaction.set_rollback(True)
    assert AuditEvent.objects.count() == events
    assert everything() == before


def test_refused_key_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise KeyRefused("no")

    monkeypatch.setattr(key_check, "check_key", refuse)
    before = everything()
    for name in ("services.connect", "services.replace_key", "services.change_destination"):
        with pytest.raises(KeyRefused):
            VERBS[name][0](world, Actor(world.user, "192.0.2.7"))
    events = AuditEvent.objects.filter(action="key.refused", actor=world.user, account=world.user, ip="192.0.2.7")
    assert list(events.order_by("pk").values_list("subject_type", flat=True)) == ["provider", "endpoint", "endpoint"]
    assert everything() == before


# --- Every route ---------------------------------------------------------------------------------------------------

# Routes that change something if they are sent what they want. The others change nothing, whatever they are sent.
CHANGING = {
    "accounts:confirm",
    "accounts:sign_out",
    "accounts:end_session",
    "accounts:end_other_sessions",
    "accounts:delete_account",
    "accounts:new_access_token",
    "accounts:revoke_access_token",
    "credentials:connect_provider",
    "credentials:rename",
    "credentials:limits",
    "credentials:pause",
    "credentials:resume",
    "credentials:delete",
    "credentials:replace_key",
    "credentials:change_destination",
    "credentials:issue_token",
    "credentials:rotate_token",
    "credentials:revoke_token",
    "admin:logout",
}
CHANGING_CALLS = {"connect", "delete_endpoint", "issue_token", "rotate_token", "revoke_token", "replace_key"}


def path_of(route: Route, world: World) -> str:
    path = address(route, world.connected)
    if "session_id" in route.parameters:
        path = path.replace("/1/", f"/{world.session.pk}/")
    if route.name == "accounts:revoke_access_token":
        path = path.replace(world.connected.token.pk, world.access_token.pk)
    return path


@pytest.mark.parametrize(
    "name", [name for name in ROUTES if name not in {"admin:None", "admin:app_list", "admin:view_on_site"}]
)
def test_route_that_changes_something_tells_it(name: str, world: World) -> None:
    """One form that suits every page: what it brings about stands in the trail, and looking brings about nothing."""
    if name == "credentials:resume":
        services.pause(actor=Actor(world.user), subdomain=world.subdomain)
    world.user.is_staff = name.startswith("admin:")
    world.user.save()
    browser = Client(raise_request_exception=False)
    browser.force_login(world.user)
    path = path_of(ROUTES[name], world)
    for method in ("GET", "HEAD", "OPTIONS"):
        before, events = everything(), AuditEvent.objects.count()
        browser.generic(method, path)
        assert everything() == before, method
        assert AuditEvent.objects.count() == events, method
    form = {
        "label": "new",
        "confirmation": world.user.email if name.startswith("accounts:") else world.subdomain,
        "destination_url": "https://other.example.com",
        "token": world.link,
        "email": "alice@example.org",
        "days": "30",
        "max_streams": "5",
        **KEY,
    }
    told = AuditEvent.objects.count()
    browser.post(path, form)
    changed = everything() != before
    assert changed == (name in CHANGING)
    assert (AuditEvent.objects.count() > told) == changed


def api_calls() -> list[tuple[str, str, str]]:
    from tests.credentials.test_api import api

    return [
        (method.upper(), path, str(operation["operationId"]).rpartition("_api_")[2])
        for path, methods in api.get_openapi_schema(path_prefix="/api/v1")["paths"].items()
        for method, operation in methods.items()
    ]


@pytest.mark.parametrize(("method", "path", "name"), api_calls())
def test_call_that_changes_something_tells_it(method: str, path: str, name: str, world: World) -> None:
    bearer = access_tokens.create_access_token(actor=Actor(world.user), user=world.user, label="script").plaintext
    body = {
        "connect": {"provider": "custom", "destination_url": "https://api.example.com", **KEY},
        "replace_key": KEY,
    }.get(name, {})
    before, events = everything(), AuditEvent.objects.count()
    response = Client(headers={"Authorization": f"Bearer {bearer}"}).generic(
        method,
        path.format(subdomain=world.subdomain, token_id=world.connected.token.pk),
        json.dumps(body),
        content_type="application/json",
    )
    assert response.status_code < 300, response.content
    changed = everything() != before
    assert changed == (name in CHANGING_CALLS)
    assert (AuditEvent.objects.count() > events) == changed
