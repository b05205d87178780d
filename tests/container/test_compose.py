"""compose.full.yaml: its containers of Strake, as it describes them, with PostgreSQL and Redis on the host."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.container import compose, podman, stores
from tests.container.podman import Container
from tests.container.stores import Stores
from tests.support.running import KEY, ROOT, Endpoint
from tests.support.services import free_port
from tests.support.upstream import Upstream, eventually, sse

pytestmark = pytest.mark.timeout(1800)

HOST = "strake.example.org"
EVENTS = [f"data: {number}\n\n".encode() for number in range(8)]


class Deployment:
    """The services of the file, each started by hand."""

    def __init__(self, folder: Path, found: Stores, provider: str) -> None:
        values = {"STRAKE_HOST": HOST}
        self.document = compose.load("compose.full.yaml", values)
        script = ["sh", str(ROOT / "contrib/compose/secrets.sh")]
        environment = {"PATH": os.environ["PATH"], "EMAIL_URL": "smtp://127.0.0.1:1"}
        subprocess.run(script, cwd=folder, env=environment, check=True, timeout=60)
        self.secrets = compose.secret_files(self.document, folder)
        found.create_roles(folder / "secrets")
        stores.with_host(self.secrets, found)
        self.volumes = {name: f"strake-full-{name}" for name in ("run", "vault")}
        self._more = podman.variables(
            {"REDIS_URL": found.redis_url, "STRAKE_ALLOWED_PRIVATE_UPSTREAMS": provider.removeprefix("http://")}
        )

    def options(self, name: str) -> list[str]:
        service = self.document["services"][name]
        own = compose.options(service, self.secrets, self.volumes)
        return [*own, *self._more, "--read-only-tmpfs=false", "--no-healthcheck"]

    def run(self, name: str, *command: str, text: str | None = None) -> str:
        """Run a service to its end."""
        words = command or self.document["services"][name]["command"]
        return podman.podman("run", "--rm", "--interactive", *self.options(name), podman.IMAGE, *words, text=text)

    def container(self, name: str) -> Container:
        port = free_port()
        published = [f"--publish=127.0.0.1:{port}:8000"] if name == "proxy" else []
        command = self.document["services"][name]["command"]
        return Container([*self.options(name), *published], command, port=port)

    def create_volumes(self) -> None:
        self.remove_volumes()
        for name, volume in self.volumes.items():
            compose.create_volume(volume, self.document["volumes"][name])

    def remove_volumes(self) -> None:
        for volume in self.volumes.values():
            podman.podman("volume", "rm", "--force", volume)


@pytest.fixture(scope="module")
def deployment(image: str, tmp_path_factory: pytest.TempPathFactory, outside: Upstream) -> Iterator[Deployment]:
    with ExitStack() as stack:
        found = stack.enter_context(stores.running(tmp_path_factory.mktemp("redis")))
        provider = f"http://{stores.HOST}:{outside.port}"
        made = Deployment(tmp_path_factory.mktemp("full"), found, provider)
        made.create_volumes()
        stack.callback(made.remove_volumes)
        made.run("manage", "create_master_key")
        made.run("migrate")
        yield made


@pytest.fixture(scope="module")
def halves(deployment: Deployment) -> Iterator[dict[str, Container]]:
    """Both halves running, the web half first."""
    with deployment.container("web") as web, deployment.container("proxy") as proxy:
        proxy.ready(HOST).ready(HOST, "/healthz")
        yield {"web": web, "proxy": proxy}


def connect(deployment: Deployment, proxy: Container, provider: str) -> Endpoint:
    import json

    options = ["--email=me@example.org", "--provider=custom", f"--destination={provider}", "--key-stdin", "--json"]
    made: dict[str, Any] = json.loads(deployment.run("manage", "connect", *options, "--unchecked", text=KEY))
    return Endpoint(f"{proxy.url}/p/{made['subdomain']}", made["subdomain"], made["token"], made["token_id"])


def test_both_halves_are_healthy(deployment: Deployment, halves: dict[str, Container]) -> None:
    _, *check = deployment.document["services"]["web"]["healthcheck"]["test"]
    halves["web"].execute(*check)
    halves["proxy"].execute("python", "-c", "print(open('/vault/master-keys.json').read()[:1])")
    response = httpx.get(f"{halves['proxy'].url}/signin/", headers={"Host": HOST}, timeout=60)
    assert response.status_code == 200


def test_endpoint_forwards(
    deployment: Deployment, halves: dict[str, Container], outside: Upstream, provider: str
) -> None:
    endpoint = connect(deployment, halves["proxy"], provider)
    response = httpx.post(f"{endpoint.url}/v1/x", headers=endpoint.bearer | {"Host": HOST}, timeout=60)
    assert response.status_code == 200
    assert outside.last.header("authorization") == f"Bearer {KEY}".encode()


def test_web_half_sees_no_keyring_and_no_other_secret(halves: dict[str, Container]) -> None:
    assert halves["web"].execute("ls", "-A", "/vault").split() == []
    assert set(halves["web"].execute("ls", "/run/secrets").split()) == {"database-url-web", "secret-key", "email-url"}
    assert halves["proxy"].execute("ls", "/run/secrets").split() == ["database-url-proxy"]
    names = halves["web"].execute("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "proxy" not in names
    mode = halves["web"].execute("stat", "-c", "%a %u", "/run/strake", "/run/strake/web", "/run/strake/proxy")
    assert mode.splitlines() == ["700 10001"] * 3


def test_stopping_lets_streams_finish_and_pages_work_meanwhile(
    deployment: Deployment, halves: dict[str, Container], outside: Upstream, provider: str
) -> None:
    proxy = halves["proxy"]
    endpoint = connect(deployment, proxy, provider)
    outside.on("/v1/stream", sse(EVENTS, every=1.5))
    headers = endpoint.bearer | {"Host": HOST}
    received = b""
    with httpx.stream("POST", f"{endpoint.url}/v1/stream", headers=headers, timeout=120) as response:
        for piece in response.iter_raw():
            if not received:
                proxy.signal("TERM")
                probe = eventually(lambda: _readiness(proxy) or None)
                assert probe == (503, "stopping")
                page = httpx.get(f"{proxy.url}/signin/", headers={"Host": HOST}, timeout=60)
                assert page.status_code == 200
            received += piece
    assert received == b"".join(EVENTS)
    assert proxy.wait() == 0
    proxy.start_again()
    proxy.ready(HOST)
    halves["web"].signal("TERM")
    assert halves["web"].wait() == 0
    halves["web"].start_again()
    proxy.ready(HOST, "/healthz")


def _readiness(proxy: Container) -> tuple[int, str] | None:
    response = httpx.get(f"{proxy.url}/readyz", headers={"Host": HOST}, timeout=30)
    return (response.status_code, response.text) if response.status_code != 200 else None


def test_rotation_reaches_the_running_proxy_half(
    deployment: Deployment, halves: dict[str, Container], outside: Upstream, provider: str
) -> None:
    endpoint = connect(deployment, halves["proxy"], provider)
    deployment.run("manage", "create_master_key")
    deployment.run("manage", "rotate_master_key")
    response = httpx.post(f"{endpoint.url}/v1/x", headers=endpoint.bearer | {"Host": HOST}, timeout=60)
    assert response.status_code == 200


def test_caddy_accepts_its_file() -> None:
    caddy = shutil.which("caddy")
    assert caddy, "apt-get install caddy"
    command = [caddy, "validate", "--adapter", "caddyfile", "--config", str(ROOT / "contrib/compose/Caddyfile")]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "STRAKE_HOST": HOST}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
