"""Access tokens: creating, using and revoking them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from accounts import access_tokens
from accounts.actors import OPERATOR, Person
from accounts.errors import (
    InvalidExpiry,
    InvalidLabel,
    InvalidNetwork,
    InvalidScope,
    NetworkNotAllowed,
    NotFound,
    ScopeMissing,
)
from accounts.models import AccessToken, AuditEvent, User
from tests.accounts.signing_in import user_of

pytestmark = pytest.mark.django_db


def create(user: User, **fields: Any) -> access_tokens.CreatedToken:
    return access_tokens.create(actor=Person(user), user=user, label="CI", **fields)


def test_token_works_until_it_is_revoked(alice: User) -> None:
    created = create(alice)
    assert user_of(created.plaintext) == alice
    access_tokens.revoke_access_token(actor=Person(alice), token_id=created.token.pk)
    assert access_tokens.authenticate(created.plaintext) is None
    assert list(AuditEvent.objects.order_by("pk").values_list("action", flat=True)) == [
        "access_token.created",
        "access_token.revoked",
    ]


def test_revoking_twice_is_recorded_once(alice: User) -> None:
    created = create(alice)
    for _ in range(2):
        access_tokens.revoke_access_token(actor=Person(alice), token_id=created.token.pk)
    assert AuditEvent.objects.filter(action="access_token.revoked").count() == 1


def test_token_expires(alice: User) -> None:
    end = timezone.now() + timedelta(days=1)
    created = create(alice, expires_at=end)
    with time_machine.travel(end - timedelta(seconds=1), tick=False):
        assert user_of(created.plaintext) == alice
    with time_machine.travel(end, tick=False):
        assert access_tokens.authenticate(created.plaintext) is None


def test_plaintext_is_not_stored_or_in_repr(alice: User) -> None:
    created = create(alice)
    secret = created.plaintext[len("pat_xxxx") :]
    for text in [
        repr(created),
        str(created.token),
        str(AccessToken.objects.values()),
        str(AuditEvent.objects.values()),
    ]:
        assert secret not in text


def test_malformed_token_needs_no_query(alice: User, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    good = create(alice).plaintext
    with django_assert_num_queries(0):
        for altered in [good[:-1], good + "x", good.swapcase(), "strk_" + good[4:], "", "pat_", good + "\n"]:
            assert access_tokens.authenticate(altered) is None


def test_stranger_cannot_touch_tokens_of_others(alice: User, charlie: User) -> None:
    created = create(alice)
    assert not AccessToken.objects.visible_to(Person(charlie)).exists()
    with pytest.raises(NotFound):
        access_tokens.revoke_access_token(actor=Person(charlie), token_id=created.token.pk)
    with pytest.raises(NotFound):
        access_tokens.create(actor=Person(charlie), user=alice, label="mine now")
    assert user_of(created.plaintext) == alice


def test_operator_may_create_and_revoke(alice: User) -> None:
    created = access_tokens.create(actor=OPERATOR, user=alice, label="CI")
    assert access_tokens.revoke_access_token(actor=OPERATOR, token_id=created.token.pk).revoked_at


def test_invalid_label_and_expiry_are_rejected(alice: User) -> None:
    for label in ["", "  ", "x" * 101]:
        with pytest.raises(InvalidLabel):
            access_tokens.create(actor=Person(alice), user=alice, label=label)
    with pytest.raises(InvalidExpiry):
        create(alice, expires_at=timezone.now())


@pytest.mark.parametrize(
    ("scopes", "stored"),
    [
        (["endpoints"], ["read", "endpoints"]),
        (["tokens", "tokens", "read"], ["read", "tokens"]),
        (["read"], ["read"]),
    ],
)
def test_every_scope_includes_read_and_no_other(alice: User, scopes: list[str], stored: list[str]) -> None:
    token = create(alice, scopes=scopes).token
    assert token.scopes == stored
    access_tokens.require_scope(token, "read")
    for scope in {"tokens", "endpoints"} - set(stored):
        with pytest.raises(ScopeMissing, match=f"lacks the scope {scope}"):
            access_tokens.require_scope(token, scope)


def test_invalid_scopes_and_networks_are_rejected(alice: User) -> None:
    for scopes in [[], ["admin"], ["read", ""]]:
        with pytest.raises(InvalidScope):
            create(alice, scopes=scopes)
    for networks in [["x"], ["10.0.0.0/33"], [f"10.0.0.{n}" for n in range(51)]]:
        with pytest.raises(InvalidNetwork):
            create(alice, allowed_networks=networks)
    assert not AccessToken.objects.exists()


def test_token_works_from_its_networks_only(alice: User) -> None:
    created = create(alice, allowed_networks=["192.0.2.0/24", "2001:db8::/32"])
    for address in ["192.0.2.255", "2001:db8::1", "::ffff:192.0.2.1"]:
        assert access_tokens.authenticate(created.plaintext, address=address) == created.token
    for outside in ["192.0.3.0", "2001:db9::1", None, ""]:
        with pytest.raises(NetworkNotAllowed):
            access_tokens.authenticate(created.plaintext, address=outside)


def test_last_use_is_updated_once_a_minute(alice: User, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    created = create(alice)
    access_tokens.authenticate(created.plaintext)
    first = AccessToken.objects.get().last_used_at
    assert first
    with django_assert_num_queries(1):
        access_tokens.authenticate(created.plaintext)
    with time_machine.travel(first + timedelta(minutes=2), tick=False):
        access_tokens.authenticate(created.plaintext)
    assert AccessToken.objects.get().last_used_at == first + timedelta(minutes=2)
