"""The operations of the management API, /api/v1. They call the same services as the pages do."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Annotated

from django.http import HttpRequest
from django.utils import timezone
from ninja import Body, NinjaAPI, Path, Status
from ninja.operation import Operation
from ninja.security import HttpBearer

from accounts import access_tokens, audit
from accounts.actors import Person
from accounts.errors import SessionStoreUnavailable
from accounts.sign_in import throttle
from credentials import services
from credentials.api import audit as audit_routes
from credentials.api import device as device_routes
from credentials.api import errors as api_errors
from credentials.api import revocation, schemas
from credentials.api.schemas import (
    ConnectedEndpoint,
    EndpointDetail,
    Endpoints,
    EndpointSummary,
    EndpointWithTokens,
    ErrorAnswer,
    IssuedToken,
    Me,
    NewEndpoint,
    NewKey,
    NewToken,
    OneEndpoint,
    PlainToken,
    Token,
)
from credentials.dashboard import snippets
from credentials.models import Endpoint
from credentials.services import Issued

ERRORS = frozenset({400, 401, 403, 404, 411, 413, 422, 429, 502, 503})
Subdomain = Annotated[str, Path(pattern=r"^[a-z0-9]{12}$", description="The endpoint's own part of its URL.")]
TokenId = Annotated[str, Path(pattern=r"^ctok_[0-9A-Za-z]{1,27}$")]


class AccessTokenAuth(HttpBearer):
    """`Authorization: Bearer pat_…`. People create access tokens on a page or with `manage.py create_access_token`."""

    def authenticate(self, request: HttpRequest, token: str) -> Person | None:
        found = access_tokens.authenticate(token, address=audit.request_ip(request))
        if found is None:
            # Only invalid tokens count. Others from the same address cannot lock out a valid one.
            with suppress(SessionStoreUnavailable):
                verdict = throttle.count_address(
                    throttle.BAD_TOKENS_PER_ADDRESS, throttle.BAD_TOKENS_PER_SITE, audit.request_ip(request)
                )
                if verdict.exceeded:
                    raise api_errors.TooManyFailures(verdict.retry_after)
            return None
        return audit.token_actor(request, found)


class ManagementAPI(NinjaAPI):
    """A NinjaAPI with operation ids that do not change with the name of this module. Generated clients use them."""

    def get_openapi_operation_id(self, operation: Operation) -> str:
        return f"credentials_api_{operation.view_func.__name__}"


api = ManagementAPI(
    title="Strake management API",
    version="1",
    description="Endpoints and their tokens. Every call acts for the owner of the access token.",
    auth=AccessTokenAuth(),
    docs_url=None,
    urls_namespace="api",
)
api_errors.install(api)
api.add_router("/audit", audit_routes.router)
api.add_router("/tokens", revocation.router)
api.add_router("/device", device_routes.router)


def _actor(request: HttpRequest) -> Person:
    actor = request.auth  # type: ignore[attr-defined]
    if not isinstance(actor, Person):
        raise TypeError("The API acts for a person only.")
    return actor


@api.get("/me", response={200: Me, ERRORS: ErrorAnswer}, summary="Whom the access token acts for")
def me(request: HttpRequest) -> Me:
    return Me(user=schemas.User(email=_actor(request).user.email))


@api.get("/endpoints", response={200: Endpoints, ERRORS: ErrorAnswer}, summary="List endpoints")
def list_endpoints(request: HttpRequest) -> Endpoints:
    found = Endpoint.objects.visible_to(_actor(request)).order_by("-created_at").with_credential()
    return Endpoints(endpoints=[_summary(endpoint) for endpoint in found])


@api.post("/endpoints", response={201: ConnectedEndpoint, ERRORS: ErrorAnswer}, summary="Connect a provider")
def connect(request: HttpRequest, body: NewEndpoint) -> Status[ConnectedEndpoint]:
    """Checks the key with the provider, seals it, and returns the new endpoint with its first token."""
    actor = _actor(request)
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


@api.get(
    "/endpoints/{subdomain}",
    response={200: EndpointWithTokens, ERRORS: ErrorAnswer},
    summary="Show an endpoint and its tokens",
)
def show_endpoint(request: HttpRequest, subdomain: Subdomain) -> EndpointWithTokens:
    endpoint = services.get_endpoint(actor=_actor(request), subdomain=subdomain)
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
    return EndpointWithTokens(endpoint=_detail(endpoint), tokens=tokens)


@api.delete("/endpoints/{subdomain}", response={204: None, ERRORS: ErrorAnswer}, summary="Delete an endpoint")
def delete_endpoint(request: HttpRequest, subdomain: Subdomain) -> Status[None]:
    """Destroys the endpoint, its sealed key and its tokens. There is no way back."""
    services.delete_endpoint(actor=_actor(request), subdomain=subdomain, confirmation=subdomain)
    return Status(204, None)


@api.post("/endpoints/{subdomain}/tokens", response={201: IssuedToken, ERRORS: ErrorAnswer}, summary="Add a token")
def issue_token(
    request: HttpRequest, subdomain: Subdomain, body: Annotated[NewToken, Body(default_factory=NewToken)]
) -> Status[IssuedToken]:
    """The plaintext is in this answer and nowhere else."""
    expires_at = None if body.expires_in is None else timezone.now() + timedelta(seconds=body.expires_in)
    issued = services.issue_token(
        actor=_actor(request),
        subdomain=subdomain,
        label=body.label,
        expires_at=expires_at,
        requests_per_minute=body.requests_per_minute,
        allowed_paths=body.allowed_paths,
        allowed_networks=body.allowed_networks,
        allow_minting=body.allow_minting,
        allowed_origins=body.allowed_origins,
    )
    return Status(201, _issued(issued))


@api.post(
    "/endpoints/{subdomain}/tokens/{token_id}/rotate",
    response={200: IssuedToken, ERRORS: ErrorAnswer},
    summary="Rotate a token",
)
def rotate_token(request: HttpRequest, subdomain: Subdomain, token_id: TokenId) -> IssuedToken:
    """Atomic: the old secret stops working in the moment the new one starts. Id, label and limits stay."""
    return _issued(services.rotate_token(actor=_actor(request), subdomain=subdomain, token_id=token_id))


@api.delete(
    "/endpoints/{subdomain}/tokens/{token_id}",
    response={204: None, ERRORS: ErrorAnswer},
    summary="Revoke a token",
)
def revoke_token(request: HttpRequest, subdomain: Subdomain, token_id: TokenId) -> Status[None]:
    services.revoke_token(actor=_actor(request), subdomain=subdomain, token_id=token_id)
    return Status(204, None)


@api.post(
    "/endpoints/{subdomain}/credential/rotate",
    response={200: OneEndpoint, ERRORS: ErrorAnswer},
    summary="Replace the provider key",
)
def replace_key(request: HttpRequest, subdomain: Subdomain, body: NewKey) -> OneEndpoint:
    """The URL and the tokens stay."""
    endpoint = services.replace_key(
        actor=_actor(request), subdomain=subdomain, api_key=body.api_key.get_secret_value(), unchecked=body.unchecked
    )
    return OneEndpoint(endpoint=_detail(endpoint))


def _summary(endpoint: Endpoint) -> EndpointSummary:
    return EndpointSummary(
        subdomain=endpoint.subdomain,
        label=endpoint.label,
        provider=endpoint.provider,
        url=endpoint.url,
        created_at=endpoint.created_at,
        needs_key_again=endpoint.credential.needs_key_again,
    )


def _detail(endpoint: Endpoint) -> EndpointDetail:
    credential = endpoint.credential
    renewal = credential.renewal()
    return EndpointDetail(
        **_summary(endpoint).model_dump(),
        base_urls=snippets.base_urls(endpoint),
        destination_url=credential.destination_url,
        header_name=credential.header_name,
        places=[schemas.Place(position=position, name=name) for position, name, _ in credential.places],
        kind=credential.kind,
        renewal_failure="" if renewal is None else renewal.failure,
    )


def _issued(issued: Issued) -> IssuedToken:
    return IssuedToken(token=PlainToken(id=issued.token.pk, plaintext=issued.plaintext))
