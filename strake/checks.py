"""System checks of the domains. They run at startup and with `manage.py check`.

strake.E001   STRAKE_PROXY_DOMAIN and the host of STRAKE_BASE_URL: one is a subdomain of the other, or both are the same
strake.W001   they belong to the same site
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from accounts.addresses import parse_address

HINT = (
    "Use a domain of another site, which is registered separately, like strake-endpoints.net for strake.example.org. "
    "See docs/operations.md."
)


@register("strake")
def check_domains(app_configs: Sequence[Any] | None = None, **_: Any) -> list[CheckMessage]:
    """A host can set cookies for the domains above it, and so fill or replace those of the hosts below them.

    Browsers take a name without a dot, like "localhost", for a public suffix, for which nobody can set cookies.
    """
    first, second = sorted(_domains(), key=len) or ("", "")
    if not first or (first != second and ("." not in first or not second.endswith(f".{first}"))):
        return []
    return [
        Error(
            f"STRAKE_PROXY_DOMAIN {settings.STRAKE_PROXY_DOMAIN} and the host of STRAKE_BASE_URL overlap, so an "
            "endpoint's host could set cookies for the dashboard.",
            hint=HINT,
            id="strake.E001",
        )
    ]


@register
def check_sites(app_configs: Sequence[Any] | None = None, **_: Any) -> list[CheckMessage]:
    """Browsers send cookies with SameSite=Lax between the hosts of one site (https://publicsuffix.org)."""
    if not (domains := _domains()) or check_domains():
        return []
    from publicsuffixlist import PublicSuffixList  # it takes megabytes, and most installations have no such domain

    suffixes = PublicSuffixList()
    sites = {suffixes.privatesuffix(domain) for domain in domains}
    if len(sites) > 1 or None in sites:
        return []
    return [
        Warning(
            f"STRAKE_PROXY_DOMAIN {settings.STRAKE_PROXY_DOMAIN} belongs to the same site as STRAKE_BASE_URL, so "
            "browsers protect the dashboard less from what an endpoint's host sends.",
            hint=HINT,
            id="strake.W001",
        )
    ]


def _domains() -> tuple[str, str] | tuple[()]:
    """The domain of endpoints and the host of pages, or nothing if there are no two domains."""
    host = settings.STRAKE_BASE.hostname or ""
    if not settings.STRAKE_PROXY_DOMAIN or parse_address(host) is not None:
        return ()
    return settings.STRAKE_PROXY_DOMAIN, host.strip(".")
