"""Accepted paths stay below their base path after the normalisation that other servers do.

The normalisers are those of URL parsers, proxies and application servers, alone and two in a row.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.access import policy
from proxy.errors import BadPath, PathNotAllowed
from proxy.http.target import build_target, check_path
from tests.support.raw import ask, exchange, get
from tests.support.routes import route
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream

BASE = "/base/v1"


@pytest.mark.parametrize(
    "path",
    [
        # Encoded three times or more.
        "/%25252e%25252e/admin",
        "/%2525252e%2525252e/admin",
        "/%" + "25" * 20000 + "2e",
        # Encoded delimiters, which end a segment once decoded.
        "/..%3fx",
        "/..%3Fx=/admin",
        "/..%23x",
        "/..%253fx",
        "/..%3bx/admin",
        # Overlong UTF-8 encodings of dots and slashes.
        "/%c0%ae%c0%ae/admin",
        "/..%c1%9cadmin",
        "/%e0%80%ae%e0%80%ae/admin",
        "/..%e0%80%afadmin",
        "/%f0%80%80%ae%f0%80%80%ae/admin",
        "/..%25c0%25afadmin",
        # Trailing dots and spaces, which Windows servers remove.
        "/..%20.%20/admin",
        "/..%20/admin",
    ],
    ids=lambda path: path[:30],
)
def test_hidden_dot_segments_are_refused(path: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    response = ask(strake.address, get(endpoint, path))
    assert (response.status, response.all("x-strake-error")) == (400, [b"bad_path"])
    assert not upstream.exchanges


@pytest.mark.parametrize(
    "target",
    [
        "/%70/SUBDOMAIN/x",
        "/p%2fSUBDOMAIN/x",
        "/p/SUBDOMAIN%2fx",
        "/p/SUBDOMAIN%2f..%2fx",
        "//p/SUBDOMAIN/x",
        "/./p/SUBDOMAIN/x",
        "/x/../p/SUBDOMAIN/x",
        "/P/SUBDOMAIN/x",
        "/p//SUBDOMAIN/x",
        "/p/SUBDOMAIN;x/x",
        "/p/SUBDOMAIN.x/x",
        "/p/SUBDOMAIN%00/x",
        "/p/SUBDOMAINx/x",
        "/p/../p/SUBDOMAIN/x",
    ],
)
def test_endpoint_has_a_single_url(target: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    request = get(endpoint, "", "Connection: close").replace(
        endpoint.path.encode(), target.replace("SUBDOMAIN", endpoint.subdomain).encode(), 1
    )
    assert ask(strake.address, request).status in {400, 401, 410, 421}
    assert not upstream.exchanges


# --- Tokens with allowed paths -------------------------------------------------------------------------------------

ALLOWED = ["GET /v1/models/*", "POST /v1/chat/completions", "* /v1/files/**"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/gpt-4o", 200),
        ("GET", "/v1/models/gpt%2D4o", 200),
        ("GET", "/v1/models/gpt-4o?x=/v1/other", 200),
        ("GET", "/v1/files/a/b/c", 200),
        ("DELETE", "/v1/files/a", 200),
        ("POST", "/v1/chat/completions", 200),
        ("POST", "/v1/models/gpt-4o", 403),
        ("HEAD", "/v1/models/gpt-4o", 403),
        ("GET", "/v1/models/gpt-4o/permissions", 403),
        ("GET", "/v1/models", 403),
        ("GET", "/v1/chat/completions", 403),
        ("POST", "/v1/chat/completions/", 403),
        ("POST", "/v1/chat/completions%20", 403),
        ("POST", "/v1/chat/completions;x", 403),
        ("POST", "/v1/ch%61t/completions", 403),
        ("POST", "/V1/chat/completions", 403),
        ("GET", "/x/v1/models/gpt-4o", 403),
        ("GET", "/v1/models/a%2Fb", 403),
        ("GET", "/v1/models/a%2fb", 403),
        ("GET", "/v1/models%2Fgpt-4o", 403),
        ("GET", "/v1/models/a%252Fb", 403),
        ("GET", "/v1/models/a%25%32%46b", 403),
        ("GET", "/v1/models/a%25%32fb", 403),
        ("GET", "/v1/models/a%25252fb", 403),
        ("GET", "/v1/models/a%2525252fb", 400),
        ("GET", "/v1/files/a%2Fb", 403),
        ("GET", "/v1/models/a%5Cb", 400),
        ("GET", "/v1/models/a%255Cb", 400),
        ("GET", "/v1/models/a%25%35%43b", 400),
        ("GET", "/v1/models/../chat/completions", 400),
        ("GET", "/v1/files/%2e%2e/organization", 400),
        ("GET", "/v1/files/..%2forganization", 400),
        ("GET", "/v1/files/..;/organization", 400),
        ("GET", "/v1/files//organization", 400),
    ],
)
def test_token_reaches_only_its_allowed_paths(
    method: str, path: str, status: int, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    limited = strake.issue(endpoint, allowed_paths=ALLOWED)
    response = exchange(strake.address, get(limited, path, "Connection: close", method=method))
    assert response.status == status
    assert len(upstream.exchanges) == (status == 200)


@pytest.mark.parametrize(
    "line",
    [
        "X-HTTP-Method-Override: DELETE",
        "X-HTTP-Method: DELETE",
        "X-Method-Override: DELETE",
        "X_HTTP_Method_Override: DELETE",
        "X-Original-URL: /v1/organization",
        "X-Rewrite-URL: /v1/organization",
        "X-Forwarded-Path: /v1/organization",
        "X-Forwarded-Prefix: /v1/organization",
    ],
)
def test_override_headers_are_not_forwarded(line: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """Google's servers take the method from such a header, and some application servers the path."""
    limited = strake.issue(endpoint, allowed_paths=ALLOWED)
    assert ask(strake.address, get(limited, "/v1/models/gpt-4o", line)).status == 200
    assert line.partition(": ")[2].encode() not in upstream.last.raw_head


