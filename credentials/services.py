"""What can be done with endpoints, provider keys and bearer tokens.

Each verb finds its object among those the actor may touch, writes, and adds its audit event, in one transaction.
Plaintext tokens exist only in the values returned here, to be shown once.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts import audit, tokens
from accounts.audit import Actor
from accounts.erasure import erase_deleted
from accounts.models import User
from credentials import destinations, key_check, keyring_guard, limits, providers, sealing
from credentials.destinations import Destination
from credentials.errors import ConfirmationMismatch, InvalidDestination, KeyRefused, KeyUnchecked, NotFound
from credentials.models import BEARER_TOKEN_PREFIX, BearerToken, Credential, Endpoint
from credentials.providers import Provider


@dataclass(frozen=True, slots=True)
class Issued:
    """A bearer token just made or rotated, with its only plaintext."""

    token: BearerToken
    plaintext: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Connected:
    """A new endpoint with its first token."""

    endpoint: Endpoint
    token: BearerToken
    plaintext: str = field(repr=False)


# --- Finding -------------------------------------------------------------------------------------------------------


def endpoints_for(actor: Actor) -> QuerySet[Endpoint]:
    """The endpoints `actor` may touch, newest first: a person's own; all of them for an operator."""
    endpoints = Endpoint.objects.order_by("-created_at")
    return endpoints if actor.user is None else endpoints.filter(owner=actor.user)


def get_endpoint(*, actor: Actor, subdomain: str) -> Endpoint:
    """One endpoint the actor may touch. Raises `NotFound`, whether it is somebody else's or nobody's."""
    endpoint = endpoints_for(actor).select_related("owner").filter(subdomain=subdomain).first()
    if endpoint is None:
        raise NotFound("There is no such endpoint.")
    return endpoint


# --- Endpoints and their keys --------------------------------------------------------------------------------------


def connect(
    *,
    actor: Actor,
    owner: User,
    provider: str,
    api_key: str,
    label: str = "",
    destination_url: str = "",
    header_name: str = "",
    header_template: str = "",
    unchecked: bool = False,
) -> Connected:
    """Check a provider key, seal it behind a new endpoint, and issue the endpoint's first token.

    `unchecked` saves the key also where the provider could not be asked; a refused key is never saved. Raises
    `UnknownProvider`, `InvalidKey`, `InvalidDestination`, `KeyRefused` or `KeyUnchecked`; then nothing was saved.
    """
    chosen = providers.get(provider)
    key = sealing.clean_key(api_key)
    destination, header_name, header_template = _where(chosen, destination_url, header_name, header_template)
    try:
        _check(chosen, destination, header_name, header_template, key, unchecked=unchecked)
    except KeyRefused:
        audit.record(
            actor,
            "key.refused",
            account=owner,
            subject_type="provider",
            subject_id=chosen.slug,
            subject_label=chosen.name,
        )
        raise
    # Both ids exist before sealing, since the seal is bound to them.
    endpoint = Endpoint(id=uuid.uuid4(), owner=owner, label=_label(label) or chosen.name, provider=chosen.slug)
    credential = Credential(
        id=uuid.uuid4(),
        endpoint=endpoint,
        destination_url=destination.url,
        header_name=header_name,
        header_template=header_template,
    )
    with transaction.atomic():
        credential.secret = key
        keyring_guard.confirm(credential.master_key_id)
        endpoint.save(force_insert=True)
        credential.save(force_insert=True)
        token, plaintext = _new_token(endpoint, "First token", limits.Limits())
        _audit(actor, "endpoint.connected", endpoint)
        _audit(actor, "token.issued", endpoint, token)
    endpoint.refresh_from_db(fields=["created_at"])
    return Connected(endpoint, token, plaintext)


def replace_key(*, actor: Actor, subdomain: str, api_key: str, unchecked: bool = False) -> Endpoint:
    """Seal a new provider key behind an endpoint; address and tokens stay. Raises as `connect` does, or `NotFound`."""
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    credential = endpoint.credential
    return _reseal(
        actor,
        endpoint,
        api_key,
        parse_stored_destination(credential),
        credential.header_name,
        credential.header_template,
        action="key.replaced",
        unchecked=unchecked,
    )


