"""Requests built to forward a client's credential, to remove the provider's key, or to smuggle a request.

They are sent over raw sockets. The tests check the bytes that arrive at an upstream.
"""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts import tokens
from credentials.models import BEARER_TOKEN_PREFIX
from proxy.http import headers
from proxy.http.names import CREDENTIAL_HEADERS
from tests.support.passing import passing
from tests.support.raw import Response, exchange
from tests.support.running import KEY, Endpoint, Strake
from tests.support.upstream import Upstream

DUMMY = "sk-dummy-of-the-caller"

# The positions in which SDKs send a key: header lines and parameters.
POSITIONS = {
    "Authorization: Bearer": "Authorization: Bearer {}",
    "Authorization": "Authorization: {}",
    "x-api-key": "x-api-key: {}",
    "api-key": "api-key: {}",
    "x-goog-api-key": "x-goog-api-key: {}",
    "x-api-key: Bearer": "X-Api-Key: {}",
    "?key=": "?key={}",
}
# The headers in which providers expect it, with their templates.
INJECTED = {
    "Authorization": "Bearer {{secret}}",
    "x-api-key": "{{secret}}",
    "x-goog-api-key": "{{secret}}",
    "api-key": "{{secret}}",
    "X-Custom_Key": "Key {{secret}}; v=1",
}


def call(endpoint: Endpoint, strake: Strake, *parts: str, path: str = "/v1/x", body: bytes = b"") -> Response:
    """Send a request with these header lines. A part that starts with "?" or "&" is added to the query."""
    query = "".join(part for part in parts if part[0] in "?&")
    if query:
        query = "?" + query[1:].replace("?", "&")
    lines = [part for part in parts if part[0] not in "?&"]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    head = [f"POST {endpoint.path}{path}{query} HTTP/1.1", "Host: localhost", *lines, "Connection: close", "", ""]
    return exchange(strake.address, "\r\n".join(head).encode("latin-1") + body)


def assert_only_the_real_key_arrived(
    upstream: Upstream, *of_the_caller: str, name: str = "Authorization", value: str = f"Bearer {KEY}"
) -> None:
    """One request arrived, with the real key once, in the last header, and with none of these values."""
    assert not upstream.malformed
    assert len(upstream.exchanges) == 1
    received = upstream.last
    assert received.headers[-1] == (name.encode(), value.encode())
    assert received.raw_head.count(KEY.encode()) == 1
    for secret in of_the_caller:
        for spelling in (secret.encode(), base64.b64encode(secret.encode())[:-4]):
            assert spelling not in received.raw_head
            assert spelling not in received.body
    given = [known.lower().replace(b"_", b"-") for known, _ in received.headers]
    for credential in (*CREDENTIAL_HEADERS, b"proxy-authorization", b"cookie", name.lower().replace("_", "-").encode()):
        assert given.count(credential) == (credential == name.lower().replace("_", "-").encode())


@pytest.fixture(scope="module")
def injecting(strake: Strake, _upstream: Upstream) -> dict[str, Endpoint]:
    """An endpoint for each header of `INJECTED`."""
    return {
        name: strake.connect(_upstream.url, header_name=name, header_template=template)
        for name, template in INJECTED.items()
    }


