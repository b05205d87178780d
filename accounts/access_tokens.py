"""Access tokens for the management API: `pat_…`, shown once, stored as a digest.

A token has scopes, and may have an expiry and a list of networks:

    read         see everything of its person: endpoints, usage, requests, audit log, sessions
    tokens       also issue, change, rotate and revoke tokens of endpoints, revoke access tokens, end sessions
    endpoints    also connect, change and delete endpoints, and replace their keys

Both of the last two include `read`, and neither includes the other. One exception: connecting a provider returns the
first token of the new endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from accounts import audit, quotas, tokens
from accounts.actors import Actor, Operator, Person, Visitor
from accounts.addresses import parse_address, parse_network
from accounts.errors import (
    InvalidExpiry,
    InvalidLabel,
    InvalidNetwork,
    InvalidScope,
    NetworkNotAllowed,
    NotFound,
    ScopeMissing,
    Suspended,
)
from accounts.models import ACCESS_TOKEN_PREFIX, SCOPES, AccessToken, User
from accounts.plain_text import clean_label

MAX_LABEL_LENGTH = 100
MAX_NETWORKS = 50
_LAST_USED_INTERVAL = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class CreatedToken:
    """A new access token with its plaintext, which exists nowhere else."""

    token: AccessToken
    plaintext: str = field(repr=False)


def create(
    *,
    actor: Actor,
    user: User,
    label: str,
    scopes: Iterable[str] = SCOPES,
    expires_at: datetime | None = None,
    allowed_networks: Iterable[str] = (),
) -> CreatedToken:
    """Create a token that acts for `user`. Without `expires_at` it never expires.

    `scopes` are names of the list above. `allowed_networks` are CIDRs. Without any, every address may use the token.
    Raises `InvalidLabel`, `InvalidScope`, `InvalidExpiry`, `InvalidNetwork`, `QuotaReached`, or `NotFound` if a person
    asks for a token of another user.
    """
    label = clean_label(label)
    if not label or len(label) > MAX_LABEL_LENGTH:
        raise InvalidLabel(
            f"Give the token a label of 1 to {MAX_LABEL_LENGTH} characters, so that you recognise it later."
        )
    scopes, networks = _clean_scopes(scopes), _clean_networks(allowed_networks)
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidExpiry("This expiry date is in the past. Choose a later date.")
    if isinstance(actor, Person) and actor.user != user:
        raise NotFound("There is no such user.")
    plaintext = tokens.mint(ACCESS_TOKEN_PREFIX)
    with transaction.atomic():
        quotas.require_room(
            actor,
            user,
            AccessToken.objects.live().filter(user=user),
            setting="STRAKE_MAX_ACCESS_TOKENS",
            kind="access tokens",
            remedy="Revoke one",
        )
        token = AccessToken.objects.create(
            user=user,
            label=label,
            digest=tokens.digest(plaintext),
            preview=tokens.preview(plaintext, ACCESS_TOKEN_PREFIX),
            scopes=scopes,
            allowed_networks=networks,
            expires_at=expires_at,
        )
        _audit(
            actor,
            "access_token.created",
            token,
            scopes=scopes,
            expires_at=token.expires_at,
            **({"networks": networks} if networks else {}),
        )
    token.refresh_from_db(fields=["created_at"])
    return CreatedToken(token, plaintext)


def revoke_access_token(*, actor: Actor, token_id: str) -> AccessToken:
    """Revoke a token permanently. Revoking it again changes nothing. Raises `NotFound`."""
    with transaction.atomic():
        token = AccessToken.objects.visible_to(actor).select_related("user").filter(pk=token_id).first()
        if token is None:
            raise NotFound("There is no such access token.")
        if AccessToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now()):
            _audit(actor, "access_token.revoked", token, last_used_at=token.last_used_at)
    token.refresh_from_db()
    return token


def revoke_access_tokens(*, actor: Operator, user: User) -> int:
    """Revoke all access tokens of `user`. Returns how many were live."""
    with transaction.atomic():
        live = list(AccessToken.objects.live().select_for_update().filter(user=user).order_by("pk"))
        AccessToken.objects.filter(pk__in=[token.pk for token in live]).update(revoked_at=timezone.now())
        for token in live:
            token.user = user
            _audit(actor, "access_token.revoked", token, last_used_at=token.last_used_at)
    return len(live)


def revoke_held(*, plaintext: str, holder: Visitor) -> bool:
    """Revoke a live token for somebody who holds it. Returns False if there is none with this plaintext."""
    with transaction.atomic():
        live = AccessToken.objects.live().select_related("user").filter(digest=tokens.digest(plaintext))
        if (token := live.first()) is None:
            return False
        if not AccessToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now()):
            return False
        _audit(holder, "access_token.revoked", token, last_used_at=token.last_used_at)
    return True


def authenticate(plaintext: str, *, address: str | None = None) -> AccessToken | None:
    """Return a live token with the user that it acts for. Unknown, revoked and expired tokens all return None.

    `address` is the client's IP address. Raises `Suspended` if the token is live and its user is suspended, and
    `NetworkNotAllowed` if it may not be used from `address`.
    """
    if not tokens.is_well_formed(plaintext, ACCESS_TOKEN_PREFIX):
        return None
    now = timezone.now()
    token = AccessToken.objects.live().select_related("user").filter(digest=tokens.digest(plaintext)).first()
    if token is None:
        return None
    if token.user.suspended_at is not None:
        raise Suspended("This account is suspended. Ask the operator of this installation.")
    if token.allowed_networks and not _is_within(address, token.allowed_networks):
        raise NetworkNotAllowed("This access token may not be used from this network.")
    if token.last_used_at is None or token.last_used_at < now - _LAST_USED_INTERVAL:
        AccessToken.objects.filter(pk=token.pk).update(last_used_at=now)
    return token


def require_scope(token: AccessToken, scope: str) -> None:
    """Raise `ScopeMissing` unless the token has this scope. Every scope includes `read`."""
    if scope not in token.scopes and scope != "read":
        raise ScopeMissing(
            f"This access token lacks the scope {scope}. It has: {', '.join(token.scopes)}. Create one with this scope."
        )


def _clean_scopes(scopes: Iterable[str]) -> list[str]:
    """Return the scopes with `read`, each once, in their order."""
    chosen = set(scopes)
    if not chosen or not chosen <= set(SCOPES):
        raise InvalidScope(f"Choose one or more of the scopes {', '.join(SCOPES)}.")
    return [scope for scope in SCOPES if scope in chosen or scope == "read"]


def _clean_networks(entries: Iterable[str]) -> list[str]:
    networks = list(dict.fromkeys(str(parse_network(entry)) for entry in entries if entry.strip()))
    if len(networks) > MAX_NETWORKS:
        raise InvalidNetwork(f"At most {MAX_NETWORKS} networks.")
    return networks


def _is_within(address: str | None, networks: Iterable[str]) -> bool:
    client = parse_address(address or "")
    return client is not None and any(client in parse_network(network) for network in networks)


def _audit(actor: Actor | Visitor, action: str, token: AccessToken, **details: datetime | list[str] | None) -> None:
    audit.record(
        actor,
        action,
        account=token.user,
        subject_type="access_token",
        subject_id=token.pk,
        subject_label=f"{token.label} ({token.preview})",
        details=details,
    )
