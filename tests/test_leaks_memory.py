"""How many copies of a key a debugger finds in the memory of a running Strake. SECURITY.md states these numbers."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.support.process import copies, places
from tests.support.running import Endpoint, Strake, prepare_home
from tests.support.services import free_port
from tests.support.token_server import (
    CLIENT_SECRET,
    ENTRA_PARAMETERS,
    GOOGLE_PARAMETERS,
    TokenServer,
    environment_of,
    key_body,
)
from tests.support.upstream import Upstream, eventually, fixed, raw, silence, sse
from tests.test_keyless import hits

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, since the processes are not dumpable")


@pytest.fixture
def key() -> str:
    return f"sk-canary-{secrets.token_hex(20)}"


@pytest.fixture(scope="module")
def strake(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Strake]:
    """A Strake that only this module uses, so that other tests leave nothing in its memory."""
    with Strake(prepare_home(tmp_path_factory.mktemp("memory") / "strake", migrated_database)) as running:
        yield running


@pytest.fixture
def upstream(upstream: Upstream) -> Upstream:
    """An upstream that does not repeat the key in its responses."""
    upstream.default = fixed(200, body=b"{}")
    return upstream


def count_copies(strake: Strake, key: str) -> int:
    """Count the copies of a key in all processes of Strake."""
    return sum(len(copies(pid, key.encode())) for pid in strake.pids)


def get(endpoint: Endpoint, path: str = "/v1/models") -> int:
    return httpx.get(endpoint.url + path, headers=endpoint.bearer, timeout=60).status_code


def test_key_is_found_during_its_request(strake: Strake, upstream: Upstream, key: str) -> None:
    endpoint = strake.connect(upstream.url, key=key)
    assert count_copies(strake, key) == 0, "another process encrypted it"
    upstream.on("/slow", silence)
    with socket.create_connection(strake.address) as client:
        head = f"GET {endpoint.path}/slow HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {endpoint.token}\r\n\r\n"
        client.sendall(head.encode())
        wait_for_request(upstream)
        assert 1 <= count_copies(strake, key) <= 3
    eventually(lambda: count_copies(strake, key) == 0)


def wait_for_request(upstream: Upstream) -> None:
    eventually(lambda: upstream.exchanges)
    time.sleep(0.1)


def test_no_copy_is_left_on_an_open_connection(strake: Strake, upstream: Upstream, key: str) -> None:
    endpoint = strake.connect(upstream.url, key=key)
    for _ in range(21):
        assert get(endpoint) == 200
    assert upstream.last.header("authorization") == f"Bearer {key}".encode()
    assert upstream.open_connections >= 1, "the pool is warm"
    eventually(lambda: count_copies(strake, key) == 0, what="no copy")


def test_no_copy_is_left_of_a_closed_connection(strake: Strake, upstream: Upstream, key: str) -> None:
    endpoint = strake.connect(upstream.url, key=key)
    upstream.on("/v1/models", raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"))
    assert get(endpoint) == 200
    eventually(lambda: count_copies(strake, key) == 0, what="no copy")


def test_uploads_and_streams_leave_no_copy(strake: Strake, upstream: Upstream, key: str) -> None:
    endpoint = strake.connect(upstream.url, key=key, header_name="X-Api-Key", header_template="a{{secret}}b")
    upstream.on("/stream", sse([b"data: x\n\n"] * 20))
    upstream.on("/upload", fixed(200))
    assert httpx.get(f"{endpoint.url}/stream", headers=endpoint.bearer).status_code == 200
    for body in (b"x" * 100, b"x" * 3_000_000, iter([b"x" * 1000] * 50)):
        assert (
            httpx.post(f"{endpoint.url}/upload", headers=endpoint.bearer, content=body, timeout=60).status_code == 200
        )
    assert upstream.last.header("x-api-key") == f"a{key}b".encode()
    eventually(lambda: count_copies(strake, key) == 0, what="no copy")


def test_failures_leave_no_copy(strake: Strake, upstream: Upstream, key: str) -> None:
    endpoint = strake.connect(upstream.url, key=key)
    upstream.on("/reset", raw(then="reset"))
    upstream.on("/nonsense", raw(b"\x00\x01 this is not HTTP\r\n\r\n"))
    upstream.on("/half", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", then="reset"))
    upstream.on("/echo", fixed(200, [("X-Echo", f"Bearer {key}"), ("Location", f"https://x.example/?key={key}")]))
    assert get(endpoint, "/reset") == 502
    assert get(endpoint, "/nonsense") == 502
    with contextlib.suppress(httpx.HTTPError):
        get(endpoint, "/half")
    assert get(endpoint, "/bad//path") == 400
    refused = strake.connect(f"http://127.0.0.1:{free_port()}", key=key)
    assert get(refused) == 502
    eventually(lambda: count_copies(strake, key) == 0, what="no copy")
    # Strake drops headers in which the upstream repeats the key, but cannot wipe their memory.
    assert get(endpoint, "/echo") == 200
    assert count_copies(strake, key) <= 8


def test_tls_leaves_one_copy_until_the_next_request(
    run_strake: Callable[..., Strake], tls_upstream: tuple[Upstream, Path], key: str
) -> None:
    upstream, certificate = tls_upstream
    strake = run_strake(SSL_CERT_FILE=str(certificate))
    endpoint = strake.connect(upstream.url, key=key)
    for _ in range(5):
        assert get(endpoint) == 200
    assert count_copies(strake, key) <= 1
    other = strake.connect(upstream.url, key="sk-other")
    for _ in range(5):
        assert get(other) == 200
    eventually(lambda: count_copies(strake, key) == 0, what="no copy")


def test_data_key_is_left_on_the_stack_at_most(strake: Strake, upstream: Upstream, key: str) -> None:
    endpoint = strake.connect(upstream.url, key=key)
    data_key = bytes.fromhex(
        strake.python(
            "from credentials.vault import keyring, unwrapping; from credentials.models import Credential\n"
            "row = Credential.objects.get(endpoint__subdomain=sys.argv[1])\n"
            "print(unwrapping.unwrap(row.sealed().wrap, row.sealed().format, row.pk, keyring.current()).hex())\n",
            endpoint.subdomain,
        )
    )
    for _ in range(5):
        assert get(endpoint) == 200
    kinds = [kind for pid in strake.pids for kind, _ in places(pid, data_key)]
    # Python's heap holds none. The unused end of the stack, which Python cannot wipe, sometimes keeps one.
    assert kinds in ([], ["[stack]"])


def test_renewal_leaves_no_copy_of_the_secret(
    run_strake: Callable[..., Strake], upstream: Upstream, token_server: TokenServer
) -> None:
    strake = run_strake(**environment_of(token_server))
    entra = strake.make(
        "azure-openai", upstream.url, key=CLIENT_SECRET, kind="azure_entra", parameters=ENTRA_PARAMETERS
    )
    google = strake.make(
        "vertex", upstream.url, key=key_body(), kind="google_service_account", parameters=GOOGLE_PARAMETERS
    )
    strake.hang_up()
    for endpoint in (entra, google):
        assert get(endpoint) == 200
        assert get(endpoint) == 200
    assert len(token_server.given) == 2
    part = key_body()[200:260]
    found = {
        "client secret": CLIENT_SECRET.encode(),
        "client secret in a form": quote(CLIENT_SECRET, safe="").encode(),
        "private key": part.encode(),
        "private key, decoded": base64.b64decode(part),
    }
    eventually(lambda: not [name for name in found for pid in strake.pids if copies(pid, found[name])], what="no copy")
    # The response with an access token cannot be wiped, but later requests use its memory again.
    for token in token_server.given:
        reuses_memory = partial(_few_copies_after_a_request, strake, google, token)
        eventually(reuses_memory, what="memory is used again")


def _few_copies_after_a_request(strake: Strake, endpoint: Endpoint, token: str) -> bool:
    return get(endpoint) == 200 and count_copies(strake, token) <= 2


@pytest.mark.slow
def test_retired_master_key_leaves_every_process(run_strake: Callable[..., Strake], upstream: Upstream) -> None:
    """Also the process that created it at the first start, and gunicorn's arbiter, which needs none."""
    strake = run_strake()
    file = strake.home / "vault" / "master-keys.json"
    document = json.loads(file.read_text())
    retired = base64.b64decode(document["keys"][document["primary"]])
    endpoint = strake.connect(upstream.url)
    assert get(endpoint) == 200
    idle = [pid for pid in strake.pids if pid not in strake.workers]
    assert hits(idle, retired) == 0, "only the workers hold it"
    assert hits(strake.workers, retired) >= 1, "the search finds it"
    strake.manage("create_master_key", check=True)
    strake.manage("rotate_master_key", check=True)
    strake.manage("retire_master_key", document["primary"], check=True)
    eventually(lambda: hits(strake.pids, retired) == 0, seconds=30)
    assert get(endpoint) == 200
    assert hits(strake.pids, retired) == 0
