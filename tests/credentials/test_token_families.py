"""Editing, duplicating and revoking tokens, and tokens with a parent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts.actors import Person
from accounts.errors import NotFound
from accounts.models import AuditEvent, User
from credentials import services
from credentials.errors import InvalidLimit
from credentials.models import BearerToken
from credentials.services import Issued
from tests.support import factories
from tests.support.factories import Connected

SOON, LATER = (timezone.now() + timedelta(days=days) for days in (1, 2))


@pytest.fixture
def made(alice: User) -> Connected:
    return factories.make_endpoint(owner=alice)


@pytest.fixture
def alices(alice: User) -> Person:
    return Person(alice)


def issue(actor: Person, made: Connected, **values: Any) -> Issued:
    return services.issue_token(actor=actor, subdomain=made.endpoint.subdomain, **values)


def live(made: Connected) -> set[str]:
    return set(BearerToken.objects.live().filter(endpoint=made.endpoint).values_list("pk", flat=True))


def events(action: str) -> list[tuple[str, dict[str, Any]]]:
    return list(AuditEvent.objects.filter(action=action).order_by("pk").values_list("subject_id", "details"))


# --- Editing -------------------------------------------------------------------------------------------------------


def test_only_what_is_named_changes_and_is_audited(made: Connected, alices: Person) -> None:
    token = issue(alices, made, label="CI", requests_per_minute=7, allowed_paths=["GET /v1/**"]).token
    before: dict[str, Any] = {**BearerToken.objects.filter(pk=token.pk).values().get()}
    changed = services.update_token(
        actor=alices, token_id=token.pk, label="Laptop", requests_per_minute=None, requests_per_day=1000
    )
    assert (changed.label, changed.requests_per_minute, changed.requests_per_day) == ("Laptop", None, 1000)
    after: dict[str, Any] = {**BearerToken.objects.filter(pk=token.pk).values().get()}
    assert {name for name in after if after[name] != before[name]} == {
        "label",
        "requests_per_minute",
        "requests_per_day",
    }
    assert events("token.changed") == [
        (
            token.pk,
            {
                "label_from": "CI",
                "label_to": "Laptop",
                "requests_per_minute_from": 7,
                "requests_per_minute_to": None,
                "requests_per_day_from": None,
                "requests_per_day_to": 1000,
            },
        )
    ]


def test_change_to_the_same_is_no_change(made: Connected, alices: Person) -> None:
    token = issue(alices, made, label="CI", allowed_paths=["GET /v1/**"]).token
    services.update_token(actor=alices, token_id=token.pk, label="CI", allowed_paths=["get /v1/**"])
    assert not events("token.changed")


@pytest.mark.parametrize("ended", ["revoked_at", "expires_at"])
def test_token_that_has_ended_stays_as_it_is(made: Connected, alices: Person, ended: str) -> None:
    past = timezone.now() - timedelta(seconds=1)
    when: dict[str, Any] = {"created_at": past - timedelta(days=1), ended: past}
    token, _ = factories.make_token(endpoint=made.endpoint, **when)
    for change in (services.update_token, services.rotate_token, services.duplicate_token):
        with pytest.raises(NotFound):
            change(actor=alices, token_id=token.pk)
    with pytest.raises(NotFound):
        issue(alices, made, parent_id=token.pk)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("requests_per_day", 0),
        ("requests_per_month", 1_000_000_001),
        ("concurrent_requests", 0),
        ("expires_at", datetime(2020, 1, 1, tzinfo=UTC)),
    ],
)
def test_wrong_limit_is_refused_by_its_name(made: Connected, alices: Person, field: str, value: Any) -> None:
    for call in (lambda: issue(alices, made, **{field: value}), lambda: update(alices, made, **{field: value})):
        with pytest.raises(InvalidLimit) as error:
            call()
        assert error.value.field == field


def update(actor: Person, made: Connected, **limits: Any) -> BearerToken:
    return services.update_token(actor=actor, token_id=made.token.pk, **limits)


def test_stranger_can_edit_duplicate_and_revoke_nothing(made: Connected, alices: Person, bob: User) -> None:
    charlie, subdomain = Person(bob), made.endpoint.subdomain
    for call in (services.update_token, services.duplicate_token, services.revoke_token):
        with pytest.raises(NotFound):
            call(actor=charlie, token_id=made.token.pk)
    with pytest.raises(NotFound):
        services.revoke_all_tokens(actor=charlie, subdomain=subdomain)
    own = factories.make_endpoint(owner=bob)
    with pytest.raises(NotFound):
        services.revoke_tokens(actor=charlie, subdomain=own.endpoint.subdomain, token_ids=[own.token.pk, made.token.pk])
    with pytest.raises(NotFound):
        issue(charlie, own, parent_id=made.token.pk)
    assert live(made) == {made.token.pk}
    assert live(own) == {own.token.pk}


def test_duplicate_has_the_same_limits_and_another_secret(made: Connected, alices: Person) -> None:
    parent = issue(alices, made, expires_at=LATER).token
    token = issue(alices, made, label="CI", parent_id=parent.pk, expires_at=SOON, requests_per_month=5).token
    copy = services.duplicate_token(actor=alices, token_id=token.pk)
    same = ("label", "parent_id", "expires_at", "requests_per_month", "allowed_paths")
    assert [getattr(copy.token, name) for name in same] == [getattr(token, name) for name in same]
    assert bytes(copy.token.digest) != bytes(token.digest)


# --- Families ------------------------------------------------------------------------------------------------------


def test_child_expires_with_its_parent_at_the_latest(made: Connected, alices: Person) -> None:
    parent = issue(alices, made, expires_at=SOON).token
    assert issue(alices, made, parent_id=parent.pk).token.expires_at == SOON
    with pytest.raises(InvalidLimit):
        issue(alices, made, parent_id=parent.pk, expires_at=LATER)
    child = issue(alices, made, parent_id=parent.pk, expires_at=SOON - timedelta(hours=1)).token
    with pytest.raises(InvalidLimit):
        services.update_token(actor=alices, token_id=child.pk, expires_at=LATER)
    assert services.update_token(actor=alices, token_id=child.pk, expires_at=None).expires_at == SOON


def test_earlier_expiry_of_a_parent_is_one_for_its_children(made: Connected, alices: Person) -> None:
    parent = issue(alices, made).token
    never = issue(alices, made, parent_id=parent.pk).token
    earlier = issue(alices, made, parent_id=parent.pk, expires_at=SOON - timedelta(hours=1)).token
    services.update_token(actor=alices, token_id=parent.pk, expires_at=SOON)
    never.refresh_from_db()
    earlier.refresh_from_db()
    assert (never.expires_at, earlier.expires_at) == (SOON, SOON - timedelta(hours=1))


def test_child_has_no_children(made: Connected, alices: Person) -> None:
    child = issue(alices, made, parent_id=made.token.pk).token
    with pytest.raises(InvalidLimit) as error:
        issue(alices, made, parent_id=child.pk)
    assert error.value.field == "parent_id"


@pytest.mark.parametrize("end", [services.revoke_token, services.rotate_token])
def test_children_end_with_their_parent(made: Connected, alices: Person, end: Any) -> None:
    child = issue(alices, made, parent_id=made.token.pk).token
    other = issue(alices, made).token
    end(actor=alices, token_id=made.token.pk)
    assert child.pk not in live(made)
    assert other.pk in live(made)
    assert (child.pk, {"preview": child.preview, "parent_id": made.token.pk}) in events("token.revoked")


def test_parent_outlives_its_child(made: Connected, alices: Person) -> None:
    child = issue(alices, made, parent_id=made.token.pk).token
    services.revoke_token(actor=alices, token_id=child.pk)
    assert live(made) == {made.token.pk}


# --- Many at once --------------------------------------------------------------------------------------------------


def test_chosen_tokens_end_and_others_stay(made: Connected, alices: Person) -> None:
    one, other = issue(alices, made).token, issue(alices, made).token
    chosen = [other.pk, made.token.pk, other.pk]
    ended = services.revoke_tokens(actor=alices, subdomain=made.endpoint.subdomain, token_ids=chosen)
    assert {token.pk for token in ended} == set(chosen)
    assert live(made) == {one.pk}
    assert services.revoke_tokens(actor=alices, subdomain=made.endpoint.subdomain, token_ids=chosen) == []
    assert len(events("token.revoked")) == 2


def test_every_token_of_an_endpoint_ends(made: Connected, alices: Person, alice: User) -> None:
    neighbour = factories.make_endpoint(owner=alice)
    child = issue(alices, made, parent_id=made.token.pk).token
    ended = services.revoke_all_tokens(actor=alices, subdomain=made.endpoint.subdomain)
    assert {token.pk for token in ended} == {made.token.pk}
    assert not live(made)
    assert live(neighbour)
    assert {subject for subject, _ in events("token.revoked")} == {made.token.pk, child.pk}
