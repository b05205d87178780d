"""Web pages of other origins: which preflights are answered, and which responses a page may read."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.errors import METHODS
from tests.support.raw import Response, ask
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream, fixed

PAGE = "https://app.example.com"
OTHER = "https://other.example.com"
FETCH = {"Sec-Fetch-Dest": "empty", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "cross-site"}
RULES_OF_PROVIDER = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Credentials", "true"),
    ("Vary", "Accept-Encoding"),
    ("X-Request-Id", "req_1"),
]


def send(endpoint: Endpoint, method: str = "GET", *, token: bool = True, path: str = "/x", **headers: str) -> Response:
    """Send a request as a page's `fetch` does. Underscores in the names of headers stand for dashes."""
    named = {**FETCH, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if token:
        named["Authorization"] = f"Bearer {endpoint.token}"
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    address = ("127.0.0.1", int(endpoint.url.split(":")[2].split("/")[0]))
    return ask(address, f"{method} {endpoint.path}{path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())


def preflight(endpoint: Endpoint, origin: str = PAGE, **headers: str) -> Response:
    asked = {"Origin": origin, "Access_Control_Request_Method": "POST", **headers}
    return send(endpoint, "OPTIONS", token=False, **asked)


@pytest.fixture
def page(strake: Strake, endpoint: Endpoint) -> Endpoint:
    """An endpoint with a token for `PAGE`, and another token without origins."""
    return strake.issue(endpoint, allowed_origins=[PAGE])


def test_preflight_is_answered_without_a_token(page: Endpoint, upstream: Upstream) -> None:
    response = preflight(page, Access_Control_Request_Headers="authorization,content-type, x-stainless-os")
    assert response.status == 204
    assert response.all("access-control-allow-origin") == [PAGE.encode()]
    assert set(response.all("access-control-allow-methods")[0].decode().split(", ")) == METHODS
    assert response.all("access-control-allow-headers") == [b"authorization,content-type, x-stainless-os"]
    assert int(response.all("access-control-max-age")[0]) > 0
    assert response.all("vary") == [b"Origin"]
    assert response.all("access-control-allow-credentials") == []
    assert response.all("access-control-allow-private-network") == []
    assert upstream.exchanges == []


def test_private_network_is_granted_if_asked_for(page: Endpoint) -> None:
    response = preflight(page, Access_Control_Request_Private_Network="true")
    assert response.all("access-control-allow-private-network") == [b"true"]


@pytest.mark.parametrize("names", ["a b", "a;b", "a,,b", "a\x80", "x" * 5000])
def test_malformed_header_names_are_not_echoed(page: Endpoint, names: str) -> None:
    response = preflight(page, Access_Control_Request_Headers=names)
    assert response.status == 204
    assert response.all("access-control-allow-headers") == []


@pytest.mark.parametrize("origin", [OTHER, "null", f"{PAGE}:8443", f"{PAGE}.evil.example", "http://app.example.com"])
def test_preflight_of_another_page_gets_no_answer(page: Endpoint, upstream: Upstream, origin: str) -> None:
    response = preflight(page, origin)
    assert response.status == 401
    assert b"access-control-" not in response.head
    assert upstream.exchanges == []


def test_options_without_preflight_headers_is_forwarded(page: Endpoint, upstream: Upstream) -> None:
    assert send(page, "OPTIONS", Origin=PAGE).status == 200
    assert upstream.exchanges[0].method == "OPTIONS"


def test_page_may_read_the_response(page: Endpoint, upstream: Upstream) -> None:
    upstream.default = fixed(200, RULES_OF_PROVIDER, b"{}")
    response = send(page, Origin=PAGE)
    assert response.status == 200
    assert response.all("access-control-allow-origin") == [PAGE.encode()]
    assert response.all("access-control-expose-headers") == [b"*"]
    assert response.all("access-control-allow-credentials") == []
    assert response.all("vary") == [b"Accept-Encoding", b"Origin"]
    assert response.all("x-request-id") == [b"req_1"]
    assert upstream.exchanges[0].all("origin") == []


def test_error_of_the_provider_is_readable(page: Endpoint, upstream: Upstream) -> None:
    upstream.default = fixed(429, [("Retry-After", "3")], b"{}")
    response = send(page, Origin=PAGE)
    assert (response.status, response.all("access-control-allow-origin")) == (429, [PAGE.encode()])


def test_token_is_refused_to_another_page(page: Endpoint, upstream: Upstream) -> None:
    response = send(page, Origin=OTHER)
    assert (response.status, response.all("x-strake-error")) == (403, [b"origin_not_allowed"])
    assert b"access-control-" not in response.head
    assert upstream.exchanges == []


def test_token_with_origins_works_outside_of_browsers(page: Endpoint, upstream: Upstream) -> None:
    upstream.default = fixed(200, RULES_OF_PROVIDER, b"{}")
    response = send(page)
    assert response.status == 200
    assert response.all("access-control-allow-origin") == [b"*"]


def test_token_without_origins_stays_as_it_was(page: Endpoint, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.default = fixed(200, RULES_OF_PROVIDER, b"{}")
    response = send(endpoint, Origin=PAGE)
    assert response.status == 200
    assert response.all("access-control-allow-origin") == [b"*"]
    assert response.all("access-control-expose-headers") == []
    assert response.all("vary") == [b"Accept-Encoding"]
    assert upstream.exchanges[0].all("origin") == [PAGE.encode()]


def test_endpoint_without_origins_answers_no_preflight(endpoint: Endpoint, upstream: Upstream) -> None:
    response = preflight(endpoint)
    assert (response.status, response.all("x-strake-error")) == (401, [b"missing_token"])
    assert b"access-control-" not in response.head
    assert upstream.exchanges == []


def test_preflight_with_a_token_in_its_url(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """Without origins, it is a request like any other. With origins, only those pages get an answer, from Strake."""
    asked = {"Origin": OTHER, "Access_Control_Request_Method": "POST"}
    assert send(endpoint, "OPTIONS", token=False, path=f"/x?key={endpoint.token}", **asked).status == 200
    assert len(upstream.exchanges) == 1
    page = strake.issue(strake.connect(upstream.url), allowed_origins=[PAGE])
    assert send(page, "OPTIONS", token=False, path=f"/x?key={page.token}", **asked).status == 403
    asked["Origin"] = PAGE
    assert send(page, "OPTIONS", token=False, path=f"/x?key={page.token}", **asked).status == 204
    assert len(upstream.exchanges) == 1


@pytest.mark.parametrize("case", ["mistyped", "missing", "revoked", "path", "bad path"])
def test_own_errors_are_readable_by_the_page(strake: Strake, endpoint: Endpoint, case: str) -> None:
    page = strake.issue(endpoint, allowed_origins=[PAGE], allowed_paths=["GET /x"])
    if case == "revoked":
        strake.revoke(page)
    elif case == "mistyped":
        page = Endpoint(page.url, page.subdomain, "strk_x", "")
    path = {"path": "/y", "bad path": "/../y"}.get(case, "/x")
    response = send(page, token=case != "missing", path=path, Origin=PAGE)
    assert response.status == {"path": 403, "bad path": 400}.get(case, 401)
    assert response.all("x-strake-error")
    assert response.all("access-control-allow-origin") == [PAGE.encode()]
    assert response.all("access-control-expose-headers") == [b"*"]
    assert preflight(page).status == 204


def test_errors_are_not_readable_by_another_page(page: Endpoint) -> None:
    wrong = Endpoint(page.url, page.subdomain, "strk_x", "")
    response = send(wrong, Origin=OTHER)
    assert response.status == 401
    assert b"access-control-" not in response.head


def test_page_still_cannot_load_an_endpoint_as_a_part(page: Endpoint) -> None:
    response = send(page, Origin=PAGE, Sec_Fetch_Dest="script")
    assert (response.status, response.all("x-strake-error")) == (403, [b"browser_refused"])
    assert b"access-control-" not in response.head


def test_preflights_for_made_up_endpoints_are_throttled(run_strake: Callable[..., Strake], upstream: Upstream) -> None:
    strake = run_strake(STRAKE_TRUSTED_PROXIES="1")
    page = strake.issue(strake.connect(upstream.url), allowed_origins=[PAGE])
    statuses = set()
    for _ in range(130):
        statuses.add(preflight(page, OTHER, X_Forwarded_For="203.0.113.7").status)
    assert 429 in statuses
    assert preflight(page, X_Forwarded_For="203.0.113.7").status == 204
    assert preflight(page, X_Forwarded_For="198.51.100.7").status == 204


@pytest.mark.postgres
def test_preflight_reads_postgresql_too(
    run_strake: Callable[..., Strake], migrated_url: str, upstream: Upstream
) -> None:
    strake = run_strake(DATABASE_URL=migrated_url)
    page = strake.issue(strake.connect(upstream.url), allowed_origins=["https://a.example", PAGE])
    assert preflight(page).status == 204
    assert preflight(page, OTHER).status == 401
