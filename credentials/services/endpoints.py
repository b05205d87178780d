"""The operations on endpoints and their provider keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from django.db import transaction
from django.utils import timezone

from accounts import audit
from accounts.actors import Actor
from accounts.errors import ConfirmationMismatch
from accounts.models import User
from accounts.transactions import secure_delete_on_commit
from credentials import cloud_tokens, endpoint_audit, outbound, providers, token_limits
from credentials.cloud_tokens import Secret
from credentials.delivery import Delivery, delivery_of
from credentials.errors import InvalidDestination, KeyRefused
from credentials.labels import default_label
from credentials.models import BearerToken, Credential, Endpoint
from credentials.providers import STATIC
from credentials.services.common import clean_label, create_token, get_endpoint, require_room
from credentials.vault.provider_key import ProviderKey


@dataclass(frozen=True, slots=True)
class Connected:
    """A new endpoint with its first token."""

    endpoint: Endpoint
    token: BearerToken
    plaintext: str = field(repr=False)


@outbound.limited
def connect(
    *,
    actor: Actor,
    owner: User,
    provider: str,
    api_key: str | ProviderKey,
    label: str = "",
    destination_url: str = "",
    header_name: str = "",
    header_template: str = "",
    places: Iterable[Sequence[str]] = (),
    kind: str = STATIC,
    tenant: str = "",
    client_id: str = "",
    unchecked: bool = False,
) -> Connected:
    """Check a provider key, seal it behind a new endpoint, and issue the endpoint's first token.

    `places` are further headers and query parameters, as in `models.Credential`, for providers where the person also
    enters the header. `kind` is as there too, and `tenant` and `client_id` are those of an Entra ID application, whose
    secret is the key. With `unchecked`, a key is saved even if the provider cannot be asked about it. A key that the
    provider rejects is never saved. Raises `UnknownProvider`, `InvalidKey`, `InvalidDestination`, `KeyRefused`,
    `KeyUnchecked`, `QuotaReached`, `SealError`, or as `outbound.limited` says. Then nothing is saved.
    """
    chosen = providers.get(provider)
    require_room(actor, owner, endpoint=True)  # here too, so that the provider is not asked in vain
    key, parameters = cloud_tokens.secret_of(kind, api_key, tenant=tenant, client_id=client_id)
    delivery = delivery_of(
        *(owner, chosen, destination_url, header_name, header_template, places), kind=kind, parameters=parameters
    )
    try:
        delivery.check_key(owner, chosen, key, unchecked=unchecked)
    except KeyRefused:
        audit.record(
            actor,
            "key.refused",
            account=owner,
            subject_type="provider",
            subject_id=chosen.slug,
            subject_label=chosen.name,
            details={"destination": delivery.destination.url},
        )
        raise
    name = clean_label(label) or default_label(owner, chosen, delivery.destination.url)
    endpoint = Endpoint(owner=owner, label=name, provider=chosen.slug)
    credential = Credential(endpoint=endpoint)
    _seal_key(credential, delivery, key)
    with transaction.atomic():
        require_room(actor, owner, endpoint=True)
        endpoint.save(force_insert=True)
        credential.save()
        token, plaintext = create_token(endpoint, "First token", token_limits.Limits())
        endpoint_audit.record(
            actor,
            "endpoint.connected",
            endpoint,
            provider=chosen.slug,
            destination=delivery.destination.url,
            header=delivery.header_name,
            **endpoint_audit.places_of(delivery.places),
            **endpoint_audit.cloud_of(delivery),
        )
        endpoint_audit.record(actor, "token.issued", endpoint, token, **endpoint_audit.limits_of(token))
    endpoint.refresh_from_db(fields=["created_at"])
    return Connected(endpoint, token, plaintext)


@outbound.limited
def replace_key(*, actor: Actor, subdomain: str, api_key: str | ProviderKey, unchecked: bool = False) -> Endpoint:
    """Seal a new provider key behind an endpoint. Its URL and tokens stay. Raises as `connect` does, or `NotFound`."""
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    key, parameters = _secret(endpoint.credential, api_key)
    delivery = replace(Delivery.of(endpoint.credential), parameters=parameters)
    return _reseal(actor, endpoint, key, delivery, action="key.replaced", unchecked=unchecked)


@outbound.limited
def change_destination(
    *,
    actor: Actor,
    subdomain: str,
    api_key: str | ProviderKey,
    destination_url: str,
    header_name: str = "",
    header_template: str = "",
    places: Iterable[Sequence[str]] = (),
    unchecked: bool = False,
) -> Endpoint:
    """Point an endpoint at another destination.

    The key is required because the existing ciphertext is bound to the old destination. Raises as `connect` does,
    `NotFound`, or `InvalidDestination` if the provider's destination is fixed.
    """
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    provider = providers.get(endpoint.provider)
    if not provider.has_destinations:
        raise InvalidDestination(f"The destination of {provider.name} is fixed.")
    key, parameters = _secret(endpoint.credential, api_key)
    delivery = delivery_of(
        *(endpoint.owner, provider, destination_url, header_name, header_template, places),
        kind=endpoint.credential.kind,
        parameters=parameters,
    )
    return _reseal(actor, endpoint, key, delivery, action="destination.changed", unchecked=unchecked)


def rename(*, actor: Actor, subdomain: str, label: str) -> Endpoint:
    """Change the label of an endpoint. An empty one becomes the provider's name. Raises `NotFound`."""
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    with transaction.atomic():
        before, endpoint.label = endpoint.label, clean_label(label) or providers.get(endpoint.provider).name
        endpoint.save(update_fields=["label"])
        endpoint_audit.record(actor, "endpoint.renamed", endpoint, **endpoint_audit.change(before, endpoint.label))
    return endpoint