def change_destination(
    *,
    actor: Actor,
    subdomain: str,
    api_key: str,
    destination_url: str,
    header_name: str = "",
    header_template: str = "",
    unchecked: bool = False,
) -> Endpoint:
    """Point an endpoint elsewhere. The key must be given again: the old seal does not open for another destination.

    Raises as `connect` does, `NotFound`, or `InvalidDestination` where the provider's destination is fixed.
    """
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    provider = providers.get(endpoint.provider)
    if not provider.needs_destination:
        raise InvalidDestination(f"The destination of {provider.name} is fixed.")
    where = _where(provider, destination_url, header_name, header_template)
    return _reseal(actor, endpoint, api_key, *where, action="destination.changed", unchecked=unchecked)


def rename(*, actor: Actor, subdomain: str, label: str) -> Endpoint:
    """Give an endpoint another label. Raises `NotFound`."""
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    with transaction.atomic():
        endpoint.label = _label(label) or providers.get(endpoint.provider).name
        endpoint.save(update_fields=["label"])
        _audit(actor, "endpoint.renamed", endpoint)
    return endpoint


def pause(*, actor: Actor, subdomain: str) -> Endpoint:
    """Refuse every request to an endpoint from now on, until it is resumed. Raises `NotFound`."""
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    with transaction.atomic():
        if Endpoint.objects.filter(pk=endpoint.pk, paused_at=None).update(paused_at=timezone.now()):
            _audit(actor, "endpoint.paused", endpoint)
    endpoint.refresh_from_db(fields=["paused_at"])
    return endpoint


def resume(*, actor: Actor, subdomain: str) -> Endpoint:
    """Let a paused endpoint work again. Raises `NotFound`."""
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    with transaction.atomic():
        if Endpoint.objects.filter(pk=endpoint.pk, paused_at__isnull=False).update(paused_at=None):
            _audit(actor, "endpoint.resumed", endpoint)
    endpoint.paused_at = None
    return endpoint


def limit_endpoint(*, actor: Actor, subdomain: str, max_streams: int | None) -> Endpoint:
    """Let a server process forward at most `max_streams` requests of an endpoint at a time, from the next one on.

    None leaves it to the installation's limit. What is in flight goes on. Raises `NotFound` or `InvalidLimit`.
    """
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    limits.check_max_streams(max_streams)
    with transaction.atomic():
        if Endpoint.objects.filter(pk=endpoint.pk).exclude(max_streams=max_streams).update(max_streams=max_streams):
            _audit(actor, "endpoint.limited", endpoint)
    endpoint.max_streams = max_streams
    return endpoint


def delete_endpoint(*, actor: Actor, subdomain: str, confirmation: str) -> None:
    """Destroy an endpoint, its sealed key, its tokens and its request records. There is no way back.

    Raises `NotFound`, or `ConfirmationMismatch` unless `confirmation` is the subdomain.
    """
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    if confirmation.strip().lower() != endpoint.subdomain:
        raise ConfirmationMismatch(f"Type {endpoint.subdomain} to delete this endpoint.")
    with transaction.atomic():
        _audit(actor, "endpoint.deleted", endpoint)
        endpoint.delete()
        erase_deleted()


# --- Bearer tokens -------------------------------------------------------------------------------------------------


def issue_token(
    *,
    actor: Actor,
    subdomain: str,
    label: str = "",
    expires_at: datetime | None = None,
    requests_per_minute: int | None = None,
    allowed_paths: Iterable[str] = (),
    allowed_networks: Iterable[str] = (),
) -> Issued:
    """Add a token to an endpoint. Raises `NotFound` or `InvalidLimit`."""
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    cleaned = limits.clean(
        expires_at=expires_at,
        requests_per_minute=requests_per_minute,
        allowed_paths=allowed_paths,
        allowed_networks=allowed_networks,
    )
    with transaction.atomic():
        token, plaintext = _new_token(endpoint, _label(label) or "Token", cleaned)
        _audit(actor, "token.issued", endpoint, token)
    return Issued(token, plaintext)


def rotate_token(*, actor: Actor, token_id: str, subdomain: str | None = None) -> Issued:
    """Give a token a new secret. One UPDATE of one row: the old secret dies in the moment the new one works.

    Label, limits and id stay. Raises `NotFound`, also for a token that was revoked, which is for good, or has expired.
    """
    plaintext = tokens.mint(BEARER_TOKEN_PREFIX)
    with transaction.atomic():
        token = _find_token(actor, token_id, subdomain)
        live = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
        changed = BearerToken.objects.filter(live, pk=token.pk, revoked_at=None).update(
            digest=tokens.digest(plaintext),
            preview=tokens.preview(plaintext, BEARER_TOKEN_PREFIX),
            last_used_at=None,
        )
        if not changed:
            raise NotFound("This token has been revoked or has expired. Add a new one instead.")
        _audit(actor, "token.rotated", token.endpoint, token)
    token.refresh_from_db()
    return Issued(token, plaintext)


