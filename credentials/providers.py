"""The table of providers: where a key is sent, in which header, and how a pasted key is checked."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.conf import settings

from credentials.errors import UnknownProvider
from credentials.presets.clouds import CLOUDS
from credentials.presets.hosts import HOSTS
from credentials.presets.makers import MAKERS
from credentials.presets.tools import TOOLS
from credentials.presets.types import (
    BASE64_PLACEHOLDER,
    BEARER,
    SECRET_PLACEHOLDER,
    STATIC,
    Choice,
    Dialect,
    Example,
    Group,
    KeyCheck,
    Provider,
)

__all__ = [
    "BASE64_PLACEHOLDER",
    "BEARER",
    "DEMO_SLUG",
    "PROVIDERS",
    "SECRET_PLACEHOLDER",
    "STATIC",
    "Choice",
    "Dialect",
    "Example",
    "Group",
    "KeyCheck",
    "Provider",
    "available",
    "demo",
    "fixed_hosts",
    "get",
    "has_fixed_destination",
]

DEMO_SLUG = "demo"
PROVIDERS: dict[str, Provider] = {provider.slug: provider for provider in (*MAKERS, *HOSTS, *CLOUDS, *TOOLS)}


def has_fixed_destination(slug: str) -> bool:
    """True for providers whose destination is not a person's choice."""
    provider = PROVIDERS.get(slug)
    return slug == DEMO_SLUG if provider is None else not provider.needs_destination


def fixed_hosts() -> frozenset[str]:
    """Return the host names of the providers whose destination nobody can change."""
    return frozenset(
        host
        for provider in PROVIDERS.values()
        for url in provider.destination_urls
        if (host := urlsplit(url).hostname) is not None
    )


def demo() -> Provider:
    """The provider that Strake runs on loopback, to try everything without a provider key."""
    return Provider(
        DEMO_SLUG,
        "Demo",
        "No key yet? A demo provider on this machine. Any key works.",
        f"http://127.0.0.1:{settings.STRAKE_DEMO_PORT}",
        KeyCheck("/v1/models"),
        "",
        key_example="any-text-will-do",
        extra_dialects=(Dialect.ANTHROPIC,),
    )


def available() -> list[Provider]:
    """Return the providers to choose from. The demo provider is first, and runs on loopback installations only."""
    return ([demo()] if settings.STRAKE_DEMO_PORT else []) + list(PROVIDERS.values())


def get(slug: str) -> Provider:
    """Return the provider with this slug. Raises `UnknownProvider`."""
    if slug == DEMO_SLUG:
        if settings.STRAKE_DEMO_PORT:
            return demo()
        raise UnknownProvider(
            "The demo provider is offered on a loopback address only, from the first start on. Choose another provider."
        )
    try:
        return PROVIDERS[slug]
    except KeyError:
        raise UnknownProvider(f"There is no provider {slug[:40]!r}.") from None
