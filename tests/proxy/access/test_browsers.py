"""Which requests of browsers are forwarded, and what of a response they see, on both forms of URL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.http.response import PROTECTION
from tests.support.raw import Response, ask
from tests.support.running import Strake, prepare_home
from tests.support.upstream import Upstream, fixed

PROXY_DOMAIN = "endpoints.localhost"
FETCH = {"Sec-Fetch-Dest": "empty", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "cross-site", "Origin": "https://a.org"}
# https://fetch.spec.whatwg.org/#concept-request-destination
DESTINATIONS = [
    "audio", "audioworklet", "document", "embed", "fencedframe", "font", "frame", "iframe", "image", "json",
    "manifest", "object", "paintworklet", "report", "script", "serviceworker", "sharedworker", "speculationrules",
    "style", "track", "video", "webidentity", "worker", "xslt",
]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """An endpoint in one form of URL."""

    strake: Strake
    host: str
    path: str
    token: str

    def ask(self, headers: dict[str, str], *, token: bool = True, method: str = "GET", path: str = "/x") -> Response:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        bearer = f"Authorization: Bearer {self.token}\r\n" if token else ""
        head = f"{method} {self.path}{path} HTTP/1.1\r\nHost: {self.host}\r\n{bearer}{lines}\r\n"
        return ask(self.strake.address, head.encode())

    @property
    def dashboard(self) -> str:
        return f"http://localhost:{self.strake.port}"


@pytest.fixture(scope="module")
def strake_with_own_hosts(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Strake]:
    home = prepare_home(tmp_path_factory.mktemp("own-hosts") / "strake", migrated_database)
    with Strake(home, {"STRAKE_PROXY_DOMAIN": PROXY_DOMAIN}) as running:
        yield running


@pytest.fixture(params=["path", "own host"])
def target(request: pytest.FixtureRequest, strake: Strake, strake_with_own_hosts: Strake, upstream: Upstream) -> Target:
    if request.param == "path":
        made = strake.connect(upstream.url)
        return Target(strake, f"localhost:{strake.port}", made.path, made.token)
    made = strake_with_own_hosts.connect(upstream.url)
    host = f"{made.subdomain}.{PROXY_DOMAIN}:{strake_with_own_hosts.port}"
    return Target(strake_with_own_hosts, host, "", made.token)


def assert_refused(response: Response) -> None:
    assert (response.status, response.all("x-strake-error")) == (403, [b"browser_refused"])
    for name, value in PROTECTION:
        assert response.all(name.decode()) == [value]


@pytest.mark.parametrize("destination", DESTINATIONS)
def test_parts_of_pages_are_refused(destination: str, target: Target, upstream: Upstream) -> None:
    mode = "navigate" if destination in {"document", "iframe", "frame", "embed", "object"} else "no-cors"
    for site in ("cross-site", "same-site", "same-origin", "none"):
        sent = {"Sec-Fetch-Dest": destination, "Sec-Fetch-Mode": mode, "Sec-Fetch-Site": site}
        assert_refused(target.ask(sent))
    assert not upstream.exchanges


@pytest.mark.parametrize(
    "changed",
    [
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Mode": "navigate"},
        {"Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Mode": "same-origin"},
        {"Service-Worker": "script"},
        {"Upgrade-Insecure-Requests": "1"},
        {"Origin": "{dashboard}"},
        {"Sec-Fetch-Dest": ""},
        {"Sec-Fetch-Dest": "EMPTY, script"},
    ],
    ids=str,
)
def test_fetch_that_concerns_the_dashboard_is_refused(
    changed: dict[str, str], target: Target, upstream: Upstream
) -> None:
    sent = FETCH | {name: value.format(dashboard=target.dashboard) for name, value in changed.items()}
    for method in ("GET", "POST", "OPTIONS"):
        assert_refused(target.ask(sent, method=method))
    assert not upstream.exchanges


def test_old_browser_opens_no_page_and_no_worker(target: Target, upstream: Upstream) -> None:
    for sent in ({"Upgrade-Insecure-Requests": "1"}, {"Service-Worker": "script"}):
        assert_refused(target.ask(sent))
    # The first version with these headers did not say the destination.
    for mode in ("navigate", "no-cors", "same-origin"):
        assert_refused(target.ask({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode}))
    assert not upstream.exchanges
    assert target.ask({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}).status == 200


def test_browser_is_refused_before_any_look_up(target: Target, upstream: Upstream) -> None:
    script = {"Sec-Fetch-Dest": "script", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Site": "same-origin"}
    assert_refused(target.ask(script, token=False))
    assert_refused(target.ask(script, path="//"))
    assert_refused(target.ask(script, method="TRACE"))
    assert_refused(target.ask(script, token=False, path=f"/x?key={target.token}"))
    websocket = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                 "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}  # fmt: skip
    assert_refused(target.ask(script | websocket))
    assert not upstream.exchanges


FOR_API_CLIENTS = {
    "Content-Type": "application/json", "Cache-Control": "no-cache", "Retry-After": "1", "Retry-After-Ms": "1000",
    "X-Request-Id": "a", "Request-Id": "b", "X-RateLimit-Remaining-Requests": "9", "RateLimit-Policy": "a",
    "Anthropic-RateLimit-Tokens-Limit": "9", "OpenAI-Processing-Ms": "9", "Mcp-Session-Id": "c", "ETag": '"d"',
    "X-Should-Retry": "false", "Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*",
    "Apim-Request-Id": "e", "X-Ms-Region": "f", "X-Goog-Upload-Status": "active", "CF-Ray": "g",
    "Content-Disposition": "attachment",
}  # fmt: skip
FOR_TOOLS_ONLY = {
    "Link": "<https://a.example/>; rel=next", "Origin-Agent-Cluster": "?1", "Accept-CH": "DPR", "Critical-CH": "DPR",
    "Set-Login": "logged-in", "Use-As-Dictionary": 'match="/*"', "Speculation-Rules": '"/x"', "SourceMap": "/x",
    "Permissions-Policy": "camera=*", "Cross-Origin-Opener-Policy": "unsafe-none", "X-Frame-Options": "ALLOWALL",
    "Timing-Allow-Origin": "*", "Server": "provider", "X-Anything": "1", "Document-Policy": "force-load-at-top",
    "Cross-Origin-Embedder-Policy": "unsafe-none", "Secure-Session-Registration": '(ES256);path="/x"',
    "Activate-Storage-Access": "load", "X-DNS-Prefetch-Control": "on", "X-Envoy-Upstream-Service-Time": "9",
}  # fmt: skip


def test_browser_gets_listed_headers_on_the_dashboard(target: Target, upstream: Upstream) -> None:
    """On the dashboard's origin. An endpoint's own host is an origin on which nothing runs."""
    upstream.on("/x", fixed(200, [*FOR_API_CLIENTS.items(), *FOR_TOOLS_ONLY.items(), ("Set-Cookie", "a=1")]))
    response = target.ask(FETCH)
    assert response.status == 200
    assert {name for name in FOR_API_CLIENTS if not response.all(name)} == set()
    passed = {name for name in FOR_TOOLS_ONLY if response.all(name)}
    assert passed == (set() if target.path else set(FOR_TOOLS_ONLY))
    assert not response.all("set-cookie")
    for name, value in PROTECTION:
        assert response.all(name.decode()) == [value]


# The fetch of Node.js sends nothing but the mode. The Python package websocket-client sends the origin it connects to.
TOOLS = [{}, {"Sec-Fetch-Mode": "cors", "User-Agent": "node"}, {"Origin": "{dashboard}"}, {"Accept": "text/html, */*"}]


@pytest.mark.parametrize("sent", TOOLS, ids=str)
def test_tools_get_every_end_to_end_header(sent: dict[str, str], target: Target, upstream: Upstream) -> None:
    everything = FOR_API_CLIENTS | FOR_TOOLS_ONLY
    upstream.on("/x", fixed(200, everything.items()))
    response = target.ask({name: value.format(dashboard=target.dashboard) for name, value in sent.items()})
    assert response.status == 200
    assert {name: response.all(name) for name in everything} == {
        name: [value.encode()] for name, value in everything.items()
    }


def test_every_error_is_sandboxed(target: Target, upstream: Upstream) -> None:
    websocket = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                 "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}  # fmt: skip
    upstream.on("/refused", fixed(403, [("Content-Type", "text/html")], b"<script>alert(1)</script>"))
    responses = [
        target.ask({}, token=False),
        target.ask({}, path="//"),
        target.ask({}, method="TRACE"),
        target.ask(websocket, token=False),
        target.ask(websocket),  # the provider responds with 200: 426
        target.ask(websocket, path="/refused"),
        target.ask({}, path="/refused"),
    ]
    assert [response.status for response in responses] == [401, 400, 405, 401, 426, 403, 403]
    for response in responses:
        for name, value in PROTECTION:
            assert response.all(name.decode()) == [value]
