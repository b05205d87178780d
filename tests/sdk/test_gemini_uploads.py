"""`files.upload` of Google's SDKs, in both forms of an endpoint's URL. Only the base URL and the key differ."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REQUIRE_SERVICES
from tests.support import npm
from tests.support.gemini import Gemini
from tests.support.running import KEY, Endpoint, Strake, prepare_home
from tests.support.upstream import Upstream

DOMAIN = "endpoints.localhost"
BYTES = os.urandom(1024) * 9 * 1024  # 9 MiB: both SDKs send 8 MiB at once

# Not every resolver knows that names below localhost are this machine.
PYTHON = f"""
import json, socket, sys
resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **options: resolve(
    "127.0.0.1" if str(host).endswith(".{DOMAIN}") else host, *rest, **options
)
from google import genai
url, token, file = sys.argv[1:]
client = genai.Client(api_key=token, http_options=genai.types.HttpOptions(base_url=url))
uploaded = client.files.upload(file=file)
print(json.dumps([uploaded.name, client.files.get(name=uploaded.name).state.value]))
"""
JAVASCRIPT = f"""
import dns from "node:dns";
const resolve = dns.lookup;
dns.lookup = (host, options, done) => {{
  if (!host.endsWith(".{DOMAIN}")) return resolve(host, options, done);
  return options.all ? done(null, [{{ address: "127.0.0.1", family: 4 }}]) : done(null, "127.0.0.1", 4);
}};
const {{ GoogleGenAI }} = await import("@google/genai");
const [url, token, file] = process.argv.slice(2);
const client = new GoogleGenAI({{ apiKey: token, httpOptions: {{ baseUrl: url }} }});
const uploaded = await client.files.upload({{ file, config: {{ mimeType: "text/plain" }} }});
console.log(JSON.stringify([uploaded.name, (await client.files.get({{ name: uploaded.name }})).state]));
"""


@pytest.fixture(scope="module")
def own_hosts(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Strake]:
    """A running Strake whose endpoints have hosts."""
    strake = Strake(
        prepare_home(tmp_path_factory.mktemp("own-hosts") / "strake", migrated_database),
        {"STRAKE_PROXY_DOMAIN": DOMAIN},
    )
    # Not localhost, of which the domain is a part.
    strake.environment |= {"STRAKE_BASE_URL": strake.url, "STRAKE_RUNTIME": f"{strake.home}-run"}
    with strake:
        yield strake


@pytest.fixture(params=["path", "own host"])
def running(request: pytest.FixtureRequest) -> Strake:
    """A running Strake with endpoints in one form."""
    strake: Strake = request.getfixturevalue("strake" if request.param == "path" else "own_hosts")
    return strake


@pytest.fixture
def gemini(upstream: Upstream) -> Gemini:
    return Gemini(upstream, KEY)


@pytest.fixture
def endpoint(running: Strake, upstream: Upstream) -> Endpoint:
    made = running.connect(upstream.url, header_name="x-goog-api-key", header_template="{{secret}}")
    if "STRAKE_PROXY_DOMAIN" not in running.environment:
        return made
    return Endpoint(f"http://{made.subdomain}.{DOMAIN}:{running.port}", made.subdomain, made.token, made.token_id)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A script beside Google's JavaScript SDK, installed from the npm registry."""
    folder = tmp_path_factory.mktemp("genai")
    npm.install(folder, "@google/genai@2.32.0")
    script = folder / "upload.mjs"
    script.write_text(JAVASCRIPT)
    return script


@pytest.fixture(params=["python", pytest.param("javascript", marks=pytest.mark.npm)])
def sdk(request: pytest.FixtureRequest) -> list[str]:
    """The command that uploads a file: URL, token and file are its arguments."""
    if request.param == "javascript":
        return ["node", str(request.getfixturevalue("node"))]
    if not REQUIRE_SERVICES:
        pytest.importorskip("google.auth", reason="google-genai is not installed")
    return [sys.executable, "-W", "ignore", "-c", PYTHON]


def upload(sdk: list[str], endpoint: Endpoint, folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "notes.txt"
    file.write_bytes(BYTES)
    command = [*sdk, endpoint.url, endpoint.token, str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_upload_behaves_as_against_google(
    sdk: list[str], endpoint: Endpoint, gemini: Gemini, upstream: Upstream, tmp_path: Path
) -> None:
    done = upload(sdk, endpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["files/abc-123", "ACTIVE"]
    (session,) = gemini.sessions.values()
    half = 8 * 1024 * 1024
    parts = [(0, BYTES[:half]), (half, BYTES[half:])]
    assert session.chunks == [(offset, len(part), hashlib.sha256(part).hexdigest()) for offset, part in parts]
    started, *chunks, _ = upstream.exchanges
    assert started.header("x-goog-api-key") == KEY.encode()
    for exchange in chunks:
        assert exchange.header("x-goog-api-key") is None
        assert endpoint.token.encode() not in exchange.raw_head
        assert b"_strake" not in exchange.raw_head


def test_revoking_ends_an_upload_in_the_middle(
    sdk: list[str], running: Strake, endpoint: Endpoint, gemini: Gemini, tmp_path: Path
) -> None:
    gemini.after_chunk = lambda: running.revoke(endpoint)
    done = upload(sdk, endpoint, tmp_path)
    assert done.returncode != 0
    (session,) = gemini.sessions.values()
    assert [offset for offset, _, _ in session.chunks] == [0]
    assert not session.is_final
