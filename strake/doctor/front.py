"""The way in: what stands between the public address and this Strake."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator

import httpx
from django.conf import settings

from accounts.database_errors import reason
from credentials import egress_tls
from strake.health.findings import BAD, GOOD, SKIPPED, WARN, Finding, counted

TIMEOUT_SECONDS = 5.0
# An address for documentation (RFC 5737), which no client has.
FORGED = "192.0.2.1"
_UNKNOWN_AUTHORITY = {18, 19, 20, 21}  # X509_V_ERR_… of OpenSSL: self-signed, or the issuer is not known


def look() -> Iterator[Finding]:
    """Ask for `/readyz` at the public address, with a forged `X-Forwarded-For`, and see who Strake takes us for."""
    url = f"{settings.STRAKE_BASE_URL}/readyz"
    try:
        response, is_this_host = _ask(url)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        state = BAD if settings.STRAKE_BASE.scheme == "https" else WARN
        yield Finding("Public address", state, f"{url}: {_why(error)}")
        return
    seen = response.headers.get("x-strake-client", "")
    if not seen:
        yield Finding("Public address", BAD, f"{url} leads to something else (status {response.status_code}).")
        return
    if response.status_code != 200:
        yield Finding("Public address", BAD, f"{url} reaches Strake, which is not ready: {response.text[:100]}")
        return
    yield Finding("Public address", GOOD, f"{url} reaches Strake")
    yield _clients(seen, is_this_host=is_this_host)


def _ask(url: str) -> tuple[httpx.Response, bool]:
    """Return the response, and whether this host itself accepted the connection."""
    headers = {"X-Forwarded-For": FORGED}
    tls = egress_tls.client_context()
    with (
        httpx.Client(verify=tls, timeout=TIMEOUT_SECONDS, trust_env=False) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        connection = response.extensions["network_stream"]
        here, there = (connection.get_extra_info(side)[0] for side in ("client_addr", "server_addr"))
        response.read()
    return response, here == there or ipaddress.ip_address(there).is_loopback


def _why(error: Exception) -> str:
    refused = _certificate_error(error)
    if refused is None:
        return f"{reason(error)}. Does Strake run, and what is in front of it?"
    words = f"its certificate is not accepted: {refused.verify_message}."
    if refused.verify_code in _UNKNOWN_AUTHORITY:
        return (
            f"{words} If a private authority signed it, add that authority's certificate to those of this system, or "
            "name its file in STRAKE_CA_FILE."
        )
    return f"{words} Correct the certificate of the reverse proxy."


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """The reason of the reasons of `error`, if that is a certificate."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _clients(seen: str, *, is_this_host: bool) -> Finding:
    name, hops = "Client addresses", settings.STRAKE_TRUSTED_PROXIES
    if seen == FORGED:
        return Finding(
            name,
            BAD,
            f"Anybody can forge their address with X-Forwarded-For. STRAKE_TRUSTED_PROXIES={hops} is more than the "
            "proxies in front, or they pass on what clients send.",
        )
    if settings.STRAKE_BASE.scheme == "https":
        if is_this_host:  # whose address is the client's, and can be the reverse proxy's as well
            return Finding(
                name,
                SKIPPED,
                "cannot be told here, since the public address leads to this host itself. On another host, run: curl "
                f"-sI {settings.STRAKE_BASE_URL}/readyz. Its x-strake-client must be the address of that host.",
            )
        if _is_loopback(seen):
            return Finding(
                name,
                WARN,
                f"Strake takes every client for {seen}. Every proxy in front must set X-Forwarded-For, and "
                f"STRAKE_TRUSTED_PROXIES must be their number, now {hops}. With a higher one, clients could forge "
                "their address.",
            )
    return Finding(name, GOOD, f"Strake takes this host for {seen}, behind {counted(hops, 'proxy', 'proxies')}")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return True  # a Unix socket