@pytest.mark.parametrize("position", POSITIONS)
def test_two_values_in_one_position(position: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    valid, dummy = POSITIONS[position].format(endpoint.token), POSITIONS[position].format(DUMMY)
    other = POSITIONS[position].format(tokens.mint(BEARER_TOKEN_PREFIX))
    assert call(endpoint, strake, valid, other).status == 400
    assert call(endpoint, strake, other, valid).status == 400
    assert not upstream.exchanges
    for pair in ((valid, dummy), (dummy, valid), (valid, valid)):
        upstream.clear()
        assert call(endpoint, strake, *pair).status == 200
        assert_only_the_real_key_arrived(upstream, endpoint.token, *([] if position == "?key=" else [DUMMY]))


@pytest.mark.parametrize("position", POSITIONS)
def test_malformed_token_is_refused(position: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    token = endpoint.token
    swapped = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in (DUMMY, swapped, token[:-1], token + "x", token.upper(), token[5:], f"x{token}", f"{token}_{token}"):
        answer = call(endpoint, strake, POSITIONS[position].format(wrong))
        assert answer.status == 401, wrong
        assert wrong.encode() not in answer.raw
    assert not upstream.exchanges


BASIC = "Basic " + base64.b64encode(b"user:secret-of-the-caller").decode()


@pytest.mark.parametrize(
    "lines",
    [
        ["AUTHORIZATION: BEARER {}"],
        ["authorization: bEaReR {}"],
        ["Authorization: Bearer   {}  "],
        ["Authorization:Bearer {}"],
        ["Authorization:\tBearer {}\t"],
        ["X-API-KEY:{}"],
        ["X-GOOG-API-KEY: {}"],
        ["x-api-key: {}", "Authorization: " + BASIC],
        ["x-api-key: {}", "Proxy-Authorization: " + BASIC],
        ["x-api-key: {}", "Authorization: Bearer"],
        ["x-api-key: {}", "Authorization:"],
        ["x-api-key: {}", "Authorization: Digest username=secret-of-the-caller"],
        ["Authorization: Bearer {}", "Proxy-Authorization: Bearer {}"],
        ["Authorization: Bearer {}", "X_Api_Key: secret-of-the-caller"],
        ["Authorization: Bearer {}", "X-Api_Key: {}"],
        ["Authorization: Bearer {}", "API_KEY: secret-of-the-caller"],
        ["Authorization: Bearer {}", "x_goog-api_key: secret-of-the-caller"],
        ["Authorization: Bearer {}", "Proxy_Authorization: secret-of-the-caller"],
        ["Authorization: Bearer {}", "Cookie: sessionid=secret-of-the-caller; token={}"],
        ["Authorization: Bearer {}", "X-Forwarded-Authorization: Bearer {}"],
        ["Authorization: Bearer {}", "X-Whatever: before {} behind"],
        ["Authorization: Bearer {}", "X-Whatever: {0}{0}"],
        ["Authorization: Bearer {}", "Referer: http://localhost/?key={}"],
        ["Authorization: Bearer {}", "?a={}"],
        ["Authorization: Bearer {}", "?a=1&token=x{}x&b=2"],
        ["Authorization: Bearer {}", "?Key={}"],
        ["Authorization: Bearer {}", "?{}"],
        ["Authorization: Bearer {}", "?key=&key={}"],
    ],
    ids=" + ".join,
)
def test_token_among_other_credentials(
    lines: list[str], strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    assert call(endpoint, strake, *(line.format(endpoint.token) for line in lines)).status == 200
    encoded = base64.b64encode(b"user:secret-of-the-caller").decode()
    assert_only_the_real_key_arrived(upstream, endpoint.token, "secret-of-the-caller", encoded)


@pytest.mark.parametrize(
    "line",
    [
        "Proxy-Authorization: Bearer {}",
        "Cookie: Authorization={}",
        "Referer: https://a.example/{}",
        "Forwarded: for={}",
        "X-Whatever: a{}",
        "X-Whatever: {}b",
        "?a=1&Key=x{}",
        "?{}",
    ],
)
def test_token_in_no_known_position_fails(line: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    answer = call(endpoint, strake, line.format(endpoint.token))
    assert answer.status == 401
    assert endpoint.token.encode() not in answer.raw
    assert not upstream.exchanges


# Headers in which providers expect their keys, and how people write them.
OWN_HEADERS = [
    ("xi-api-key", "{{secret}}"),
    ("PRIVATE-TOKEN", "{{secret}}"),
    ("X-Subscription-Token", "{{secret}}"),
    ("X-Custom_Key", "Key {{secret}}; v=1"),
    ("Authorization", "Token {{secret}}"),
    ("Authorization", "Key {{secret}}"),
    ("Authorization", "Api-Key {{secret}}"),
    ("Authorization", "Bearer {{secret}}"),
]


@pytest.mark.parametrize(("name", "template"), OWN_HEADERS, ids=str)
def test_token_in_the_endpoints_own_header(name: str, template: str, strake: Strake, upstream: Upstream) -> None:
    endpoint = strake.connect(upstream.url, header_name=name, header_template=template)
    line = f"{name}: {template}".replace("{{secret}}", endpoint.token)
    assert call(endpoint, strake, line).status == 200
    value = template.replace("{{secret}}", KEY)
    assert_only_the_real_key_arrived(upstream, endpoint.token, name=name, value=value)


def basic(credentials: str) -> str:
    return "Authorization: Basic " + base64.b64encode(credentials.encode()).decode()


@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Bearer Bearer {}",
        'Authorization: Bearer "{}"',
        "Authorization: '{}'",
        "Authorization: Bearer={}",
        "Authorization: Bearer {},",
        "Authorization: Basic {}",
        'x-api-key: "{}"',
        "x-api-key: Bearer {}",
        "X_Api_Key: {}",
        "?key={}%0D",
        "?key=%22{}%22",
    ],
)
def test_token_is_found_as_a_word(line: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    assert call(endpoint, strake, line.format(endpoint.token)).status == 200
    assert_only_the_real_key_arrived(upstream, endpoint.token)


@pytest.mark.parametrize("credentials", ["{}:", ":{}", "api:{}", "{}"])
def test_token_is_found_in_basic(credentials: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    line = basic(credentials.format(endpoint.token))
    for spelling in (line, line.rstrip("=")):
        upstream.clear()
        assert call(endpoint, strake, spelling).status == 200
        assert_only_the_real_key_arrived(upstream, endpoint.token, line.rpartition(" ")[2])


def test_two_tokens_in_unusual_places_are_refused(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    other = tokens.mint(BEARER_TOKEN_PREFIX)
    for lines in (
        [f"xi-api-key: {endpoint.token}", f"X-Other: {other}"],
        [f"Authorization: Bearer {endpoint.token} {other}"],
        [f"Authorization: Token {endpoint.token}", f"x-api-key: {other}"],
        [f"Authorization: Bearer {other}", basic(f"{endpoint.token}:")],
    ):
        assert call(endpoint, strake, *lines).all("x-strake-error") == [b"ambiguous_token"]
    assert not upstream.exchanges


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("sk-proj-0123456789", b"is not a Strake token"),
        ("{cut}", b"incomplete or mistyped"),
        ("strk_AbCd...", b"incomplete or mistyped"),
        ("{unknown}", b"mistyped, revoked or expired"),
    ],
)
def test_refusal_says_what_is_wrong_with_the_token(
    value: str, message: bytes, strake: Strake, endpoint: Endpoint
) -> None:
    value = value.format(cut=endpoint.token[:-3], unknown=tokens.mint(BEARER_TOKEN_PREFIX))
    answer = call(endpoint, strake, f"Authorization: Bearer {value}")
    assert answer.all("x-strake-error") == [b"invalid_token"]
    assert message in answer.body
    assert answer.all("x-should-retry") == [b"false"]


@pytest.mark.parametrize("query", ["?a=1&Key={}", "?xkey={}", "?key[]={}&b=2", "?a={0}&b={0}"])
def test_token_in_any_parameter(query: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    assert call(endpoint, strake, query.format(endpoint.token)).status == 200
    assert_only_the_real_key_arrived(upstream, endpoint.token)
    other = tokens.mint(BEARER_TOKEN_PREFIX)
    assert call(endpoint, strake, query.format(endpoint.token), f"&other={other}").status == 400


@pytest.mark.parametrize("name", INJECTED)
@pytest.mark.parametrize(
    "nominated",
    ["{}", "close, {}", "{}, keep-alive", ", ,{} ,", "authorization", "x-api-key, host, authorization", "X-Custom-Key"],
)
def test_connection_header_cannot_remove_the_key(
    nominated: str, name: str, strake: Strake, injecting: dict[str, Endpoint], upstream: Upstream
) -> None:
    endpoint = injecting[name]
    answer = call(
        endpoint, strake, f"Authorization: Bearer {endpoint.token}", f"Connection: {nominated.format(name.upper())}"
    )
    assert answer.status == 200
    value = INJECTED[name].replace("{{secret}}", KEY)
    assert_only_the_real_key_arrived(upstream, endpoint.token, name=name, value=value)
    assert upstream.last.header("host") is not None


@pytest.mark.parametrize(
    "lines",
    [
        ["Connection: content-length"],
        ["Connection: close, Content-Length"],
        ["Connection: content-length, transfer-encoding"],
        ["Connection: content_length"],
        ["Content_Length: 0"],
        ["Connection: host", "Content_Length: 1"],
    ],
    ids=" + ".join,
)
@pytest.mark.parametrize("size", [60, 300_000])
def test_connection_header_cannot_smuggle_a_request(
    lines: list[str], size: int, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    """If the length were removed but the body sent, the client would write the provider's next request."""
    body = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".ljust(size, b"x")
    answer = call(endpoint, strake, f"Authorization: Bearer {endpoint.token}", *lines, body=body)
    assert answer.status in {200, 400}
    assert not upstream.malformed
    assert [one.path for one in upstream.exchanges] == ["/v1/x"] * (answer.status == 200)
    for received in upstream.exchanges:
        assert received.body == body
        assert received.header("content_length") is None


# --- Generated requests -----------------------------------------------------------------------------------------

TOKEN = tokens.mint(BEARER_TOKEN_PREFIX)
NAMES = """authorization Authorization x-api-key x_api_key api-key x-goog-api-key x-custom-key x_custom-key cookie host
    connection proxy-authorization x-forwarded-for via accept content-type x-other te upgrade""".lower().split()
PAIRS_SENT = st.lists(
    st.tuples(
        st.sampled_from([name.encode() for name in NAMES]),
        st.sampled_from([b"x", b"", TOKEN.encode(), b"a" + TOKEN.encode(), *(name.encode() for name in NAMES)]),
    ),
    max_size=12,
)


@settings(max_examples=300)
@given(sent=PAIRS_SENT, name=st.sampled_from(["Authorization", "x-api-key", "X-Custom-Key", "x_custom_key"]))
def test_no_client_credential_is_forwarded(sent: list[tuple[bytes, bytes]], name: str) -> None:
    own = {name.lower().replace("_", "-").encode()}
    left = headers.for_upstream(passing(sent), b"api.example.com", own, headers.nominated_names(sent))
    assert left[0] == (b"Host", b"api.example.com")
    others = [(known.replace(b"_", b"-"), value) for known, value in left[1:]]
    assert not {known for known, _ in others} & {*CREDENTIAL_HEADERS, b"host", b"cookie", b"connection", b"via", b"te"}
    assert name.lower().replace("_", "-").encode() not in {known for known, _ in others}
    assert not any(TOKEN.encode() in value for _, value in others)
    # Other headers pass in their order.
    free = (b"accept", b"content-type", b"x-other")
    named = {value for known, value in sent if known == b"connection"}
    rest = [pair for pair in sent if pair[0] in free and pair[0] not in named and TOKEN.encode() not in pair[1]]
    assert [pair for pair in left if pair[0] in free] == rest
