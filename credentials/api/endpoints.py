"""Endpoints in the management API."""

from __future__ import annotations

from typing import Annotated

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from ninja import Path, Router, Status

from credentials import providers, services
from credentials.api import schemas
from credentials.api.access import ENDPOINTS, actor_of
from credentials.api.cursors import Cursor, Limit, page
from credentials.api.document import errors
from credentials.api.preconditions import IfMatch, require, set_etag, unchanged_endpoint
from credentials.api.schemas import (
    ChangedEndpoint,
    ConnectedEndpoint,
    EndpointChanges,
    EndpointDetail,
    Endpoints,
    EndpointSettings,
    EndpointSummary,
    EndpointWithTokens,
    ErrorAnswer,
    NewDestination,
    NewEndpoint,
    NewKey,
    OneEndpoint,
    OneSettings,
    PlainToken,
    Providers,
    Token,
)
from credentials.dashboard import snippets
from credentials.models import Endpoint

Subdomain = Annotated[str, Path(pattern=r"^[a-z0-9]{12}$", description="The endpoint's own part of its URL.")]

router = Router()


@router.get(
    "/endpoints", response={200: Endpoints, errors(422): ErrorAnswer}, summary="List endpoints", exclude_unset=True
)
def list_endpoints(request: HttpRequest, limit: Limit | None = None, cursor: Cursor = None) -> Endpoints:
    """Newest first: all of them, or with limit or cursor a page."""
    found = Endpoint.objects.visible_to(actor_of(request)).with_credential()
    if limit is None and cursor is None:
        return Endpoints(endpoints=[_summary(endpoint) for endpoint in found.order_by("-created_at")])
    rows, following = page(found, limit or 100, cursor)
    return Endpoints(endpoints=[_summary(endpoint) for endpoint in rows], next=following)


@router.post(
    "/endpoints",
    response={201: ConnectedEndpoint, errors(422, 502): ErrorAnswer},
    summary="Connect a provider",
    auth=ENDPOINTS,
)
def connect(request: HttpRequest, body: NewEndpoint) -> Status[ConnectedEndpoint]:
    """Checks the key with the provider, seals it, and returns the new endpoint with its first token."""
    actor = actor_of(request)
    connected = services.connect(
        actor=actor,
        owner=actor.user,
        provider=body.provider,
        api_key=body.api_key.get_secret_value(),
        label=body.label,
        destination_url=body.destination_url,
        header_name=body.header_name,
        header_template=body.header_template,
        places=[(place.position, place.name, place.value) for place in body.places],
        kind=body.kind,
        tenant=body.tenant,
        client_id=body.client_id,
        unchecked=body.unchecked,
    )
    token = PlainToken(id=connected.token.pk, plaintext=connected.plaintext)
    return Status(201, ConnectedEndpoint(endpoint=_detail(connected.endpoint), token=token))


@router.get(
    "/endpoints/{subdomain}",
    response={200: EndpointWithTokens, errors(404): ErrorAnswer},
    summary="Show an endpoint and its tokens",
)
def show_endpoint(request: HttpRequest, response: HttpResponse, subdomain: Subdomain) -> EndpointWithTokens:
    """The ETag of the answer is that of the endpoint. Tokens have their own."""
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    tokens = [
        Token(
            id=token.pk,
            label=token.label,
            preview=token.preview,
            created_at=token.created_at,
            last_used_at=token.last_used_at,
            expires_at=token.expires_at,
            revoked_at=token.revoked_at,
        )
        for token in endpoint.tokens.order_by("-created_at", "pk")
    ]
    set_etag(response, endpoint)
    return EndpointWithTokens(endpoint=_detail(endpoint), tokens=tokens)


@router.patch(
    "/endpoints/{subdomain}",
    response={200: ChangedEndpoint, errors(404, 412, 422): ErrorAnswer},
    summary="Rename, pause, resume or limit an endpoint",
    auth=ENDPOINTS,
)
def change_endpoint(
    request: HttpRequest, response: HttpResponse, subdomain: Subdomain, body: EndpointChanges, if_match: IfMatch = None
) -> ChangedEndpoint:
    """Changes what the body names, all of it or nothing. The rest stays."""
    actor, named = actor_of(request), body.model_fields_set
    with unchanged_endpoint(actor, subdomain, if_match):
        if "label" in named:
            services.rename(actor=actor, subdomain=subdomain, label=body.label)
        if "paused" in named:
            change = services.pause if body.paused else services.resume
            change(actor=actor, subdomain=subdomain)
        if "max_streams" in named:
            services.limit_endpoint(actor=actor, subdomain=subdomain, max_streams=body.max_streams)
        endpoint = services.get_endpoint(actor=actor, subdomain=subdomain)
    set_etag(response, endpoint)
    return ChangedEndpoint(endpoint=_detail(endpoint), settings=_settings(endpoint))


