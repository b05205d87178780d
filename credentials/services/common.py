"""What the operations on endpoints and on tokens share: finding an object, room for another, a new token."""

from __future__ import annotations

from accounts import plain_text, quotas, tokens
from accounts.actors import Actor
from accounts.errors import NotFound
from accounts.models import User
from credentials.models import BEARER_TOKEN_PREFIX, BearerToken, Endpoint
from credentials.token_limits import Limits

MAX_LABEL_LENGTH = 100


def get_endpoint(*, actor: Actor, subdomain: str) -> Endpoint:
    """One endpoint of the actor. Raises `NotFound` if it does not exist or belongs to somebody else."""
    found = Endpoint.objects.visible_to(actor).select_related("owner", "credential")
    endpoint = found.filter(subdomain=subdomain).first()
    if endpoint is None:
        raise NotFound("There is no such endpoint.")
    return endpoint


def find_token(actor: Actor, token_id: str, subdomain: str | None) -> BearerToken:
    """One token of the actor. Raises `NotFound` if it does not exist, or is of another person or endpoint."""
    found = BearerToken.objects.visible_to(actor).select_related("endpoint__owner").filter(pk=token_id)
    if subdomain is not None:
        found = found.filter(endpoint__subdomain=subdomain)
    token = found.first()
    if token is None:
        raise NotFound("There is no such token.")
    return token


def require_room(actor: Actor, owner: User, *, endpoint: bool = False) -> None:
    """Raise `QuotaReached` unless the owner may have another token, and with `endpoint` another endpoint."""
    if endpoint:
        own = Endpoint.objects.filter(owner=owner)
        quotas.require_room(actor, owner, own, setting="STRAKE_MAX_ENDPOINTS", kind="endpoints", remedy="Delete one")
    live = BearerToken.objects.live().filter(endpoint__owner=owner)
    quotas.require_room(actor, owner, live, setting="STRAKE_MAX_TOKENS", kind="tokens that work", remedy="Revoke one")


def create_token(
    endpoint: Endpoint, label: str, limits: Limits, parent: BearerToken | None = None
) -> tuple[BearerToken, str]:
    """Insert a token. Returns it with its only plaintext."""
    plaintext = tokens.mint(BEARER_TOKEN_PREFIX)
    token = BearerToken.objects.create(
        endpoint=endpoint,
        parent=parent,
        label=label,
        digest=tokens.digest(plaintext),
        preview=tokens.preview(plaintext, BEARER_TOKEN_PREFIX),
        **limits.columns(),
    )
    token.refresh_from_db(fields=["created_at"])
    return token, plaintext


def clean_label(text: str) -> str:
    """A label as it is stored. It may be empty, and then the caller chooses one."""
    return plain_text.clean_label(text)[:MAX_LABEL_LENGTH]
