"""A service writes its change and its audit event together, or neither of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from accounts import audit
from accounts.actors import Person
from accounts.models import AuditEvent, User
from credentials import services
from credentials.models import BearerToken, Credential, Endpoint, SealedKey
from credentials.services import endpoints
from tests.support import factories
from tests.support.factories import Connected


class Failure(Exception):
    """A fault that a test injects."""


def fail(*args: object, **kwargs: object) -> None:
    raise Failure


def rows() -> list[object]:
    """Everything that a service may change."""
    return [
        list(model.objects.order_by("pk").values())
        for model in (Endpoint, Credential, SealedKey, BearerToken, AuditEvent)
    ]


@pytest.fixture
def made(alice: User) -> Connected:
    return factories.make_endpoint(owner=alice)


def test_failed_deletion_keeps_endpoint_and_writes_no_event(
    made: Connected, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows()
    monkeypatch.setattr(endpoints, "secure_delete_on_commit", fail)
    with pytest.raises(Failure):
        services.delete_endpoint(
            actor=Person(alice), subdomain=made.endpoint.subdomain, confirmation=made.endpoint.subdomain
        )
    assert rows() == before


CHANGES: dict[str, Callable[[Person, Connected], object]] = {
    "connect": lambda actor, made: services.connect(
        actor=actor,
        owner=actor.user,
        provider="custom",
        api_key="sk-new",
        destination_url="https://api.example.com",
        unchecked=True,
    ),
    "replace_key": lambda actor, made: services.replace_key(
        actor=actor, subdomain=made.endpoint.subdomain, api_key="sk-new", unchecked=True
    ),
    "change_destination": lambda actor, made: services.change_destination(
        actor=actor,
        subdomain=made.endpoint.subdomain,
        api_key="sk-new",
        destination_url="https://other.example.com",
        unchecked=True,
    ),
    "rename": lambda actor, made: services.rename(actor=actor, subdomain=made.endpoint.subdomain, label="new"),
    "pause": lambda actor, made: services.pause(actor=actor, subdomain=made.endpoint.subdomain),
    "limit_endpoint": lambda actor, made: services.limit_endpoint(
        actor=actor, subdomain=made.endpoint.subdomain, max_streams=5
    ),
    "delete_endpoint": lambda actor, made: services.delete_endpoint(
        actor=actor, subdomain=made.endpoint.subdomain, confirmation=made.endpoint.subdomain
    ),
    "issue_token": lambda actor, made: services.issue_token(actor=actor, subdomain=made.endpoint.subdomain),
    "rotate_token": lambda actor, made: services.rotate_token(actor=actor, token_id=made.token.pk),
    "revoke_token": lambda actor, made: services.revoke_token(actor=actor, token_id=made.token.pk),
    "revoke_tokens": lambda actor, made: services.revoke_tokens(
        actor=actor, subdomain=made.endpoint.subdomain, token_ids=[made.token.pk]
    ),
    "revoke_all_tokens": lambda actor, made: services.revoke_all_tokens(actor=actor, subdomain=made.endpoint.subdomain),
    "update_token": lambda actor, made: services.update_token(actor=actor, token_id=made.token.pk, label="new"),
    "duplicate_token": lambda actor, made: services.duplicate_token(actor=actor, token_id=made.token.pk),
}


@pytest.mark.parametrize("name", CHANGES)
def test_change_without_its_event_is_rolled_back(
    name: str, made: Connected, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows()
    monkeypatch.setattr(audit, "record", fail)
    with pytest.raises(Failure):
        CHANGES[name](Person(alice), made)
    assert rows() == before
