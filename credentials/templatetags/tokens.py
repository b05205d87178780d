"""Tokens and endpoints in words."""

from __future__ import annotations

from django import template
from django.conf import settings
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from credentials import providers
from credentials.errors import UnknownProvider
from credentials.models import BearerToken, Endpoint
from credentials.providers import DEMO_SLUG, PROVIDERS

register = template.Library()


@register.filter
def limits(token: BearerToken) -> list[str]:
    """What limits a token, one part of a sentence per limit; empty without limits. The expiry is not among them."""
    words = []
    for value, unit in (
        (token.requests_per_minute, "a minute"),
        (token.requests_per_day, "a day"),
        (token.requests_per_month, "a month"),
    ):
        if value is not None:
            words.append(f"{value:,} request{'' if value == 1 else 's'} {unit}")
    if token.concurrent_requests is not None:
        words.append(f"{token.concurrent_requests:,} concurrent")
    words += [f"only {path.removeprefix('* ')}" for path in token.allowed_paths]
    words += [f"from {network}" for network in token.allowed_networks]
    words += [f"pages of {origin}" for origin in token.allowed_origins]
    if token.allow_minting:
        words.append("may create credentials")
    return words


@register.filter
def concurrent_limit(endpoint: Endpoint) -> str:
    """How many requests an endpoint may have in flight."""
    if endpoint.max_streams is None:
        return f"Server default ({settings.STRAKE_MAX_STREAMS:,})"
    # The operator may have lowered the installation's limit since.
    return f"{min(endpoint.max_streams, settings.STRAKE_MAX_STREAMS):,}"


@register.filter
def has_expired(token: BearerToken) -> bool:
    return token.expires_at is not None and token.expires_at <= timezone.now()


@register.filter
def provider_name(slug: str) -> str:
    try:
        return providers.get(slug).name
    except UnknownProvider:  # the demo, in an installation that is no longer on loopback
        return slug


@register.simple_tag
def provider_mark(slug: str) -> SafeString:
    """The mark of a provider from strake/static/strake/marks.svg. It is decoration: put the name next to it."""
    sprite = static("strake/marks.svg")
    known = slug if slug == DEMO_SLUG or slug in PROVIDERS else "custom"
    return format_html('<svg class="provider-mark" aria-hidden="true"><use href="{}#{}"></use></svg>', sprite, known)


@register.filter
def monogram(name: str) -> str:
    """Up to two letters that stand for a tool."""
    capitals = "".join(letter for letter in name if letter.isupper())
    return (capitals or name)[:2]
