"""The image, as compose.yaml runs it: read-only, without capabilities, with one volume and one tmpfs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.container import compose, podman
from tests.container.podman import Container
from tests.support.running import KEY, ROOT, Endpoint
from tests.support.services import free_port
from tests.support.upstream import Upstream, eventually, sse

pytestmark = pytest.mark.timeout(1800)

EVENTS = [f"data: {number}\n\n".encode() for number in range(10)]
# Podman adds writable folders to a read-only container, and Docker does not.
AS_DOCKER = "--read-only-tmpfs=false"


def one_container(volume: str, provider: str, *more: str) -> Container:
    """The service of compose.yaml, with `volume` as its data."""
    port = free_port()
    allowed = provider.removeprefix("http://")
    document = compose.load("compose.yaml", {"PORT": str(port), "STRAKE_ALLOWED_PRIVATE_UPSTREAMS": allowed})
    service = document["services"]["strake"]
    publish = [f"--publish={text}" for text in service["ports"]]
    assert publish == [f"--publish=127.0.0.1:{port}:8000"]
    options = compose.options(service, {}, {"data": volume})
    return Container([*options, *publish, AS_DOCKER, *more], port=port)


@pytest.fixture(scope="module")
def volume() -> Iterator[str]:
    podman.podman("volume", "rm", "--force", "strake-test-data")
    yield "strake-test-data"
    podman.podman("volume", "rm", "--force", "strake-test-data")


@pytest.fixture(scope="module")
def running(image: str, volume: str, outside: Upstream) -> Iterator[Container]:
    with one_container(volume, f"http://host.containers.internal:{outside.port}") as container:
        yield container.ready()


def ask(endpoint: Endpoint) -> int:
    response = httpx.post(f"{endpoint.url}/v1/echo", headers=endpoint.bearer | {"Host": "localhost"}, timeout=60)
    return response.status_code


def test_image_is_small_and_says_what_it_is(image: str) -> None:
    found = podman.inspect()
    print(podman.layers())  # noqa: T201  (make container shows it)
    assert found["Size"] <= podman.MAX_BYTES
    assert found["Config"]["User"] == "10001:10001"
    assert found["Config"]["Volumes"] == {"/data": {}}
    assert found["Labels"]["org.opencontainers.image.licenses"] == "MIT"


def test_image_holds_only_what_runs(image: str) -> None:
    listed = podman.podman("run", "--rm", "--entrypoint=ls", image, "-A", "/opt/strake").split()
    packages = {"accounts", "credentials", "proxy", "strake", "templates"}
    assert set(listed) == packages | {".venv", "LICENSE", "manage.py", "requirements.txt", "sbom.json"}
    document = json.loads(podman.podman("run", "--rm", "--entrypoint=cat", image, "sbom.json"))
    assert document["bomFormat"] == "CycloneDX"
    pinned = set(re.findall(r"^([\w.-]+==[^ ]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert {f"{one['name']}=={one['version']}" for one in document["components"]} == pinned


def test_first_start_prints_a_link_that_signs_in(running: Container) -> None:
    links = re.findall(r"http://localhost:\d+/signin/link/\S+", running.logs())
    assert len(links) == 1
    assert links[0].startswith(f"http://localhost:{running.port}/")
    assert httpx.get(links[0], timeout=60, follow_redirects=True).status_code == 200
    assert "not confined" not in running.logs()


def test_health_check_of_the_image_passes(running: Container) -> None:
    podman.podman("healthcheck", "run", running.id)
    command = podman.inspect()["Healthcheck"]["Test"]
    assert command[0] == "CMD"
    stopped = podman.podman("run", "--rm", f"--entrypoint={json.dumps(command[1:])}", podman.IMAGE, check=False)
    assert not stopped  # nobody listens there


def test_endpoint_forwards_to_a_server_of_the_host(running: Container, outside: Upstream, provider: str) -> None:
    endpoint = running.connect(provider)
    assert ask(endpoint) == 200
    assert outside.last.header("authorization") == f"Bearer {KEY}".encode()


def test_only_data_and_tmpfs_are_writable(running: Container) -> None:
    folders = "/ /opt/strake /vault /var/tmp /run /etc /data /tmp"
    script = f"for folder in {folders}; do test -w $folder && echo $folder; done; true"
    assert running.execute("sh", "-c", script).split() == ["/data", "/tmp"]
    found = running.execute("sh", "-c", "id -u; grep -E '^(NoNewPrivs|CapEff|CapBnd):' /proc/self/status").split()
    assert found[0] == "10001"
    assert set(found[2::2]) == {"1", "0" * 16}
    modes = running.execute("stat", "-c", "%a %U", "/data/vault", "/data/vault/master-keys.json", "/tmp/strake")
    assert modes.splitlines() == ["700 strake", "600 strake", "700 strake"]


def test_stream_finishes_after_sigterm_and_data_survive(running: Container, outside: Upstream, provider: str) -> None:
    endpoint = running.connect(provider)
    outside.on("/v1/stream", sse(EVENTS, every=1.0))
    received = b""
    with httpx.stream("POST", f"{endpoint.url}/v1/stream", headers=endpoint.bearer, timeout=120) as response:
        for piece in response.iter_raw():
            if not received:
                running.signal("TERM")
            received += piece
    assert received == b"".join(EVENTS)
    assert running.wait() == 0
    running.start_again()
    running.ready()
    assert ask(endpoint) == 200
    assert "all" in running.manage("verify_vault").lower()


def test_new_container_on_the_same_volume_goes_on(
    running: Container, volume: str, outside: Upstream, provider: str
) -> None:
    endpoint = running.connect(provider)
    running.signal("TERM")
    assert running.wait() == 0
    with one_container(volume, provider) as next_version:
        next_version.ready()
        assert ask(Endpoint(f"{next_version.url}/p/{endpoint.subdomain}", "", endpoint.token, "")) == 200
    running.start_again()
    running.ready()


def test_wrong_setting_ends_with_one_line(image: str) -> None:
    with Container(["--env=STRAKE_BASE_URL=http://strake.example.org"]) as wrong:
        assert wrong.wait() == 78
        assert wrong.logs() == "strake: STRAKE_BASE_URL must use https: plain http is for loopback only\n"


def test_folder_of_another_user_is_explained(image: str, tmp_path: Path) -> None:
    with Container([f"--volume={tmp_path}:/data"]) as wrong:
        assert wrong.wait() == 78
        (line,) = wrong.logs().splitlines()
        assert line.startswith("strake: STRAKE_HOME is /data, which cannot be used: ")


def test_any_user_can_run_it(image: str, tmp_path: Path, provider: str, outside: Upstream) -> None:
    os.chown(tmp_path, 12345, 12345)
    tmp_path.chmod(0o700)
    with one_container(str(tmp_path), provider, "--user=12345:12345") as container:
        container.ready()
        assert container.execute("id", "-u").strip() == "12345"
        assert ask(container.connect(provider)) == 200
        assert "not confined" not in container.logs()


def test_end_of_the_web_half_leaves_forwarding_alone(running: Container, outside: Upstream, provider: str) -> None:
    endpoint = running.connect(provider)
    kill = (
        "for pid in $(cat /proc/1/task/1/children); do grep -aq only=web /proc/$pid/cmdline && kill -9 $pid; done; true"
    )
    running.execute("sh", "-c", kill)
    assert ask(endpoint) == 200
    eventually(lambda: "The web half ended with code -9" in running.logs())
    running.ready(path="/healthz")
