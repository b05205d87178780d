"""The tokens of endpoints in the management API."""

from __future__ import annotations

from typing import Annotated

from django.http import HttpRequest, HttpResponse
from ninja import Body, Path, Router, Status

from credentials import services
from credentials.api.access import TOKENS, actor_of
from credentials.api.cursors import Cursor, Limit, page
from credentials.api.document import errors
from credentials.api.endpoints import Subdomain
from credentials.api.preconditions import IfMatch, set_etag, unchanged_token
from credentials.api.schemas import (
    ErrorAnswer,
    FullToken,
    IssuedToken,
    NewToken,
    OneToken,
    PlainToken,
    RevokedTokens,
    TokenChanges,
    TokenCopy,
    Tokens,
    TokensToRevoke,
)
from credentials.models import BearerToken
from credentials.services import Issued
from credentials.services.common import find_token

TokenId = Annotated[str, Path(pattern=r"^ctok_[0-9A-Za-z]{1,27}$")]

router = Router()


@router.get("", response={200: Tokens, errors(404, 422): ErrorAnswer}, summary="List the tokens of an endpoint")
def list_tokens(request: HttpRequest, subdomain: Subdomain, limit: Limit = 100, cursor: Cursor = None) -> Tokens:
    """With their limits, newest first. Those that have ended are listed too."""
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    rows, following = page(endpoint.tokens.all(), limit, cursor)
    return Tokens(tokens=[_full(token) for token in rows], next=following)


@router.post("", response={201: IssuedToken, errors(404, 422): ErrorAnswer}, summary="Add a token", auth=TOKENS)
def issue_token(
    request: HttpRequest, subdomain: Subdomain, body: Annotated[NewToken, Body(default_factory=NewToken)]
) -> Status[IssuedToken]:
    """The plaintext is in this answer and nowhere else."""
    issued = services.issue_token(
        actor=actor_of(request), subdomain=subdomain, label=body.label, parent_id=body.parent_id, **body.limits()
    )
    return Status(201, _issued(issued))


@router.post(
    "/revoke-all",
    response={200: RevokedTokens, errors(404, 422): ErrorAnswer},
    summary="Revoke several tokens, or all",
    auth=TOKENS,
)
def revoke_tokens(
    request: HttpRequest, subdomain: Subdomain, body: Annotated[TokensToRevoke, Body(default_factory=TokensToRevoke)]
) -> RevokedTokens:
    """All of them or none: if the endpoint lacks one of the ids, the answer is a 404."""
    actor = actor_of(request)
    if body.ids is None:
        ended = services.revoke_all_tokens(actor=actor, subdomain=subdomain)
    else:
        ended = services.revoke_tokens(actor=actor, subdomain=subdomain, token_ids=body.ids)
    return RevokedTokens(revoked=[token.pk for token in ended])


@router.get("/{token_id}", response={200: OneToken, errors(404): ErrorAnswer}, summary="Show a token and its limits")
def show_token(request: HttpRequest, response: HttpResponse, subdomain: Subdomain, token_id: TokenId) -> OneToken:
    token = find_token(actor_of(request), token_id, subdomain)
    set_etag(response, token)
    return OneToken(token=_full(token))


@router.patch(
    "/{token_id}",
    response={200: OneToken, errors(404, 412, 422): ErrorAnswer},
    summary="Change the label or the limits of a token",
    auth=TOKENS,
)
def change_token(
    request: HttpRequest,
    response: HttpResponse,
    subdomain: Subdomain,
    token_id: TokenId,
    body: TokenChanges,
    if_match: IfMatch = None,
) -> OneToken:
    """Changes what the body names. The rest stays, and so does the secret. null removes a limit."""
    actor = actor_of(request)
    label = body.label if "label" in body.model_fields_set else None
    with unchanged_token(actor, subdomain, token_id, if_match):
        token = services.update_token(actor=actor, token_id=token_id, subdomain=subdomain, label=label, **body.limits())
    set_etag(response, token)
    return OneToken(token=_full(token))


@router.delete(
    "/{token_id}", response={204: None, errors(404, 412): ErrorAnswer}, summary="Revoke a token", auth=TOKENS
)
def revoke_token(
    request: HttpRequest, subdomain: Subdomain, token_id: TokenId, if_match: IfMatch = None
) -> Status[None]:
    actor = actor_of(request)
    with unchanged_token(actor, subdomain, token_id, if_match):
        services.revoke_token(actor=actor, subdomain=subdomain, token_id=token_id)
    return Status(204, None)


@router.post(
    "/{token_id}/rotate",
    response={200: IssuedToken, errors(404, 412): ErrorAnswer},
    summary="Rotate a token",
    auth=TOKENS,
)
def rotate_token(
    request: HttpRequest, subdomain: Subdomain, token_id: TokenId, if_match: IfMatch = None
) -> IssuedToken:
    """Atomic: the old secret stops working in the moment the new one starts. Id, label and limits stay."""
    actor = actor_of(request)
    with unchanged_token(actor, subdomain, token_id, if_match):
        return _issued(services.rotate_token(actor=actor, subdomain=subdomain, token_id=token_id))


@router.post(
    "/{token_id}/duplicate",
    response={201: IssuedToken, errors(404, 422): ErrorAnswer},
    summary="Add a token with the limits of another",
    auth=TOKENS,
)
def duplicate_token(
    request: HttpRequest,
    subdomain: Subdomain,
    token_id: TokenId,
    body: Annotated[TokenCopy, Body(default_factory=TokenCopy)],
) -> Status[IssuedToken]:
    issued = services.duplicate_token(actor=actor_of(request), token_id=token_id, subdomain=subdomain, label=body.label)
    return Status(201, _issued(issued))


def _full(token: BearerToken) -> FullToken:
    return FullToken(
        id=token.pk,
        label=token.label,
        preview=token.preview,
        created_at=token.created_at,
        last_used_at=token.last_used_at,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
        parent_id=token.parent_id,
        requests_per_minute=token.requests_per_minute,
        requests_per_day=token.requests_per_day,
        requests_per_month=token.requests_per_month,
        concurrent_requests=token.concurrent_requests,
        allowed_paths=token.allowed_paths,
        allowed_networks=token.allowed_networks,
        allow_minting=token.allow_minting,
        allowed_origins=token.allowed_origins,
    )


def _issued(issued: Issued) -> IssuedToken:
    return IssuedToken(token=PlainToken(id=issued.token.pk, plaintext=issued.plaintext))
