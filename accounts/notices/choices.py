"""The notices that a person wants, and the link in an email that ends one kind."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.core.signing import BadSignature, Signer
from django.db import transaction
from django.urls import reverse

from accounts import audit
from accounts.actors import Person, Visitor
from accounts.errors import NotFound, UnknownNotice
from accounts.models import NoticeChoices, User
from accounts.notices.kinds import KINDS

_SALT = "strake.accounts.notices.unsubscribe"


@dataclass(frozen=True, slots=True)
class Choices:
    """The kinds that a person wants, by channel."""

    mail: frozenset[str]
    webhook: frozenset[str]


EVERYTHING = Choices(frozenset(KINDS), frozenset(KINDS))


def choices_of(people: Collection[UUID]) -> dict[UUID, Choices]:
    """Return the choices of these people. Those who have never chosen get everything, and are left out."""
    rows = NoticeChoices.objects.filter(person_id__in=people)
    return {row.person_id: _choices(row) for row in rows}


def choices(user: User) -> Choices:
    """Return the choice of one person."""
    return choices_of([user.pk]).get(user.pk, EVERYTHING)


def choose(*, actor: Person, mail: Collection[str], webhook: Collection[str]) -> Choices:
    """Set the kinds that the actor wants. Raises `UnknownNotice`."""
    if unknown := {*mail, *webhook} - KINDS.keys():
        raise UnknownNotice(f"There is no notice {', '.join(sorted(unknown))}. Choose among: {', '.join(KINDS)}")
    with transaction.atomic():
        _store(actor, actor.user, Choices(frozenset(mail), frozenset(webhook)))
    return choices(actor.user)


def unsubscribe_url(user_id: UUID, kind: str) -> str:
    """A URL that ends the emails of one kind with one POST, without signing in (RFC 8058). It never expires."""
    token = Signer(salt=_SALT).sign_object([user_id.hex, kind])
    return settings.STRAKE_BASE_URL + reverse("accounts:unsubscribe", args=[token])


def unsubscriber(token: str) -> tuple[User, str]:
    """The person and the kind of an unsubscribe URL. Raises `NotFound`."""
    try:
        user_id, kind = Signer(salt=_SALT).unsign_object(token)
        return User.objects.get(pk=UUID(user_id)), kind
    except (BadSignature, ValueError, User.DoesNotExist):
        raise NotFound("This link doesn't work.") from None


def unsubscribe(*, actor: Visitor, token: str, everything: bool = False) -> str:
    """End the emails of the kind in an unsubscribe URL, or of every kind. Returns the kind. Raises `NotFound`.

    The URL is the permission: it was only in an email to the person.
    """
    user, kind = unsubscriber(token)
    with transaction.atomic():
        now = choices(user)
        left = frozenset() if everything else now.mail - {kind}
        _store(actor, user, Choices(left, now.webhook))
    return kind


def _store(actor: Person | Visitor, user: User, wanted: Choices) -> None:
    before = choices(user)
    if wanted == before:
        return
    NoticeChoices.objects.update_or_create(
        person=user, defaults={"muted_mail": _muted(wanted.mail), "muted_webhook": _muted(wanted.webhook)}
    )
    audit.record(
        actor,
        "notices.chosen",
        account=user,
        subject_type="user",
        subject_id=user.pk,
        subject_label=user.email,
        details={"mail": sorted(wanted.mail), "webhook": sorted(wanted.webhook)},
    )


def _choices(row: NoticeChoices) -> Choices:
    return Choices(frozenset(KINDS) - {*row.muted_mail}, frozenset(KINDS) - {*row.muted_webhook})


def _muted(wanted: Collection[str]) -> list[str]:
    return sorted(KINDS.keys() - set(wanted))