# --- Any path ------------------------------------------------------------------------------------------------------


def decoded(path: bytes) -> bytes:
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), path)


def rfc3986(path: bytes) -> bytes:
    """Remove dot segments (RFC 3986 §5.2.4). `..` at the root has no effect."""
    output: list[bytes] = []
    segments = path.split(b"/")[1:]
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        if segment == b"..":
            if output:
                output.pop()
        elif segment != b".":
            output.append(segment)
            continue
        if last:
            output.append(b"")
    return b"/" + b"/".join(output)


def unreserved(path: bytes) -> bytes:
    """Decode unreserved characters (RFC 3986 §6.2.2.2), then remove dot segments."""
    return rfc3986(re.sub(rb"(?i)%(2e|2d|5f|7e|3\d|[46][1-9a-f]|[57][0-9a])", lambda m: decoded(m[0]), path))


def whatwg(path: bytes) -> bytes:
    """The path state of the URL standard: drop tabs and line breaks, treat a backslash as a slash."""
    path = re.sub(rb"[\t\r\n]", b"", path).replace(b"\\", b"/")
    path = re.split(rb"[?#]", path)[0]
    segments = []
    for segment in path.split(b"/"):
        plain = segment.lower().replace(b"%2e", b".")
        segments.append(plain if plain in {b".", b".."} else segment)
    return rfc3986(b"/".join(segments))


def merging(path: bytes) -> bytes:
    """Like nginx: decode once, merge slashes, remove dot segments."""
    return rfc3986(re.sub(rb"/+", b"/", decoded(path)))


def twice(path: bytes) -> bytes:
    """Two servers in a row that both decode."""
    return merging(merging(path))


def thrice_as_a_url(path: bytes) -> bytes:
    """Two servers that decode, followed by a URL parser."""
    return whatwg(decoded(decoded(path)))


def servlet(path: bytes) -> bytes:
    """Like servlet containers: remove parameters, decode, remove dot segments."""
    return rfc3986(re.sub(rb"/+", b"/", decoded(re.sub(rb";[^/]*", b"", path))))


def servlet_behind_a_decoder(path: bytes) -> bytes:
    return servlet(decoded(path))


def windows(path: bytes) -> bytes:
    """Decode, treat backslashes as slashes, remove trailing spaces of segments."""
    segments = decoded(path).replace(b"\\", b"/").split(b"/")
    return rfc3986(b"/".join(b".." if s.strip(b" ") == b".." else s.rstrip(b" ") for s in segments))


