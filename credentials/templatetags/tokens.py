"""Tokens and endpoints in words."""

from __future__ import annotations

from django import template
from django.conf import settings
from django.utils import timezone

from credentials import providers
from credentials.errors import UnknownProvider
from credentials.models import BearerToken, Endpoint

register = template.Library()


@register.filter
def limits(token: BearerToken) -> list[str]:
    """What a token may do, one sentence part per limit; empty without limits."""
    words = []
    if token.requests_per_minute is not None:
        words.append(f"{token.requests_per_minute:,} requests a minute")
    words += [f"only {path.removeprefix('* ')}" for path in token.allowed_paths]
    words += [f"from {network}" for network in token.allowed_networks]
    words += [f"pages of {origin}" for origin in token.allowed_origins]
    if token.allow_minting:
        words.append("may create credentials")
    return words


@register.filter
def at_a_time(endpoint: Endpoint) -> str:
    """How many requests of its own an endpoint may have in flight."""
    if endpoint.max_streams is None:
        return "No limit of its own"
    # The operator may have lowered the installation's limit since.
    return f"At most {min(endpoint.max_streams, settings.STRAKE_MAX_STREAMS):,}"


@register.filter
def has_expired(token: BearerToken) -> bool:
    return token.expires_at is not None and token.expires_at <= timezone.now()


@register.filter
def provider_name(slug: str) -> str:
    try:
        return providers.get(slug).name
    except UnknownProvider:  # the demo, in an installation that is no longer on loopback
        return slug


@register.filter
def monogram(name: str) -> str:
    """Up to two letters that stand for a provider. Its logo is a trade mark, and not ours to ship."""
    capitals = "".join(letter for letter in name if letter.isupper())
    return (capitals or name)[:2]
