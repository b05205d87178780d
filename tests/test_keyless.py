"""P5, P6: the web half holds no key, and even code that runs in it gets none.

Deployed (two users, three database roles, PostgreSQL and Redis) and embedded (one user, Landlock), each with a person
who uses every page and the API. Then a debugger searches the memory of every process, and a shell with the web half's
user and environment tries whatever leads to a key.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.browser import Browser
from tests.support.installation import HOST, Installation, installed
from tests.support.postgres import Cluster
from tests.support.process import copies
from tests.support.running import ROOT, Strake, as_ordinary_user, prepare_home
from tests.support.services import RedisServer
from tests.support.upstream import Upstream, fixed
from tests.support.vault import MASTER_KEY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run as other users and to read any memory"),
]


@dataclass
class World:
    """A running Strake, deployed or embedded, as these tests need it."""

    url: str
    origin: str
    operator: Strake
    proxy_pids: Callable[[], list[int]]
    web_pids: Callable[[], list[int]]
    restart_web: Callable[[], None]
    attempts: Callable[..., subprocess.CompletedProcess[str]]
    keyring_file: Path
    installation: Installation | None = None

    @property
    def is_deployed(self) -> bool:
        return self.installation is not None

    def try_everything(self, subdomain: str) -> dict[str, list[str | None]]:
        pids = json.dumps(self.proxy_pids())
        done = self.attempts(pids, str(self.keyring_file), subdomain)
        assert done.returncode == 0, done.stderr
        found: dict[str, list[str | None]] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def deployed(postgres_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    try:
        with installed(postgres_cluster, server.url) as both:
            yield _world_of(both)
    finally:
        server.stop()


def _world_of(both: Installation) -> World:
    return World(
        both.url,
        f"https://{HOST}",
        both.operator,
        lambda: both.proxy_pids,
        lambda: both.web_pids,
        both.restart_web,
        lambda *arguments: both.run_as_web("-m", "tests.support.attempts", *arguments),
        both.keyring_file,
        both,
    )


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[World]:
    with Strake(prepare_home(tmp_path_factory.mktemp("embedded") / "strake", migrated_database)) as strake:

        def attempts(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "tests.support.attempts", *arguments, "confine"],
                cwd=ROOT,
                env=strake.environment | {"STRAKE_PROCESS": "web"},
                preexec_fn=as_ordinary_user,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )

        def web_pids() -> list[int]:
            return [strake.half("web"), *strake.web_workers]

        yield World(
            strake.url,
            f"http://localhost:{strake.port}",
            strake,
            lambda: [strake.pid, strake.half("proxy"), *strake.workers],
            web_pids,
            lambda: _kill_web(strake),
            attempts,
            strake.home / "vault" / "master-keys.json",
        )


def _kill_web(strake: Strake) -> None:
    for pid in (strake.half("web"), *strake.web_workers):
        os.kill(pid, 9)
    response = httpx.get(f"{strake.url}/healthz", headers={"Host": "localhost"}, timeout=60)
    assert response.status_code == 200


@pytest.fixture(params=["embedded", pytest.param("deployed", marks=[pytest.mark.postgres, pytest.mark.redis])])
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(request.param)
    return found


# --- A person who uses everything ------------------------------------------------------------------------------------


def key(kind: str) -> str:
    return f"sk-{kind}-{secrets.token_hex(20)}"


PAGES = [
    "/", "/endpoints/", "/endpoints/connect/", "/endpoints/connect/custom/", "/endpoints/connect/openai/", "/activity/",
    "/audit/", "/settings/", "/settings/tokens/", "/docs/", "/docs/errors/", "/security/", "/privacy/", "/api/v1/docs/",
    "/api/v1/openapi.json", "/admin/", "/admin/health/", "/admin/people/", "/admin/endpoints/",
    "/nonesuch/",
]  # fmt: skip
ENDPOINT_PAGES = ["", "name/", "limits/", "key/", "destination/", "tokens/", "requests/", "traffic/", "delete/"]


def use_everything(world: World, upstream: Upstream, subdomain: str, pasted: Mapping[str, str]) -> None:
    """Open every page, connect, call, rotate, replace the key, delete, in the pages and by the API."""
    link = world.operator.manage("signin_link", "owner@example.org", "--staff", check=True).stdout.strip()
    with Browser(world.url, world.origin) as browser:
        browser.sign_in(link)
        for path in [*PAGES, *(f"/endpoints/{subdomain}/{page}" for page in ENDPOINT_PAGES)]:
            response = browser.get(path)
            assert response.status_code in {200, 302, 303, 404, 405}, (path, response.status_code)
        made = browser.submit(
            "/endpoints/connect/custom/",
            {"api_key": pasted["page"], "destination_url": upstream.url, "unchecked": "on", "label": "By page"},
        )
        assert made.status_code == 201, made.status_code
        own = re.search(r"/p/([a-z0-9]{12})", made.text)
        token = re.search(r"strk_[0-9A-Za-z]{49}", made.text)
        assert own
        assert token
        call(world, own[1], token[0])
        tested = browser.submit(f"/endpoints/{own[1]}/test/", {"token": token[0]}, at=f"/endpoints/{own[1]}/tokens/")
        assert "→ 200" in tested.text
        replaced = browser.submit(f"/endpoints/{own[1]}/key/", {"api_key": pasted["replaced"], "unchecked": "on"})
        assert replaced.status_code in {200, 303}, replaced.status_code
        call(world, own[1], token[0])
        deleted = browser.submit(f"/endpoints/{own[1]}/delete/", {"confirmation": own[1]})
        assert deleted.status_code in {302, 303}, deleted.status_code
    use_the_api(world, upstream, pasted["api"])


def call(world: World, subdomain: str, token: str) -> None:
    response = httpx.get(f"{world.url}/p/{subdomain}/v1/models", headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 200, response.text


def use_the_api(world: World, upstream: Upstream, pasted: str) -> None:
    made = world.operator.manage("create_access_token", "--email=owner@example.org", "--label=script", check=True)
    headers = {"Authorization": f"Bearer {made.stdout.split()[-1]}", "Host": world.origin.partition("://")[2]}
    with httpx.Client(base_url=f"{world.url}/api/v1", headers=headers, timeout=60) as api:
        assert api.get("/me").status_code == 200
        body = {"provider": "custom", "api_key": pasted, "destination_url": upstream.url, "unchecked": True}
        created = api.post("/endpoints", json=body)
        assert created.status_code == 201, created.text
        subdomain, token = created.json()["endpoint"]["subdomain"], created.json()["token"]
        call(world, subdomain, token["plaintext"])
        rotated = api.post(f"/endpoints/{subdomain}/tokens/{token['id']}/rotate")
        assert rotated.status_code == 200
        call(world, subdomain, rotated.json()["token"]["plaintext"])
        assert api.post(f"/endpoints/{subdomain}/credential/rotate", json={"api_key": pasted}).status_code == 200
        assert api.get("/endpoints").status_code == 200
        assert api.delete(f"/endpoints/{subdomain}").status_code == 204


# --- Memory ----------------------------------------------------------------------------------------------------------


def forms(secret: bytes) -> set[bytes]:
    """How a secret may lie in memory: as it is, in base64 (its middle, at any alignment), in hexadecimal."""
    encoded = {base64.b64encode(bytes(shift) + secret)[4:-4] for shift in range(3)}
    return {secret, *encoded, secret.hex().encode(), secret.hex().upper().encode()}


def hits(pids: list[int], secret: bytes) -> int:
    return sum(len(copies(pid, form)) for pid in pids for form in forms(secret))


def data_key_of(world: World, subdomain: str) -> bytes:
    code = (
        "from credentials.vault import keyring, unwrapping; from credentials.models import Credential\n"
        "row = Credential.objects.get(endpoint__subdomain=sys.argv[1]); sealed = row.sealed()\n"
        "print(unwrapping.unwrap(sealed.wrap, sealed.format, row.pk, keyring.current()).hex())\n"
    )
    return bytes.fromhex(world.operator.python(code, subdomain))


def test_web_half_holds_no_key(world: World, upstream: Upstream) -> None:
    upstream.default = fixed(200, body=b"{}")
    sealed_before = key("before")
    endpoint = world.operator.connect(upstream.url, key=sealed_before)
    master_key = MASTER_KEY if world.is_deployed else _master_key(world.keyring_file)
    data_key = data_key_of(world, endpoint.subdomain)
    world.restart_web()
    pasted = {kind: key(kind) for kind in ("page", "replaced", "api")}
    use_everything(world, upstream, endpoint.subdomain, pasted)
    call(world, endpoint.subdomain, endpoint.token)
    web, proxy = world.web_pids(), world.proxy_pids()
    assert len(web) >= 2
    assert hits(proxy, master_key) > 0, "the search finds what is there"
    for name, secret in {
        "master key": master_key,
        "provider key": sealed_before.encode(),
        "data key": data_key,
    }.items():
        assert hits(web, secret) == 0, name
    # What people pasted while it ran stays in freed strings until the worker is replaced.
    world.restart_web()
    for kind, secret_text in pasted.items():
        assert hits(world.web_pids(), secret_text.encode()) == 0, kind


def _master_key(file: Path) -> bytes:
    data: dict[str, Any] = json.loads(file.read_text())
    return base64.b64decode(data["keys"][data["primary"]])


# --- Attempts --------------------------------------------------------------------------------------------------------


def test_code_in_the_web_half_gets_no_key(world: World, upstream: Upstream) -> None:
    endpoint = world.operator.connect(upstream.url)
    found = world.try_everything(endpoint.subdomain)
    succeeded = {name: result for name, (result, _) in found.items() if result is not None}
    if not world.is_deployed:
        # SQLite knows no roles: the rows can be read, and nothing there opens them.
        succeeded = {name: result for name, result in succeeded.items() if not name.startswith("SQL:")}
    assert succeeded == {}
    assert len(found) > 40
    if world.is_deployed:
        assert "permission denied" in str(found["SQL: ciphertext"][1])


def test_attempts_succeed_where_nothing_refuses_them(embedded: World, upstream: Upstream) -> None:
    """The same attempts by the operator, who may: otherwise the test above could see refusals that are mistakes."""
    endpoint = embedded.operator.connect(upstream.url)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.attempts", "[]", str(embedded.keyring_file), endpoint.subdomain],
        cwd=ROOT,
        env=embedded.operator.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("keyring file", "keyring.reload()", "open_key()", "unwrap()", "verify_vault", "SQL: ciphertext"):
        assert found[name][0] is not None, (name, found[name])


ASK = """
import sys, django
django.setup()
from django.conf import settings
import httpx
for socket, path in ((settings.STRAKE_WRAP_SOCKET, "/keys"), (settings.STRAKE_PROXY_SOCKET, "/p/000000000000/x")):
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as client:
            headers = {"strake-wrap-protocol": "1", "host": "localhost"}
            print(client.get(f"http://localhost{path}", headers=headers).status_code)
    except httpx.TransportError as error:
        print(type(error).__name__)
"""


@pytest.mark.postgres
@pytest.mark.redis
def test_sockets_let_in_the_web_user_only(deployed: World) -> None:
    """A third user, although the sockets' group lets it connect."""
    assert deployed.installation is not None
    web = deployed.installation.run_as_web("-c", ASK)
    assert web.stdout.split() == ["200", "401"], web.stderr
    other = deployed.installation.run_as_other("-c", ASK)
    assert len(other.stdout.split()) == 2, other.stderr
    assert set(other.stdout.split()) <= {"RemoteProtocolError", "ReadError"}, "the connection was closed"