@router.delete(
    "/endpoints/{subdomain}",
    response={204: None, errors(404, 412): ErrorAnswer},
    summary="Delete an endpoint",
    auth=ENDPOINTS,
)
def delete_endpoint(request: HttpRequest, subdomain: Subdomain, if_match: IfMatch = None) -> Status[None]:
    """Destroys the endpoint, its sealed key and its tokens. There is no way back."""
    actor = actor_of(request)
    with unchanged_endpoint(actor, subdomain, if_match):
        services.delete_endpoint(actor=actor, subdomain=subdomain, confirmation=subdomain)
    return Status(204, None)


@router.get(
    "/endpoints/{subdomain}/settings",
    response={200: OneSettings, errors(404): ErrorAnswer},
    summary="Show what is set for an endpoint, and its base URLs",
)
def show_settings(request: HttpRequest, response: HttpResponse, subdomain: Subdomain) -> OneSettings:
    """The ETag of the answer is that of the endpoint."""
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    set_etag(response, endpoint)
    return OneSettings(settings=_settings(endpoint))


@router.post(
    "/endpoints/{subdomain}/credential/rotate",
    response={200: OneEndpoint, errors(404, 412, 422, 502): ErrorAnswer},
    summary="Replace the provider key",
    auth=ENDPOINTS,
)
def replace_key(request: HttpRequest, subdomain: Subdomain, body: NewKey, if_match: IfMatch = None) -> OneEndpoint:
    """The URL and the tokens stay."""
    actor = actor_of(request)
    _require_before_check(request, subdomain, if_match)
    endpoint = services.replace_key(
        actor=actor, subdomain=subdomain, api_key=body.api_key.get_secret_value(), unchecked=body.unchecked
    )
    return OneEndpoint(endpoint=_detail(endpoint))


@router.post(
    "/endpoints/{subdomain}/destination",
    response={200: OneEndpoint, errors(404, 412, 422, 502): ErrorAnswer},
    summary="Change the destination",
    auth=ENDPOINTS,
)
def change_destination(
    request: HttpRequest, subdomain: Subdomain, body: NewDestination, if_match: IfMatch = None
) -> OneEndpoint:
    """Needs the key again, since it is sealed for one destination. The URL and the tokens stay."""
    _require_before_check(request, subdomain, if_match)
    endpoint = services.change_destination(
        actor=actor_of(request),
        subdomain=subdomain,
        api_key=body.api_key.get_secret_value(),
        destination_url=body.destination_url,
        header_name=body.header_name,
        header_template=body.header_template,
        places=[(place.position, place.name, place.value) for place in body.places],
        unchecked=body.unchecked,
    )
    return OneEndpoint(endpoint=_detail(endpoint))


@router.get("/providers", response={200: Providers, errors(): ErrorAnswer}, summary="List providers")
def list_providers(request: HttpRequest) -> Providers:
    return Providers(
        providers=[
            schemas.Provider(slug=one.slug, name=one.name, destination_url=one.destination_url)
            for one in providers.available()
        ]
    )


def _require_before_check(request: HttpRequest, subdomain: str, if_match: str | None) -> None:
    """Compare the tag before the provider is asked about the key. No transaction may stay open meanwhile."""
    with transaction.atomic():
        require(services.get_endpoint(actor=actor_of(request), subdomain=subdomain), if_match)


def _summary(endpoint: Endpoint) -> EndpointSummary:
    return EndpointSummary(
        subdomain=endpoint.subdomain,
        label=endpoint.label,
        provider=endpoint.provider,
        url=endpoint.url,
        created_at=endpoint.created_at,
        needs_key_again=endpoint.credential.needs_key_again,
    )


def _settings(endpoint: Endpoint) -> EndpointSettings:
    return EndpointSettings(
        label=endpoint.label,
        paused_at=endpoint.paused_at,
        max_streams=endpoint.max_streams,
        base_urls=snippets.base_urls(endpoint),
    )


def _detail(endpoint: Endpoint) -> EndpointDetail:
    credential = endpoint.credential
    renewal = credential.renewal()
    return EndpointDetail(
        **_summary(endpoint).model_dump(),
        destination_url=credential.destination_url,
        header_name=credential.header_name,
        places=[schemas.Place(position=position, name=name) for position, name, _ in credential.places],
        kind=credential.kind,
        renewal_failure="" if renewal is None else renewal.failure,
    )
