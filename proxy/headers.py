"""Which headers cross the proxy, in both directions."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from credentials.sealing import wipe
from proxy.presented import CREDENTIAL_HEADERS

Headers = list[tuple[bytes, bytes]]

# RFC 9110 §7.6.1, and the older ones still seen.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Of the caller, its network and its browser: none of the provider's business. Cookies would hand over the dashboard
# session; what rewrites a path or a method would get around a token's limits.
_OF_THE_CALLER = frozenset(
    {
        b"cf-connecting-ip",
        b"cookie",
        b"expect",
        b"forwarded",
        b"host",
        b"true-client-ip",
        b"via",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-forwarded",
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-forwarded-for",
        b"x-original-url",
        b"x-real-ip",
        b"x-rewrite-url",
    }
)
_NEVER_UP = HOP_BY_HOP | _OF_THE_CALLER | CREDENTIAL_HEADERS
# A provider must not set cookies, policies or alternative routes for Strake's own origin, nor have a server in front of
# it (nginx, Apache, lighttpd) answer with a file or an internal page of its own.
_NEVER_DOWN = HOP_BY_HOP | frozenset(
    {
        b"alt-svc",
        b"clear-site-data",
        b"content-security-policy-report-only",
        b"nel",
        b"public-key-pins",
        b"refresh",
        b"report-to",
        b"reporting-endpoints",
        b"service-worker-allowed",
        b"set-cookie",
        b"set-cookie2",
        b"strict-transport-security",
        b"x-accel-redirect",
        b"x-lighttpd-send-file",
        b"x-sendfile",
        b"x-strake-error",
    }
)
SANDBOX = b"sandbox; default-src 'none'"


def for_upstream(headers: Iterable[tuple[bytes, bytes]], host: bytes, key_header: bytes, *, token: bytes) -> Headers:
    """The request headers for the provider: Host first, then what may pass, in its order.

    `key_header` names the header for the real key, which `Upstream.send` adds last; here nothing of that name passes.
    `token` is the caller's, which passes in no header at all. Names are lower case, as ASGI servers give them.
    Underscores count as dashes, since some servers make both the same variable.
    """
    injected = key_header.lower().replace(b"_", b"-")
    named = nominated(headers)
    kept = [
        pair
        for pair in headers
        if (name := pair[0] if b"_" not in pair[0] else pair[0].replace(b"_", b"-")) not in _NEVER_UP
        and name != injected
        and pair[0] != b"content_length"
        and pair[0] not in named
        and token not in pair[1]
        and not name.startswith(b"x-forwarded-")
    ]
    return [(b"host", host), *kept]


def for_client(headers: Iterable[tuple[bytes, bytes]], secret: bytearray, *, sandbox: bool) -> Headers:
    """The response headers for the client: what may pass, in its order, and no header with the key in it.

    `sandbox` is for answers on the dashboard's own origin, where a provider's page must not run.
    """
    lowered = [(name.lower(), value) for name, value in headers]
    named = nominated(lowered)
    chunked = any(name == b"transfer-encoding" for name, _ in lowered)
    folded = secret.lower()
    kept = [
        pair
        for pair in lowered
        if (name := pair[0]) not in _NEVER_DOWN
        and name not in named
        and secret not in pair[1]
        and folded not in name
        and not (b"%" in pair[1] and secret in unquote_to_bytes(pair[1]))  # as a redirect would carry it
        and name != b"x-content-type-options"
        and not (chunked and name == b"content-length")
        and not (sandbox and name == b"content-security-policy")
    ]
    wipe(folded)
    kept.append((b"x-content-type-options", b"nosniff"))
    if sandbox:
        kept.append((b"content-security-policy", SANDBOX))
    return kept


def add_unless_given(headers: Headers, more: Headers) -> None:
    """Add headers of Strake's own, none of them where the provider has sent one of that name."""
    given = {name for name, _ in headers}
    if given.isdisjoint(name for name, _ in more):
        headers.extend(more)


def nominated(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The names that Connection headers declare to be for this hop only.

    Content-Length is never one of them: a body sent on without its length would be the next request to its reader.
    """
    names = [value for name, value in headers if name == b"connection"]
    if not names:
        return frozenset()
    return frozenset(option.strip().lower() for value in names for option in value.split(b",")) - {b"content-length"}