def pause(*, actor: Actor, subdomain: str) -> Endpoint:
    """Refuse every new request to an endpoint until it is resumed. Raises `NotFound`."""
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    with transaction.atomic():
        if Endpoint.objects.filter(pk=endpoint.pk, paused_at=None).update(paused_at=timezone.now()):
            endpoint_audit.record(actor, "endpoint.paused", endpoint)
    endpoint.refresh_from_db(fields=["paused_at"])
    return endpoint


def resume(*, actor: Actor, subdomain: str) -> Endpoint:
    """Accept requests to a paused endpoint again. Raises `NotFound`."""
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    with transaction.atomic():
        if Endpoint.objects.filter(pk=endpoint.pk, paused_at__isnull=False).update(paused_at=None):
            endpoint_audit.record(actor, "endpoint.resumed", endpoint, paused_at=endpoint.paused_at)
    endpoint.paused_at = None
    return endpoint


def limit_endpoint(*, actor: Actor, subdomain: str, max_streams: int | None) -> Endpoint:
    """Limit an endpoint to `max_streams` concurrent requests in each server process.

    None removes the limit, so that only `STRAKE_MAX_STREAMS` counts. Requests in flight continue. Raises `NotFound` or
    `InvalidLimit`.
    """
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    token_limits.check_max_streams(max_streams)
    with transaction.atomic():
        if Endpoint.objects.filter(pk=endpoint.pk).exclude(max_streams=max_streams).update(max_streams=max_streams):
            endpoint_audit.record(
                actor, "endpoint.limited", endpoint, **endpoint_audit.change(endpoint.max_streams, max_streams)
            )
    endpoint.max_streams = max_streams
    return endpoint


def delete_endpoint(*, actor: Actor, subdomain: str, confirmation: str) -> None:
    """Delete an endpoint, its sealed key, its tokens and its request records for good.

    Raises `NotFound`, or `ConfirmationMismatch` if `confirmation` is not the subdomain.
    """
    endpoint = get_endpoint(actor=actor, subdomain=subdomain)
    if confirmation.strip().lower() != endpoint.subdomain:
        raise ConfirmationMismatch(f"Type {endpoint.subdomain} to delete this endpoint.")
    with transaction.atomic():
        endpoint_audit.record(
            actor, "endpoint.deleted", endpoint, provider=endpoint.provider, tokens=endpoint.tokens.count()
        )
        endpoint.delete()
        secure_delete_on_commit()


# --- Internals -----------------------------------------------------------------------------------------------------


def _secret(stored: Credential, api_key: str | ProviderKey) -> Secret:
    """Check a key that replaces a stored one of the same kind. Raises `InvalidKey`."""
    known = stored.parameters
    return cloud_tokens.secret_of(
        stored.kind, api_key, tenant=known.get("tenant", ""), client_id=known.get("client_id", "")
    )


def _reseal(
    actor: Actor,
    endpoint: Endpoint,
    key: ProviderKey,
    delivery: Delivery,
    *,
    action: str,
    unchecked: bool,
) -> Endpoint:
    try:
        delivery.check_key(endpoint.owner, providers.get(endpoint.provider), key, unchecked=unchecked)
    except KeyRefused:
        endpoint_audit.record(actor, "key.refused", endpoint, destination=delivery.destination.url)
        raise
    changes = endpoint_audit.changed_destination(endpoint.credential, delivery)
    _seal_key(endpoint.credential, delivery, key)
    with transaction.atomic():
        endpoint.credential.save()
        endpoint_audit.record(actor, action, endpoint, **changes)
        secure_delete_on_commit()
    return endpoint


def _seal_key(credential: Credential, delivery: Delivery, key: ProviderKey) -> None:
    """Seal `key` for a transaction that saves `credential`. Raises as `vault.seal` does."""
    delivery.write_to(credential)
    credential.secret = key
    credential.seal()
