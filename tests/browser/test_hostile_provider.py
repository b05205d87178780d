"""Chromium and a provider that answers anything: nothing of it acts on an origin of Strake, with both forms of URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.support.running import Strake, prepare_home
from tests.support.upstream import Exchange, Upstream

PROXY_DOMAIN = "endpoints.localhost"
SECONDS = 30
# Whatever a provider could wish for.
GENEROUS = [
    ("Access-Control-Allow-Origin", "*"),
    ("Content-Security-Policy", "default-src * 'unsafe-inline' 'unsafe-eval'"),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    ("Cross-Origin-Opener-Policy", "unsafe-none"),
    ("Service-Worker-Allowed", "/"),
    ("X-Content-Type-Options", "none"),
    *(("Set-Cookie", f"flood-{number}={'x' * 3000}; Path=/; Max-Age=31536000") for number in range(20)),
]
PAGE = b"""<!doctype html><title>hostile</title><h1>Sign in</h1><script>
  document.title = "ran"; window.ran = true; parent.postMessage("ran", "*"); opener?.postMessage("ran", "*");
  try {
    for (let n = 0; n < 80; n++) document.cookie = `js-${n}=${"x".repeat(3000)}; path=/; domain=${location.hostname}`;
    navigator.serviceWorker.register("/worker.js" + location.search);
  } catch {}
  new Image().src = "/ran" + location.search;
</script>"""
FILES = {
    "script.js": ("text/javascript", b"window.ran = true"),
    "module.js": ("text/javascript", b"window.ran = true; export const ran = true"),
    "worker.js": ("text/javascript", b"""
        if ("onconnect" in self) onconnect = event => event.ports[0].postMessage("ran");
        else if (!("clients" in self)) postMessage("ran")"""),
    "style.css": ("text/css", b"body { outline: rgb(1, 2, 3) solid 7px }"),
    "image.svg": ("image/svg+xml", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
    "manifest.json": ("application/manifest+json", b"{}"),
    "track.vtt": ("text/vtt", b"WEBVTT\n\n00:00.000 --> 00:01.000\nx\n"),
    "events": ("text/event-stream", b"data: ran\n\n"),
    "data": ("application/json", b'{"ran": true}'),
    "page.html": ("text/html", PAGE),
}  # fmt: skip


async def hostile(exchange: Exchange) -> None:
    name = exchange.path.rsplit("/", 1)[-1]
    if name == "redirect":
        await exchange.respond(302, [("Location", "https://evil.example/"), *GENEROUS])
        return
    kind, body = FILES.get(name, ("text/html", PAGE))
    await exchange.respond(200, [("Content-Type", kind), *GENEROUS], body)


@dataclass(frozen=True)
class Target:
    """An endpoint in one form of URL, and the dashboard of its Strake."""

    strake: Strake
    base: str
    token: str

    @property
    def dashboard(self) -> str:
        return f"http://localhost:{self.strake.port}"

    def url(self, name: str) -> str:
        return f"{self.base}/{name}?key={self.token}"


@pytest.fixture(scope="module")
def strake_with_own_hosts(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Strake]:
    home = prepare_home(tmp_path_factory.mktemp("own-hosts") / "strake", migrated_database)
    with Strake(home, {"STRAKE_PROXY_DOMAIN": PROXY_DOMAIN}) as running:
        yield running


@pytest.fixture
def path_target(strake: Strake, upstream: Upstream) -> Target:
    upstream.default = hostile
    made = strake.connect(upstream.url)
    return Target(strake, f"http://localhost:{strake.port}{made.path}", made.token)


@pytest.fixture
def own_host_target(strake_with_own_hosts: Strake, upstream: Upstream) -> Target:
    upstream.default = hostile
    made = strake_with_own_hosts.connect(upstream.url)
    base = f"http://{made.subdomain}.{PROXY_DOMAIN}:{strake_with_own_hosts.port}"
    return Target(strake_with_own_hosts, base, made.token)


@pytest.fixture(params=["path", "own host"])
def target(request: pytest.FixtureRequest) -> Target:
    name = "path_target" if request.param == "path" else "own_host_target"
    made: Target = request.getfixturevalue(name)
    return made


@pytest.fixture
def make_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """A new profile. Refused loads are errors in its console, so those do not fail the test."""
    contexts: list[BrowserContext] = []

    def make(**options: bool) -> BrowserContext:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        context.set_default_timeout(SECONDS * 1000)
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def injected(make_context: Callable[..., BrowserContext], target: Target) -> Page:
    """A page of the dashboard into which an attacker gets any markup, and that has lost its policy."""
    page = make_context(bypass_csp=True).new_page()
    page.goto(f"{target.dashboard}/security/")
    return page


# Each returns true if the response acted on the page. `load` appends an element and waits for its end.
HELPERS = """
    const load = (name, attributes) => new Promise(done => {
      const element = document.createElement(name);
      Object.assign(element, {onload: () => done(true), onerror: () => done(false)});
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      document.body.append(element);
    });
    const spoken = start => new Promise(done => {
      window.addEventListener("message", event => done(event.data === "ran"));
      try { start(done); } catch { done(false); }
    });
