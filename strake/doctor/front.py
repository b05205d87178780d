"""The way in: what stands between the public address and this Strake."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import httpx
from django.conf import settings

from accounts.database_errors import reason
from strake.health.findings import BAD, GOOD, WARN, Finding

TIMEOUT_SECONDS = 5.0
# An address for documentation (RFC 5737), which no client has.
FORGED = "192.0.2.1"


def look() -> Iterator[Finding]:
    """Ask for `/readyz` at the public address, with a forged `X-Forwarded-For`, and see who Strake takes us for."""
    url = f"{settings.STRAKE_BASE_URL}/readyz"
    try:
        response = httpx.get(url, headers={"X-Forwarded-For": FORGED}, timeout=TIMEOUT_SECONDS, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        state = BAD if settings.STRAKE_BASE.scheme == "https" else WARN
        yield Finding("Public address", state, f"{url}: {reason(error)}. Does Strake run, and what is in front of it?")
        return
    seen = response.headers.get("x-strake-client", "")
    if not seen:
        yield Finding("Public address", BAD, f"{url} leads to something else (status {response.status_code}).")
        return
    if response.status_code != 200:
        yield Finding("Public address", BAD, f"{url} reaches Strake, which is not ready: {response.text[:100]}")
        return
    yield Finding("Public address", GOOD, f"{url} reaches Strake")
    yield _clients(seen)


def _clients(seen: str) -> Finding:
    hops = settings.STRAKE_TRUSTED_PROXIES
    if seen == FORGED:
        return Finding(
            "Client addresses",
            BAD,
            f"Anybody can forge their address with X-Forwarded-For. STRAKE_TRUSTED_PROXIES={hops} is more than the "
            "proxies in front, or they pass on what clients send.",
        )
    try:
        is_front = ipaddress.ip_address(seen).is_loopback
    except ValueError:
        is_front = True  # a Unix socket
    if is_front and settings.STRAKE_BASE.scheme == "https":
        return Finding(
            "Client addresses",
            WARN,
            f"Strake takes every client for {seen}. STRAKE_TRUSTED_PROXIES={hops} is less than the proxies in front, "
            "or they set no X-Forwarded-For.",
        )
    return Finding("Client addresses", GOOD, f"Strake takes this host for {seen}, behind {hops} proxies")
