"""contrib/kubernetes/strake.yaml: the Job and one pod, as kubelet would run them. PostgreSQL is on the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.container import stores
from tests.container.kubernetes import Pod
from tests.container.podman import Container
from tests.container.stores import Stores
from tests.container.test_files import pods, resources
from tests.support.services import free_port
from tests.support.upstream import eventually
from tests.support.vault import document

pytestmark = pytest.mark.timeout(1800)

HOST = "strake.example.org"
PASSWORDS = {role: f"{number:064x}" for number, role in enumerate(("owner", "proxy", "web"), 1)}
ROLES = {"owner": "strake", "proxy": "strake_proxy", "web": "strake_web"}


def secrets_of(found: Stores) -> dict[str, dict[str, str]]:
    """The Secrets that docs/operations.md creates."""

    def common(role: str) -> dict[str, str]:
        url = f"postgres://{ROLES[role]}:{PASSWORDS[role]}@{stores.HOST}:{found.cluster.port}/strake"
        return {"database-url": url, "redis-url": found.redis_url}

    web = common("web") | {"secret-key": "x" * 64, "email-url": "smtp://127.0.0.1:1"}
    keyring = {"master-keys.json": document()}
    return {
        "strake-owner": common("owner"),
        "strake-proxy": common("proxy"),
        "strake-web": web,
        "strake-keyring": keyring,
    }


@pytest.fixture(scope="module")
def found(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    folder = tmp_path_factory.mktemp("secrets")
    for role, name in ROLES.items():
        (folder / f"database-url-{role}").write_text(f"postgres://{name}:{PASSWORDS[role]}@postgres/strake\n")
    with stores.running(tmp_path_factory.mktemp("redis")) as running:
        running.create_roles(folder)
        yield running


@pytest.fixture(scope="module")
def pod(found: Stores, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Container]]:
    """The Job has run, and the two containers of the Deployment's pod run."""
    values = resources()["ConfigMap"]["data"]
    secrets = secrets_of(found)
    with ExitStack() as stack:
        job = Pod(pods()["Job"], values, secrets, _folder(tmp_path_factory))
        stack.callback(job.remove)
        with job.container("migrate") as migrate:
            assert migrate.wait(300) == 0, migrate.logs()
        made = Pod(pods()["Deployment"], values, secrets, _folder(tmp_path_factory))
        stack.callback(made.remove)
        port = free_port()
        web = stack.enter_context(made.container("web", port=port))
        proxy = stack.enter_context(made.container("proxy", network=web.id))
        proxy.port = port
        proxy.ready("10.9.8.7").ready(HOST, "/healthz")
        yield {"web": web, "proxy": proxy}


def _folder(factory: pytest.TempPathFactory) -> Path:
    folder = factory.mktemp("pod")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)
    return folder


def test_probes_of_both_containers_pass(pod: dict[str, Container]) -> None:
    spec = pods()["Deployment"]
    (proxy,), (web,) = spec["containers"], spec["initContainers"]
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        path = proxy[kind]["httpGet"]["path"]
        assert httpx.get(pod["proxy"].url + path, headers={"Host": "10.9.8.7:8000"}, timeout=30).status_code == 200
    pod["web"].execute(*web["livenessProbe"]["exec"]["command"])


def test_keyring_is_readable_by_group_and_in_one_container(pod: dict[str, Container]) -> None:
    file = "/run/secrets/keyring/master-keys.json"
    assert pod["proxy"].execute("stat", "-c", "%a %u %g", file).split() == ["440", "0", "10001"]
    assert pod["web"].execute("sh", "-c", "ls /run/secrets").split() == ["strake"]


def test_sockets_are_shared_and_private(pod: dict[str, Container]) -> None:
    for container in pod.values():
        modes = container.execute("sh", "-c", "stat -c '%a %u' /run/strake/sockets /run/strake/sockets/*")
        assert {mode[-9:] for mode in modes.splitlines()} == {"700 10001"}


def test_proxy_half_drains_without_a_prestop_hook(pod: dict[str, Container]) -> None:
    proxy = pod["proxy"]
    proxy.signal("TERM")
    eventually(lambda: httpx.get(f"{proxy.url}/readyz", timeout=30).text == "stopping")
    assert httpx.get(f"{proxy.url}/signin/", headers={"Host": HOST}, timeout=60).status_code == 200
    assert proxy.wait(120) == 0
    pod["web"].signal("TERM")
    assert pod["web"].wait(120) == 0
