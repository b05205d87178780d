"""Access tokens: shown once, scoped to their owner, ended for good."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine
from django.utils import timezone

from accounts import access_tokens, audit
from accounts.audit import Actor
from accounts.errors import InvalidExpiry, InvalidLabel, NotFound
from accounts.models import AccessToken, AuditEvent, User

pytestmark = pytest.mark.django_db


def make(user: User, **fields: object) -> access_tokens.Created:
    return access_tokens.create_access_token(actor=Actor(user), user=user, label="CI", **fields)  # type: ignore[arg-type]


def test_token_acts_for_its_owner_until_it_is_revoked(alice: User) -> None:
    created = make(alice)
    assert access_tokens.authenticate(created.plaintext) == alice
    access_tokens.revoke_access_token(actor=Actor(alice), token_id=created.token.pk)
    assert access_tokens.authenticate(created.plaintext) is None
    assert list(AuditEvent.objects.order_by("pk").values_list("action", flat=True)) == [
        "access_token.created",
        "access_token.revoked",
    ]


def test_revoking_twice_is_recorded_once(alice: User) -> None:
    created = make(alice)
    for _ in range(2):
        access_tokens.revoke_access_token(actor=Actor(alice), token_id=created.token.pk)
    assert AuditEvent.objects.filter(action="access_token.revoked").count() == 1


def test_token_ends_at_its_expiry(alice: User) -> None:
    end = timezone.now() + timedelta(days=1)
    created = make(alice, expires_at=end)
    with time_machine.travel(end - timedelta(seconds=1), tick=False):
        assert access_tokens.authenticate(created.plaintext) == alice
    with time_machine.travel(end, tick=False):
        assert access_tokens.authenticate(created.plaintext) is None


def test_plaintext_is_nowhere_but_in_the_answer(alice: User) -> None:
    created = make(alice)
    secret = created.plaintext[len("pat_xxxx") :]
    for text in [
        repr(created),
        str(created.token),
        str(AccessToken.objects.values()),
        str(AuditEvent.objects.values()),
    ]:
        assert secret not in text


def test_altered_token_is_refused_without_a_look_up(alice: User, django_assert_num_queries: object) -> None:
    good = make(alice).plaintext
    with django_assert_num_queries(0):  # type: ignore[operator]
        for altered in [good[:-1], good + "x", good.swapcase(), "strk_" + good[4:], "", "pat_", good + "\n"]:
            assert access_tokens.authenticate(altered) is None


def test_stranger_neither_sees_nor_ends_nor_makes_tokens_of_others(alice: User, charlie: User) -> None:
    created = make(alice)
    assert not access_tokens.access_tokens_for(Actor(charlie)).exists()
    with pytest.raises(NotFound):
        access_tokens.revoke_access_token(actor=Actor(charlie), token_id=created.token.pk)
    with pytest.raises(NotFound):
        access_tokens.create_access_token(actor=Actor(charlie), user=alice, label="mine now")
    assert access_tokens.authenticate(created.plaintext) == alice


def test_operator_may_do_both(alice: User) -> None:
    created = access_tokens.create_access_token(actor=audit.OPERATOR, user=alice, label="CI")
    assert access_tokens.revoke_access_token(actor=audit.OPERATOR, token_id=created.token.pk).revoked_at


def test_label_and_expiry_must_make_sense(alice: User) -> None:
    for label in ["", "  ", "x" * 101]:
        with pytest.raises(InvalidLabel):
            access_tokens.create_access_token(actor=Actor(alice), user=alice, label=label)
    with pytest.raises(InvalidExpiry):
        make(alice, expires_at=timezone.now())


def test_last_use_is_noted_once_a_minute(alice: User, django_assert_num_queries: object) -> None:
    created = make(alice)
    access_tokens.authenticate(created.plaintext)
    first = AccessToken.objects.get().last_used_at
    assert first
    with django_assert_num_queries(1):  # type: ignore[operator]
        access_tokens.authenticate(created.plaintext)
    with time_machine.travel(first + timedelta(minutes=2), tick=False):
        access_tokens.authenticate(created.plaintext)
    assert AccessToken.objects.get().last_used_at == first + timedelta(minutes=2)