def lenient_utf8(path: bytes) -> bytes:
    """Decode overlong UTF-8."""
    plain = decoded(path)
    for pattern in (
        rb"([\xc0\xc1])([\x80-\xbf])",
        rb"\xe0([\x80\x81])([\x80-\xbf])",
        rb"\xf0\x80([\x80\x81])([\x80-\xbf])",
    ):
        plain = re.sub(pattern, lambda m: bytes([(m[1][0] & 1) << 6 | m[2][0] & 0x3F]), plain)
    return rfc3986(plain.replace(b"\\", b"/"))


NORMALISERS: list[Callable[[bytes], bytes]] = [
    rfc3986,
    unreserved,
    whatwg,
    merging,
    twice,
    thrice_as_a_url,
    servlet,
    servlet_behind_a_decoder,
    windows,
    lenient_utf8,
]

PIECES = """. .. / // %2e %2f %5c \\ ; %3b %3f %25 %252e %252f %2532%65 % %c0%ae %20 ..; ..%2f 2e 2f a %2
    %2E %2F %5C %23 %255c %25%32%65 %25%32%66 %c0%af %e0%80%ae %e0%80%af %00 %09 %2e%2e 25 models x: @ %41 %C3%A9 ?
    #""".split()  # noqa: SIM905  (one piece per line would be a page)
RAW_PATHS = st.lists(st.sampled_from([*PIECES, "\t", " "]), min_size=3, max_size=10).map(
    lambda pieces: ("/" + "".join(pieces)).encode()
)


def accepted(path: bytes) -> bool:
    try:
        check_path(path)
    except BadPath:
        return False
    return True


MODELS = route(provider="custom", destination_url="https://api.example.com", allowed_paths=["GET /v1/models/*"])


def is_allowed(path: bytes) -> bool:
    try:
        policy.check(MODELS, method="GET", path=path, address=None)
    except PathNotAllowed:
        return False
    return True


def assert_stays_below_base(path: bytes) -> None:
    """Assert that an accepted path stays below its base, and an allowed one within its pattern."""
    if not accepted(path):
        return
    target = build_target(BASE.encode(), path, b"")
    assert target == BASE.encode() + path
    assert build_target(b"", path, b"a=%2f") == path + b"?a=%2f"
    for normalise in NORMALISERS:
        assert normalise(target).startswith(BASE.encode() + b"/"), (normalise.__name__, path)
    path = b"/v1/models" + path
    if is_allowed(path):
        for normalise in NORMALISERS:
            assert re.fullmatch(rb"/v1/models/[^/\\]*", normalise(path)), (normalise.__name__, path)


def test_short_paths_stay_below_their_base() -> None:
    """All paths of one or two pieces, and all of three of the common ones."""
    count = 0
    pairs = itertools.product(["", *PIECES], PIECES)
    for pieces in itertools.chain(pairs, itertools.product(PIECES[:24], repeat=3)):
        path = ("/" + "".join(pieces)).encode()
        assert_stays_below_base(path)
        count += accepted(path)
    assert count > 1000


@settings(max_examples=500)
@given(path=RAW_PATHS)
def test_longer_paths_stay_below_their_base(path: bytes) -> None:
    assert_stays_below_base(path)


def test_every_normaliser_detects_an_escape() -> None:
    """A normaliser that no path escapes would test nothing."""
    escapes: list[tuple[Callable[[bytes], bytes], bytes]] = [
        (rfc3986, b"/.."),
        (unreserved, b"/%2e%2E"),
        (whatwg, b"/.%2e\\x"),
        (merging, b"/%2e%2e%2f"),
        (twice, b"/%252e%252e"),
        (thrice_as_a_url, b"/%25252e%25252e"),
        (servlet, b"/..;x"),
        (servlet_behind_a_decoder, b"/..%3bx"),
        (windows, b"/..%20%5cx"),
        (lenient_utf8, b"/%c0%ae%e0%80%ae"),
    ]
    checked = set()
    for normalise, path in escapes:
        assert not normalise(BASE.encode() + path).startswith(BASE.encode() + b"/"), normalise.__name__
        assert not accepted(path)
        checked.add(normalise)
    assert checked == set(NORMALISERS)