def revoke_token(*, actor: Actor, token_id: str, subdomain: str | None = None) -> BearerToken:
    """End a token for good; no request that starts after this returns is accepted. Raises `NotFound`."""
    with transaction.atomic():
        token = _find_token(actor, token_id, subdomain)
        if BearerToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now()):
            _audit(actor, "token.revoked", token.endpoint, token)
    token.refresh_from_db()
    return token


# --- Inside --------------------------------------------------------------------------------------------------------


def parse_stored_destination(credential: Credential) -> Destination:
    """The destination of a credential as it was checked when it was stored."""
    return destinations.parse(credential.destination_url)


def _where(
    provider: Provider, destination_url: str, header_name: str, header_template: str
) -> tuple[Destination, str, str]:
    """Where a key goes: the provider's own settings, or the person's where the provider leaves them open."""
    if not provider.needs_destination:
        return destinations.parse(provider.destination_url), provider.header_name, provider.header_template
    if not destination_url.strip():
        raise InvalidDestination("Enter the address of the API, like https://api.example.com")
    destination = destinations.check(destination_url)
    if not provider.is_custom:
        return destination, provider.header_name, provider.header_template
    name, template = destinations.check_header(
        header_name or provider.header_name, header_template or provider.header_template
    )
    return destination, name, template


def _check(
    provider: Provider,
    destination: Destination,
    header_name: str,
    header_template: str,
    key: str,
    *,
    unchecked: bool,
) -> None:
    try:
        key_check.check_key(
            provider=provider,
            destination=destination,
            header_name=header_name,
            header_template=header_template,
            key=key,
        )
    except KeyUnchecked:
        if not unchecked:
            raise


def _reseal(
    actor: Actor,
    endpoint: Endpoint,
    api_key: str,
    destination: Destination,
    header_name: str,
    header_template: str,
    *,
    action: str,
    unchecked: bool,
) -> Endpoint:
    key = sealing.clean_key(api_key)
    try:
        _check(providers.get(endpoint.provider), destination, header_name, header_template, key, unchecked=unchecked)
    except KeyRefused:
        _audit(actor, "key.refused", endpoint)
        raise
    with transaction.atomic():
        credential = Credential.objects.select_for_update().get(endpoint=endpoint)
        credential.endpoint = endpoint
        credential.destination_url = destination.url
        credential.header_name = header_name
        credential.header_template = header_template
        credential.secret = key
        keyring_guard.confirm(credential.master_key_id)
        credential.save()
        _audit(actor, action, endpoint)
        erase_deleted()
    return endpoint


def _new_token(endpoint: Endpoint, label: str, cleaned: limits.Limits) -> tuple[BearerToken, str]:
    plaintext = tokens.mint(BEARER_TOKEN_PREFIX)
    token = BearerToken.objects.create(
        endpoint=endpoint,
        label=label,
        digest=tokens.digest(plaintext),
        preview=tokens.preview(plaintext, BEARER_TOKEN_PREFIX),
        expires_at=cleaned.expires_at,
        requests_per_minute=cleaned.requests_per_minute,
        allowed_paths=list(cleaned.allowed_paths),
        allowed_networks=list(cleaned.allowed_networks),
    )
    token.refresh_from_db(fields=["created_at"])
    return token, plaintext


def _find_token(actor: Actor, token_id: str, subdomain: str | None) -> BearerToken:
    found = BearerToken.objects.select_related("endpoint__owner").filter(pk=token_id, endpoint__in=endpoints_for(actor))
    if subdomain is not None:
        found = found.filter(endpoint__subdomain=subdomain)
    token = found.first()
    if token is None:
        raise NotFound("There is no such token.")
    return token


def _label(text: str) -> str:
    return " ".join(text.split())[:100]


def _audit(actor: Actor, action: str, endpoint: Endpoint, token: BearerToken | None = None) -> None:
    audit.record(
        actor,
        action,
        account=endpoint.owner,
        subject_type="endpoint" if token is None else "token",
        subject_id=endpoint.subdomain if token is None else token.pk,
        subject_label=endpoint.label if token is None else f"{token.label} of {endpoint.label}",
    )
