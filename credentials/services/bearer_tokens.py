"""The operations on bearer tokens.

A child token has a parent of the same endpoint, and no children of its own. It ends at the latest with its parent: when
that is revoked, rotated or expires. Both their limits apply to its requests, and what it uses counts for both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Unpack

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import access_tokens, tokens
from accounts.actors import Actor, Visitor, holder_of_token
from accounts.errors import NotFound
from accounts.models import ACCESS_TOKEN_PREFIX
from credentials import endpoint_audit, token_limits
from credentials.errors import InvalidLimit
from credentials.models import BEARER_TOKEN_PREFIX, BearerToken, Endpoint
from credentials.services.common import clean_label, create_token, find_token, get_endpoint, require_room
from credentials.token_limits import LimitValues

DEFAULT_LABEL = "Token"
_HAS_ENDED = "This token has been revoked or has expired. Add a new one instead."


@dataclass(frozen=True, slots=True)
class Issued:
    """A bearer token that was just created or rotated, with its only plaintext."""

    token: BearerToken
    plaintext: str = field(repr=False)


def issue_token(
    *,
    actor: Actor,
    subdomain: str,
    label: str = "",
    parent_id: str | None = None,
    **limits: Unpack[LimitValues],
) -> Issued:
    """Add a token to an endpoint, or a child of another of its tokens.

    A child without an expiry expires with its parent. Raises `NotFound`, also for a parent that has ended,
    `InvalidLimit` or `QuotaReached`.
    """
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    cleaned = token_limits.clean(**limits)
    with transaction.atomic():
        parent = None if parent_id is None else _parent_for_a_child(actor, parent_id, subdomain)
        if parent is not None:
            cleaned = replace(cleaned, expires_at=_expiry_within(parent, cleaned.expires_at))
        require_room(actor, endpoint.owner)
        token, plaintext = create_token(endpoint, clean_label(label) or DEFAULT_LABEL, cleaned, parent)
        endpoint_audit.record(actor, "token.issued", endpoint, token, **endpoint_audit.limits_of(token))
    return Issued(token, plaintext)


def duplicate_token(*, actor: Actor, token_id: str, subdomain: str | None = None, label: str = "") -> Issued:
    """Add a token with the limits, the parent and, unless there is a `label`, the label of another one.

    Raises as `issue_token` does, and `NotFound` if the other one has ended.
    """
    token = find_token(actor, token_id, subdomain)
    if not BearerToken.objects.live().filter(pk=token.pk).exists():
        raise NotFound(_HAS_ENDED)
    return issue_token(
        actor=actor,
        subdomain=token.endpoint.subdomain,
        label=label or token.label,
        parent_id=token.parent_id,
        **_limits_of(token),
    )


def update_token(
    *,
    actor: Actor,
    token_id: str,
    subdomain: str | None = None,
    label: str | None = None,
    **limits: Unpack[LimitValues],
) -> BearerToken:
    """Change the label of a token, or those of its limits that are given. The others stay, and so does the secret.

    An earlier expiry is one for its children too. Raises `NotFound`, also for a token that has ended, or
    `InvalidLimit`.
    """
    cleaned = token_limits.clean(**limits)
    with transaction.atomic():
        token = find_token(actor, token_id, subdomain)
        parent = None if token.parent_id is None else _lock(token.parent_id)
        _lock(token.pk)
        token.refresh_from_db()
        changed = cleaned.columns(limits)
        if parent is not None and "expires_at" in changed:
            changed["expires_at"] = _expiry_within(parent, cleaned.expires_at)
        if label is not None:
            changed["label"] = clean_label(label) or DEFAULT_LABEL
        before = {name: getattr(token, name) for name in changed}
        if changes := endpoint_audit.changed_limits(before, changed):
            BearerToken.objects.filter(pk=token.pk).update(**changed)
            endpoint_audit.record(actor, "token.changed", token.endpoint, token, **changes)
            if (expiry := changed.get("expires_at")) is not None:
                later = Q(expires_at=None) | Q(expires_at__gt=expiry)
                BearerToken.objects.live().filter(later, parent=token).update(expires_at=expiry)
            token.refresh_from_db()
    return token


def rotate_token(*, actor: Actor, token_id: str, subdomain: str | None = None) -> Issued:
    """Give a token a new secret. A single UPDATE ends the old secret and starts the new one at the same moment.

    The label, the limits and the id stay. Its children end at that moment too: who rotates a token may fear that others
    have it, and wants an end of whatever was made of it. Raises `NotFound`, also for a token that has ended.
    """
    plaintext = tokens.mint(BEARER_TOKEN_PREFIX)
    with transaction.atomic():
        token = find_token(actor, token_id, subdomain)
        changed = (
            BearerToken.objects.live()
            .filter(pk=token.pk)
            .update(
                digest=tokens.digest(plaintext),
                preview=tokens.preview(plaintext, BEARER_TOKEN_PREFIX),
                last_used_at=None,
            )
        )
        if not changed:
            raise NotFound(_HAS_ENDED)
        before = token.preview
        token.refresh_from_db()
        endpoint_audit.record(
            actor, "token.rotated", token.endpoint, token, **endpoint_audit.change(before, token.preview)
        )
        _end_children(actor, token)
    return Issued(token, plaintext)


def revoke_token(*, actor: Actor, token_id: str, subdomain: str | None = None) -> BearerToken:
    """End a token and its children for good. No request that starts after this returns is accepted.

    Raises `NotFound`.
    """
    with transaction.atomic():
        token = find_token(actor, token_id, subdomain)
        end(actor, token)
    token.refresh_from_db()
    return token


def revoke_tokens(*, actor: Actor, subdomain: str, token_ids: Iterable[str]) -> list[BearerToken]:
    """End these tokens of an endpoint and their children. Returns those that had not ended, without the children.

    Raises `NotFound` if the endpoint lacks one of them. Then none is revoked.
    """
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    wanted = set(token_ids)
    with transaction.atomic():
        found = list(endpoint.tokens.filter(pk__in=wanted))
        if len(found) != len(wanted):
            raise NotFound("There is no such token.")
        return _end_all(actor, endpoint, found)


def revoke_all_tokens(*, actor: Actor, subdomain: str) -> list[BearerToken]:
    """End every token of an endpoint. Returns those that had not ended. Raises `NotFound`."""
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    with transaction.atomic():
        found = BearerToken.objects.live().filter(endpoint=endpoint)
        return _end_all(actor, endpoint, list(found))


def revoke_held(*, plaintext: str, ip: str | None) -> bool:
    """End the bearer token or access token that somebody holds, whoever that is (RFC 7009).

    `ip` is theirs, for the audit log. Returns False if no token with this plaintext works.
    """
    holder = holder_of_token(ip)
    if tokens.is_well_formed(plaintext, ACCESS_TOKEN_PREFIX):
        return access_tokens.revoke_held(plaintext=plaintext, holder=holder)
    if not tokens.is_well_formed(plaintext, BEARER_TOKEN_PREFIX):
        return False
    with transaction.atomic():
        live = BearerToken.objects.live().select_related("endpoint__owner")
        token = live.filter(digest=tokens.digest(plaintext)).first()
        return token is not None and end(holder, token)


def end(actor: Actor | Visitor, token: BearerToken) -> bool:
    """Revoke a token and its children, in the caller's transaction. Returns False if it was revoked before."""
    if not BearerToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now()):
        return False
    endpoint_audit.record(actor, "token.revoked", token.endpoint, token, preview=token.preview)
    _end_children(actor, token)
    return True


