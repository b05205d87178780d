"""No path leaves the destination's base path. Every other path arrives byte for byte."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import BadPath
from proxy.http.target import build_target, check_path, has_encoded_slash
from tests.support.raw import ask, get
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream

ESCAPING = set(
    """
/.  /..  /./x  /../x  /v1/.  /v1/..  /v1/./x  /v1/../x  /v1/../../admin  /...  /..../x
/%2e  /%2e%2e  /%2E%2E/x  /.%2e/x  /%2e./x  /v1/%2e%2e/x  /v1/%2e/x  /v1/x/%2e%2E
/%252e%252e/x  /%252e./x  /.%252e/x  /%25%32%65%25%32%65/x  /%2%65/x
/..;/x  /..;a=b/x  /.;/x  /%2e%2e;/x  /..%3b/x  /..%3ba/x
/..%2fx  /..%2Fx  /%2e%2e%2fx  /x%2f..%2fy  /x%2f%2e%2e%2fy  /x%2f..  /..%252fx  /x%252f..%252fy  /%2f..  /a%2f.%2fb
/..%5cx  /x%5cy  /%5c  /%5C..%5C  /x%255cy  /%5c%5cevil.example  /\\  /x\\y  /..\\x
//  //x  /x//y  /x//  //evil.example/x  ///  /v1//../x
/%00  /x%00y  /x%0ay  /x%0dy  /x%0d%0aHost:evil  /x%09y  /x%7f  /x%1f  /x%2500
/%c0%ae%c0%ae/x  /%c0%afx  /%c1%9cx  /%25c0%25ae/x
/..%20/x  /.%20/x  /%20../%20..%20  /..%2e  /%20.
/%  /%2  /%zz  /%u002e  /x%
/{x}  /`  /"  /<x>  /x#y
""".split()  # noqa: SIM905  (one path per line would be pages)
)

FORWARDED = set(
    """
/  /v1  /v1/  /v1/models  /v1/chat/completions  /a.b  /.well-known/x  /..a  /a..  /a...b  /v1.2/x  /...a
/v1/models/openai%2Fgpt-4o  /v1/models/openai%2fgpt-4o  /models/a%252Fb  /https%3A%2F%2Fexample.com%2Fx
/v1beta/models/gemini-2.5-pro:generateContent  /v1/files/x;type=a  /v1/x;a=b/c  /a%20b  /%20  /caf%C3%A9  /%E2%82%AC
/%41%42  /~user/$x!'()*+,=@&  /a%3Fb  /a%23b  /%25  /100%25  /a%26b=c  /v1/threads/thread_abc/runs  /%F0%9F%98%80
/v1/models/claude-opus-4[1m]  /[x]  /a|b  /a^b/c
""".split()  # noqa: SIM905
)


def test_corpora_are_large_enough() -> None:
    assert len(ESCAPING) >= 80
    assert len(FORWARDED) >= 30


@pytest.mark.parametrize("path", sorted(ESCAPING))
def test_escaping_path_is_refused(path: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    response = ask(strake.address, get(endpoint, path))
    assert response.status == 400
    assert response.all("x-strake-error") in ([b"bad_path"], [b"bad_request"])
    assert not upstream.exchanges


@pytest.mark.parametrize("path", sorted(FORWARDED))
@pytest.mark.parametrize("base", ["", "/base/api"])
def test_path_arrives_byte_for_byte(
    path: str, base: str, strake: Strake, two_endpoints: dict[str, Endpoint], upstream: Upstream
) -> None:
    response = ask(strake.address, get(two_endpoints[base], path))
    assert response.status == 200
    assert upstream.last.target == f"{base}{path}".encode()


@pytest.fixture(scope="module")
def two_endpoints(strake: Strake, _upstream: Upstream) -> dict[str, Endpoint]:
    return {base: strake.connect(_upstream.url + base) for base in ("", "/base/api", "/mcp")}


@pytest.mark.parametrize(
    "query",
    [
        "a=1&b=2", "a=%2F..%2F&b=//", "", "?", "??a", "a=b=c", "&&", "a=1;b=2", "x=" + "y" * 8000, "q=%00%0d%0a",
        "beta=true", "pageToken=a+b%2B", "a[]=1&b{}=2", 'json={"a":"b"}', "key=not-ours", "mykey=strk_x", "KEY=1",
    ],
)  # fmt: skip
def test_query_arrives_byte_for_byte(query: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    assert ask(strake.address, get(endpoint, f"/x?{query}")).status == 200
    assert upstream.last.target == f"/x?{query}".encode() if query else b"/x"


def test_forbidden_bytes_are_refused_at_any_place() -> None:
    """RFC 3986 §3.3 allows these bytes in a path, and JavaScript's URL leaves the last four."""
    allowed = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/[]|^"
    for byte in set(range(256)) - set(allowed) - {ord("%")}:
        for path in (b"/%c", b"/%ca", b"/a%c", b"/a%cb/", b"/v1/%c/x"):
            with pytest.raises(BadPath):
                check_path(path % byte)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v1/{x}", b"the character { which must be sent as %7B"),
        ('/v1/"x', b'the character \\" which must be sent as %22'),
        ("/v1\\x", b"the character \\\\ which must be sent as %5C"),
        ("/v1//x", b"two slashes in a row"),
        ("/v1/../x", b"a segment of dots"),
        ("/v1/100%", b"a % without two hexadecimal digits"),
        ("/v1/%5cx", b"an encoded backslash"),
        ("/%25252525", b"percent-encoded more than three times"),
    ],
)
def test_refusal_names_what_the_path_contains(path: str, message: bytes, strake: Strake, endpoint: Endpoint) -> None:
    response = ask(strake.address, get(endpoint, path))
    assert response.all("x-strake-error") == [b"bad_path"]
    assert message in response.body


@pytest.mark.parametrize("rest", ["", "?a=1", "/", "/?a=1", "/x", "//"])
@pytest.mark.parametrize("base", ["", "/mcp"])
def test_bare_url_is_the_destination(
    rest: str, base: str, strake: Strake, two_endpoints: dict[str, Endpoint], upstream: Upstream
) -> None:
    """An MCP server at /mcp, called with the endpoint's URL, is not called at /mcp/."""
    response = ask(strake.address, get(two_endpoints[base], rest))
    if rest == "//":
        assert response.status == 400
        return
    expected = f"{base}{rest}" if base or rest.startswith("/") else f"/{rest}"
    assert upstream.last.target == expected.encode()


def test_empty_path_means_the_root(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    assert ask(strake.address, get(endpoint, "")).status == 200
    assert upstream.last.target == b"/"
    assert ask(strake.address, get(endpoint, "?a=1")).status == 200
    assert upstream.last.target == b"/?a=1"


@pytest.mark.parametrize("name", ["", "short", "ABCDEFGHIJKL", "abcdefghijklm", "abcdefghijk%6c", "..", "abcdefghijk/"])
def test_malformed_subdomain_is_no_endpoint(name: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    raw = get(endpoint).replace(endpoint.subdomain.encode(), name.encode())
    assert ask(strake.address, raw).status in {400, 410}
    assert not upstream.exchanges


# --- Any path at all -------------------------------------------------------------------------------------------------

_PIECES = """
/ // . .. %2e %2E %252e %2f %2F %252f %25252e %5c \\ ; ;x %3b a v1 %00 %20 %c0%ae %u002e % %2 ? # @ : é %25 2e 2f ~
""".split()  # noqa: SIM905
_ANY_PATH = st.lists(st.sampled_from(_PIECES), max_size=12).map(lambda pieces: "/" + "".join(pieces))


@given(path=_ANY_PATH)
@example(path="/%2%35%32e./x")
@example(path="/x%2f%2e%2e")
def test_accepted_path_stays_below_its_base(path: str) -> None:
    """By the rules of RFC 3986, of the WHATWG, of servers that cut off parameters, and after decoding twice."""
    raw = path.encode("utf-8", "surrogatepass")
    try:
        check_path(raw)
    except BadPath:
        return
    target = build_target(b"/base", raw, b"").decode("ascii")
    assert urlsplit(f"https://api.example.com{target}").netloc == "api.example.com"
    decoded = target
    for _ in range(3):
        for cut_parameters in (False, True):
            assert normalised(decoded, cut_parameters=cut_parameters).startswith("/base/")
        assert "\\" not in decoded
        assert not re.search(r"[\x00-\x1f\x7f]", decoded)
        decoded = re.sub(r"%([0-9A-Fa-f]{2})", lambda match: chr(int(match[1], 16)), decoded)


def normalised(path: str, *, cut_parameters: bool) -> str:
    """Remove dot segments (RFC 3986 §5.2.4). Backslashes are slashes and `%2e` is a dot, as for the WHATWG."""
    kept: list[str] = []
    for segment in path.replace("\\", "/").split("/")[1:]:
        plain = re.sub("(?i)%2e", ".", segment)
        if cut_parameters:
            plain = plain.partition(";")[0]
        if plain == "..":
            if kept:
                kept.pop()
        elif plain != ".":
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if path.endswith(("/.", "/..")) else "")


@given(segments=st.lists(st.text("abcXYZ019-_~!$&'()*+,=@:", min_size=1), max_size=6))
def test_plain_path_is_accepted_unchanged(segments: list[str]) -> None:
    path = ("/" + "/".join(segments)).encode()
    check_path(path)
    assert build_target(b"", path, b"") == path


@given(path=_ANY_PATH)
def test_encoded_slashes_are_detected(path: str) -> None:
    """The patterns of a token's allowed paths must see every slash that the provider may see."""
    raw = path.encode("utf-8", "surrogatepass")
    once = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), raw)
    twice = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), once)
    if max(once.count(b"/"), twice.count(b"/")) > raw.count(b"/"):
        assert has_encoded_slash(raw)
