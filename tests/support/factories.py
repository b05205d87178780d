"""Rows for tests, created directly through the models. No provider is asked and no audit event is written."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from accounts import tokens
from accounts.models import User
from credentials import providers
from credentials.models import BEARER_TOKEN_PREFIX, BearerToken, Credential, Endpoint

_numbers = itertools.count(1)

PROVIDER_KEY = "sk-test-0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Connected:
    """An endpoint, its sealed credential, its first token and the only plaintext of that token."""

    endpoint: Endpoint
    credential: Credential
    token: BearerToken
    plaintext: str = field(repr=False)


def make_user(email: str = "", *, is_staff: bool = False) -> User:
    """Create a person, by default with a unique email address."""
    return User.objects.create(email=email or f"person-{next(_numbers)}@example.org", is_staff=is_staff)


def make_endpoint(
    *,
    owner: User,
    key: str = PROVIDER_KEY,
    provider: str = "custom",
    destination_url: str = "",
    header_name: str = "",
    header_template: str = "",
    label: str = "",
    kind: str = Credential.Kind.STATIC,
    parameters: dict[str, str] | None = None,
    **token_fields: Any,
) -> Connected:
    """Create an endpoint with `key` sealed behind it and one token. `token_fields` are the limits of that token."""
    chosen = providers.get(provider)
    if kind != Credential.Kind.STATIC:
        header_name, header_template = "Authorization", providers.BEARER
    endpoint = Endpoint.objects.create(owner=owner, label=label or chosen.name, provider=chosen.slug)
    credential = Credential(
        endpoint=endpoint,
        destination_url=destination_url or chosen.destination_url or "https://api.example.com",
        header_name=header_name or chosen.header_name,
        header_template=header_template or chosen.header_template,
        kind=kind,
        parameters=parameters or {},
    )
    credential.secret = key
    credential.save()
    token, plaintext = make_token(endpoint=endpoint, **token_fields)
    return Connected(endpoint, credential, token, plaintext)


def make_token(*, endpoint: Endpoint, label: str = "First token", **fields: Any) -> tuple[BearerToken, str]:
    """Create another token of an endpoint. Returns it with its plaintext."""
    plaintext = tokens.mint(BEARER_TOKEN_PREFIX)
    token = BearerToken.objects.create(
        endpoint=endpoint,
        label=label,
        digest=tokens.digest(plaintext),
        preview=tokens.preview(plaintext, BEARER_TOKEN_PREFIX),
        **fields,
    )
    return token, plaintext