# --- Internals -----------------------------------------------------------------------------------------------------


def _end_children(actor: Actor | Visitor, token: BearerToken) -> None:
    for child in BearerToken.objects.live().filter(parent=token).order_by("pk"):
        child.endpoint = token.endpoint
        if BearerToken.objects.filter(pk=child.pk, revoked_at=None).update(revoked_at=timezone.now()):
            details = {"preview": child.preview, "parent_id": token.pk}
            endpoint_audit.record(actor, "token.revoked", token.endpoint, child, **details)


def _end_all(actor: Actor, endpoint: Endpoint, found: list[BearerToken]) -> list[BearerToken]:
    # Families in one order, and parents first, so that two transactions that lock the same tokens do not deadlock.
    found.sort(key=lambda token: (token.parent_id or token.pk, token.parent_id is not None, token.pk))
    ended = []
    for token in found:
        token.endpoint = endpoint
        if end(actor, token):
            ended.append(token)
    return ended


def _lock(token_id: str) -> BearerToken:
    """Lock a token until the transaction ends. Raises `NotFound` if it has ended."""
    token = BearerToken.objects.live().select_for_update().filter(pk=token_id).first()
    if token is None:
        raise NotFound(_HAS_ENDED)
    return token


def _parent_for_a_child(actor: Actor, token_id: str, subdomain: str) -> BearerToken:
    """Lock a token, so that it does not end while it gets a child."""
    parent = _lock(find_token(actor, token_id, subdomain).pk)
    if parent.parent_id is not None:
        raise InvalidLimit("This token has a parent itself, and can't have children.", field="parent_id")
    return parent


def _expiry_within(parent: BearerToken, expires_at: datetime | None) -> datetime | None:
    """The expiry of a child: at the latest that of its parent."""
    if parent.expires_at is None:
        return expires_at
    if expires_at is not None and expires_at > parent.expires_at:
        raise InvalidLimit(
            f"Its parent expires earlier, at {parent.expires_at:%Y-%m-%d %H:%M:%S} UTC.", field="expires_at"
        )
    return expires_at or parent.expires_at


def _limits_of(token: BearerToken) -> LimitValues:
    values: Any = {name: getattr(token, name) for name in token_limits.LIMIT_NAMES}
    limits: LimitValues = values
    return limits