"""
LOADS = {
    "script": ("script.js", 'await load("script", {src: url}); return Boolean(window.ran)'),
    "module": ("module.js", 'await load("script", {src: url, type: "module"}); return Boolean(window.ran)'),
    "import": ("module.js", "return import(url).then(module => module.ran, () => false)"),
    "style": (
        "style.css",
        'await load("link", {rel: "stylesheet", href: url});'
        'return getComputedStyle(document.body).outlineColor === "rgb(1, 2, 3)"',
    ),
    "image": ("image.svg", 'return load("img", {src: url})'),
    "preload": ("script.js", 'return load("link", {rel: "preload", as: "script", href: url})'),
    "prefetch": ("data", 'return load("link", {rel: "prefetch", href: url})'),
    "frame": (
        "page.html",
        """return spoken(async done => { await load("iframe", {src: url}); setTimeout(() => done(false), 300); })""",
    ),
    "object": ("page.html", 'return load("object", {data: url, type: "text/html", width: 9, height: 9})'),
    "embed": ("page.html", 'await load("embed", {src: url, type: "text/html"}); return Boolean(window.ran)'),
    "worker": (
        "worker.js",
        """return spoken(done => {
             const worker = new Worker(url); worker.onmessage = () => done(true); worker.onerror = () => done(false);
           })""",
    ),
    "shared worker": (
        "worker.js",
        """return spoken(done => {
             const worker = new SharedWorker(url);
             worker.port.onmessage = () => done(true); worker.onerror = () => done(false);
           })""",
    ),
    "service worker": (
        "worker.js",
        """return navigator.serviceWorker.register(url).then(() => true, () => false)""",
    ),
    "same-origin fetch": ("data", "return fetch(url).then(response => response.ok, () => false)"),
    "event source": (
        "events",
        """return new Promise(done => {
             const source = new EventSource(url);
             source.onmessage = () => done(true); source.onerror = () => { source.close(); done(false); };
           })""",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LOADS)
def test_response_does_not_act_on_the_dashboard(case: str, target: Target, injected: Page, upstream: Upstream) -> None:
    name, code = LOADS[case]
    acted = injected.evaluate(f"async url => {{ {HELPERS} {code} }}", target.url(name))
    assert not upstream.exchanges, "the provider was asked"
    assert not acted
    assert not [cookie for cookie in injected.context.cookies() if cookie["name"].startswith(("flood", "js-"))]


@pytest.mark.parametrize("method", ["get", "post"])
def test_endpoint_takes_no_form(method: str, target: Target, injected: Page, upstream: Upstream) -> None:
    code = """([url, method]) => {
      const form = Object.assign(document.createElement("form"), {action: url, method});
      form.innerHTML = "<input name=api_key value=sk-pasted>";
      for (const [name, value] of new URL(url).searchParams) form.innerHTML += `<input name=${name} value=${value}>`;
      document.body.append(form);
      form.submit();
    }"""
    with injected.expect_response("**/page.html**") as refused:
        injected.evaluate(code, [target.url("page.html"), method])
    assert (refused.value.status, refused.value.headers["x-strake-error"]) == (403, "browser_refused")
    assert not upstream.exchanges


@pytest.mark.parametrize("name", ["page.html", "redirect", "image.svg"])
@pytest.mark.parametrize("way", ["link", "address bar", "new window"])
def test_endpoint_is_no_page(name: str, way: str, target: Target, injected: Page, upstream: Upstream) -> None:
    url = target.url(name)
    before = injected.context.cookies()
    if way == "address bar":
        page = injected.context.new_page()
        response = page.goto(url)
    else:
        code = """([url, target]) => {
          const link = Object.assign(document.createElement("a"), {href: url, target, textContent: "x", rel: "opener"});
          document.body.append(link); link.click();
        }"""
        page = injected
        with injected.context.expect_event("response", lambda found: found.url == url) as found:
            injected.evaluate(code, [url, "_blank" if way == "new window" else "_self"])
        response = found.value
        if way == "link":
            page.wait_for_url(url)
    assert response is not None
    assert (response.status, response.headers.get("x-strake-error")) == (403, "browser_refused")
    assert "location" not in response.headers
    assert not upstream.exchanges
    assert page.url == url or way == "new window"
    assert injected.context.cookies() == before


@pytest.mark.parametrize("case", sorted(set(LOADS) - {"same-origin fetch", "event source", "prefetch"}))
def test_policy_alone_keeps_responses_out(
    case: str, make_context: Callable[..., BrowserContext], path_target: Target, upstream: Upstream
) -> None:
    """The other fence: the policy of pages stops what is injected before a request is sent.

    Fetches and prefetches are sent, since connect-src has no path.
    """
    page = make_context().new_page()
    page.goto(f"{path_target.dashboard}/security/")
    sent: list[str] = []
    page.context.on("response", lambda response: sent.append(response.url))
    name, code = LOADS[case]
    violated = f"""async url => {{
      const violated = new Promise(done => {{
        document.addEventListener("securitypolicyviolation", event => done(event.effectiveDirective), {{once: true}});
        setTimeout(() => done("no violation"), 20000);
      }});
      (async () => {{ {HELPERS} {code} }})().catch(() => {{}});
      return violated;
    }}"""
    assert page.evaluate(violated, path_target.url(name)) in {
        "script-src", "script-src-elem", "style-src-elem", "img-src", "default-src", "frame-src", "worker-src",
        "object-src",
    }  # fmt: skip
    assert not [url for url in sent if "/p/" in url]
    assert not upstream.exchanges


def test_api_client_of_another_site_gets_through(
    make_context: Callable[..., BrowserContext], target: Target, upstream: Upstream
) -> None:
    page = make_context().new_page()
    page.goto(f"{upstream.url}/page.html")  # the provider itself, which is another site than "localhost"
    upstream.clear()
    upstream.default = hostile
    seen = page.evaluate("url => fetch(url).then(response => response.json())", target.url("data"))
    assert seen == {"ran": True}
    assert upstream.last.path == "/data"
    assert not [cookie for cookie in page.context.cookies(target.base) if cookie["name"].startswith("flood")]


def test_two_strakes_on_one_machine_keep_their_sessions(
    make_context: Callable[..., BrowserContext], strake: Strake, strake_with_own_hosts: Strake
) -> None:
    """Cookies do not belong to a port."""
    context = make_context()
    page = context.new_page()
    for one in (strake, strake_with_own_hosts):
        page.goto(one.call("signin_link", email="two@example.org", staff=False)["link"])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/endpoints/")
    for one in (strake, strake_with_own_hosts):
        page.goto(f"http://localhost:{one.port}/endpoints/")
        assert page.url == f"http://localhost:{one.port}/endpoints/"
    names = {cookie["name"] for cookie in context.cookies()}
    assert {one.session_cookie for one in (strake, strake_with_own_hosts)} <= names
