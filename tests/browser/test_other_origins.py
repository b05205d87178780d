"""OpenAI's JavaScript SDK in Chromium, on a page of another origin that a token allows."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.support import npm
from tests.support.running import Endpoint, Strake

# The page that a person would write. The SDK's files load as they are: each import names a file.
CALL = """async ([url, token]) => {
  const { default: OpenAI } = await import("/node_modules/openai/index.mjs");
  const client = new OpenAI({ baseURL: url + "/v1", apiKey: token, dangerouslyAllowBrowser: true, maxRetries: 0 });
  const ask = { model: "strake-demo", messages: [{ role: "user", content: "hi" }] };
  try {
    const { data, request_id } = await client.chat.completions.create(ask).withResponse();
    const parts = [];
    for await (const chunk of await client.chat.completions.create({ ...ask, stream: true }))
      parts.push(chunk.choices[0]?.delta?.content ?? "");
    return { text: data.choices[0].message.content, streamed: parts.join(""), request_id };
  } catch (error) {
    return { kind: error.constructor.name, status: error.status ?? null, code: error.code ?? null,
             header: error.headers?.get("x-strake-error") ?? null };
  }
}"""
TEXT = "Hello from the Strake demo provider. Your tool, the endpoint and the token work."


class QuietHandler(SimpleHTTPRequestHandler):
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The origin of a web server with an empty page and the SDK, installed from the npm registry."""
    folder: Path = tmp_path_factory.mktemp("site")
    npm.install(folder, "openai@7.57.0")
    (folder / "index.html").write_text("<!doctype html><title>app</title>")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://localhost:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def app(browser: Browser, site: str) -> Iterator[Page]:
    """The page of the web server, open in a browser."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(site.replace("localhost", "app.localhost"))
    yield page
    context.close()


@pytest.fixture
def demo(strake: Strake, site: str) -> Endpoint:
    """An endpoint of the demo provider with a token for the page."""
    made = strake.connect(provider="demo", key="any-text-will-do")
    return strake.issue(made, allowed_origins=[site.replace("localhost", "app.localhost")])


@pytest.mark.npm
def test_sdk_works_on_a_page_of_an_allowed_origin(app: Page, demo: Endpoint) -> None:
    assert app.evaluate(CALL, [demo.url, demo.token]) == {"text": TEXT, "streamed": TEXT, "request_id": None}


@pytest.mark.npm
def test_page_reads_why_its_token_is_refused(app: Page, demo: Endpoint, strake: Strake) -> None:
    strake.revoke(demo)
    for token in (demo.token, "strk_mistyped"):
        answer = app.evaluate(CALL, [demo.url, token])
        assert answer == {
            "kind": "AuthenticationError",
            "status": 401,
            "code": "invalid_token",
            "header": "invalid_token",
        }


@pytest.mark.npm
def test_page_of_another_origin_reads_nothing(app: Page, site: str, demo: Endpoint) -> None:
    app.goto(site.replace("localhost", "evil.localhost"))
    answer = app.evaluate(CALL, [demo.url, demo.token])
    assert answer == {"kind": "APIConnectionError", "status": None, "code": None, "header": None}
