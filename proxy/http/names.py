"""What Strake does with a header, by its name: one look-up in a table for each header of a request or a response.

The table holds names as they were spelled. It learns the spellings that clients and providers use, up to `MAX_KNOWN`.
"""

from __future__ import annotations

from typing import NamedTuple

# Raw pairs, in the order they were received. Those of requests have lower-case names.
Headers = list[tuple[bytes, bytes]]

MAX_KNOWN = 4096
_MAX_NAME_BYTES = 64

# What a name means.
NOT_FOR_UPSTREAM = 1
NOT_FOR_CLIENT = 1 << 1
NOT_FOR_BROWSERS = 1 << 2
CREDENTIAL = 1 << 3  # where SDKs send a key
SUBPROTOCOL = 1 << 4  # of WebSocket, which may hold one too
CONNECTION = 1 << 5
CONTENT_LENGTH = 1 << 6
TRANSFER_ENCODING = 1 << 7
HOST = 1 << 8
EXPECT = 1 << 9
FROM_BROWSER = 1 << 10
HOP_MARKER = 1 << 11
HOLDS_URL = 1 << 12
KEEP_ALIVE = 1 << 13

# RFC 9110 §7.6.1, and obsolete ones that are still in use.
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
# The headers in which SDKs send a key. None of them is forwarded.
CREDENTIAL_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"})
# What browsers say about a request. Hardly any other client sends these.
FROM_BROWSERS = frozenset(
    {
        b"origin",
        b"sec-fetch-dest",
        b"sec-fetch-mode",
        b"sec-fetch-site",
        b"service-worker",
        b"upgrade-insecure-requests",
    }
)
# URLs of the provider: locations, Gemini's upload URLs (https://ai.google.dev/gemini-api/docs/files), and links.
LOCATIONS = frozenset({b"azure-asyncoperation", b"content-location", b"location", b"operation-location"})
UPLOAD_URLS = frozenset({b"x-goog-upload-control-url", b"x-goog-upload-url"})
# About the client, its network and its browser. Cookies would reveal the dashboard session to the provider, and headers
# that override the path or the method would circumvent a token's limits.
_ABOUT_THE_CLIENT = frozenset(
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
_ABOUT_THE_CLIENT_PREFIXES = (b"x-forwarded-", b"x-strake-")
# A provider must not set cookies, policies or alternative routes for Strake's origin.
_NOT_FOR_CLIENT = HOP_BY_HOP | frozenset(
    {
        b"alt-svc",
        b"clear-site-data",
        b"content-security-policy",
        b"content-security-policy-report-only",
        b"cross-origin-resource-policy",
        b"nel",
        b"public-key-pins",
        b"refresh",
        b"report-to",
        b"reporting-endpoints",
        b"service-worker-allowed",
        b"set-cookie",
        b"set-cookie2",
        b"strict-transport-security",
        b"x-content-type-options",
        b"x-strake-error",
        # Commands to caches in front, without a common prefix.
        b"cache-tag",
        b"cdn-cache-control",
        b"cdn-loop",
        b"cloudflare-cdn-cache-control",
        b"edge-cache-tag",
        b"edge-control",
        b"netlify-cdn-cache-control",
        b"vercel-cdn-cache-control",
        b"xkey",
        # Envoy takes a host that sends these out of its pool.
        b"x-envoy-degraded",
        b"x-envoy-immediate-health-check-fail",
    }
)
# Commands to a server in front. nginx, Cherokee and proxies with its dialect: x-accel-. Apache, lighttpd, uWSGI and
# Caddy: x-sendfile, x-sendfile2 and x-sendfile-temporary. LiteSpeed: x-litespeed- and x-lscache. Perlbal and H2O:
# x-reproxy-. Varnish, Squid, Fastly and Akamai: surrogate-.
_FOR_THE_HOP_IN_FRONT = (
    b"x-accel-",
    b"x-sendfile",
    b"x-lighttpd-",
    b"x-litespeed-",
    b"x-lscache",
    b"x-reproxy-",
    b"surrogate-",
    b"akamai-cache-",
)
# The only headers that a browser gets from a provider on the dashboard's origin: what API clients read. New headers
# that act on a whole origin appear with every version of browsers.
_FOR_BROWSERS = frozenset(
    {
        b"accept-ranges",
        b"age",
        b"apim-request-id",
        b"cache-control",
        b"cf-ray",
        b"content-disposition",
        b"content-encoding",
        b"content-language",
        b"content-length",
        b"content-location",
        b"content-range",
        b"content-type",
        b"date",
        b"etag",
        b"expires",
        b"last-modified",
        b"location",
        b"operation-location",
        b"request-id",
        b"retry-after",
        b"retry-after-ms",
        b"server-timing",
        b"vary",
        b"www-authenticate",
        b"x-request-id",
        b"x-should-retry",
    }
)
_FOR_BROWSERS_PREFIXES = (
    b"access-control-",
    b"anthropic-",
    b"mcp-",
    b"openai-",
    b"ratelimit",
    b"x-amzn-",
    b"x-goog-",
    b"x-ms-",
    b"x-ratelimit-",
)
_KINDS = {
    **dict.fromkeys(CREDENTIAL_HEADERS, CREDENTIAL),
    **dict.fromkeys(FROM_BROWSERS, FROM_BROWSER),
    **dict.fromkeys(LOCATIONS | UPLOAD_URLS | {b"link"}, HOLDS_URL),
    b"connection": CONNECTION,
    b"content-length": CONTENT_LENGTH,
    b"expect": EXPECT,
    b"host": HOST,
    b"keep-alive": KEEP_ALIVE,
    b"sec-websocket-protocol": SUBPROTOCOL,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"x-strake-hop": HOP_MARKER,
}


class Name(NamedTuple):
    """The name of a header. `kinds` are bits of the constants above.

    In `folded`, underscores are dashes, because CGI-like servers map both to the same variable.
    """

    lower: bytes
    folded: bytes
    kinds: int


class _Names(dict[bytes, Name]):
    def __missing__(self, spelled: bytes) -> Name:
        name = _classify(spelled)
        if len(self) < MAX_KNOWN and len(spelled) <= _MAX_NAME_BYTES:
            self[spelled] = name
        return name


def _classify(spelled: bytes) -> Name:
    lower = spelled.lower()
    folded = lower.replace(b"_", b"-")
    kinds = _KINDS.get(lower, 0)
    if (
        folded in HOP_BY_HOP
        or folded in _ABOUT_THE_CLIENT
        or folded in CREDENTIAL_HEADERS
        or folded.startswith(_ABOUT_THE_CLIENT_PREFIXES)
        or lower == b"content_length"
    ):
        kinds |= NOT_FOR_UPSTREAM
    if lower in _NOT_FOR_CLIENT or lower.startswith(_FOR_THE_HOP_IN_FRONT):
        kinds |= NOT_FOR_CLIENT
    if lower not in _FOR_BROWSERS and not lower.startswith(_FOR_BROWSERS_PREFIXES):
        kinds |= NOT_FOR_BROWSERS
    return Name(lower, folded, kinds)


NAMES = _Names()
