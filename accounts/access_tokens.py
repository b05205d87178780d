"""Tokens for the management API: `pat_…`, shown once, stored as their digest."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts import audit, tokens
from accounts.audit import Actor
from accounts.errors import InvalidExpiry, InvalidLabel, NotFound
from accounts.models import ACCESS_TOKEN_PREFIX, AccessToken, User

_USED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Created:
    """An access token just made, with its only plaintext."""

    token: AccessToken
    plaintext: str = field(repr=False)


def create_access_token(*, actor: Actor, user: User, label: str, expires_at: datetime | None = None) -> Created:
    """Make a token that acts for `user`. Raises `InvalidLabel` or `InvalidExpiry`."""
    label = " ".join(label.split())
    if not label or len(label) > 100:
        raise InvalidLabel("Give the token a label of 1 to 100 characters, so that you recognise it later.")
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidExpiry("The token would have expired already; choose a later date.")
    if actor.user not in {None, user}:
        raise NotFound("There is no such user.")
    plaintext = tokens.mint(ACCESS_TOKEN_PREFIX)
    with transaction.atomic():
        token = AccessToken.objects.create(
            user=user,
            label=label,
            digest=tokens.digest(plaintext),
            preview=tokens.preview(plaintext, ACCESS_TOKEN_PREFIX),
            expires_at=expires_at,
        )
        _audit(actor, "access_token.created", token)
    token.refresh_from_db(fields=["created_at"])
    return Created(token, plaintext)


def revoke_access_token(*, actor: Actor, token_id: str) -> AccessToken:
    """End a token for good. Raises `NotFound`."""
    with transaction.atomic():
        token = access_tokens_for(actor).select_related("user").filter(pk=token_id).first()
        if token is None:
            raise NotFound("There is no such access token.")
        if AccessToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now()):
            _audit(actor, "access_token.revoked", token)
    token.refresh_from_db()
    return token


def access_tokens_for(actor: Actor) -> QuerySet[AccessToken]:
    """The tokens `actor` may see, newest first: a person's own; all for an operator."""
    found = AccessToken.objects.order_by("-created_at", "pk")
    return found if actor.user is None else found.filter(user=actor.user)


def authenticate(plaintext: str) -> User | None:
    """The person a live token acts for, or None: one answer for unknown, revoked and expired."""
    if not tokens.is_well_formed(plaintext, ACCESS_TOKEN_PREFIX):
        return None
    now = timezone.now()
    token = (
        AccessToken.objects.select_related("user")
        .filter(Q(expires_at=None) | Q(expires_at__gt=now), digest=tokens.digest(plaintext), revoked_at=None)
        .first()
    )
    if token is None:
        return None
    if token.last_used_at is None or token.last_used_at < now - _USED_EVERY:
        AccessToken.objects.filter(pk=token.pk).update(last_used_at=now)
    return token.user


def _audit(actor: Actor, action: str, token: AccessToken) -> None:
    audit.record(
        actor,
        action,
        account=token.user,
        subject_type="access_token",
        subject_id=token.pk,
        subject_label=f"{token.label} ({token.preview})",
    )
