"""Where a running Strake listens, and what it tells load balancers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.support.running import ROOT, Strake
from tests.support.upstream import Upstream, eventually


def test_probes_answer_for_any_host(strake: Strake) -> None:
    for path in ("/livez", "/readyz"):
        for host in ("localhost", "10.9.8.7", "strake.internal:8080"):
            response = httpx.get(strake.url + path, headers={"Host": host})
            assert (response.status_code, response.text) == (200, "ok"), (path, host)
            assert response.headers["cache-control"] == "no-store"


def test_readiness_fails_without_database(run_strake: Callable[..., Strake]) -> None:
    strake = run_strake()
    database = strake.home / "data/strake.sqlite3"
    database.rename(database.with_name("away"))
    # A connection that is open goes on reading the renamed file, so the worker needs a fresh one.
    os.kill(strake.workers[0], signal.SIGKILL)
    eventually(lambda: _readiness(strake) == (503, "database"))
    assert httpx.get(strake.url + "/livez").status_code == 200


def _readiness(strake: Strake) -> tuple[int, str]:
    try:
        response = httpx.get(strake.url + "/readyz")
    except httpx.TransportError:
        return 0, ""
    return response.status_code, response.text


def test_probes_of_an_endpoint_go_to_its_provider(strake: Strake, upstream: Upstream) -> None:
    endpoint = strake.connect(upstream.url)
    httpx.get(endpoint.url + "/readyz", headers=endpoint.bearer)
    assert upstream.last.target == b"/readyz"


def test_readiness_fails_before_accepting_ends(run_strake: Callable[..., Strake]) -> None:
    strake = run_strake(STRAKE_DRAIN_SECONDS="8")
    assert _readiness(strake) == (200, "ok")
    os.kill(strake.pid, signal.SIGTERM)
    eventually(lambda: _readiness(strake) == (503, "stopping"))
    assert httpx.get(strake.url + "/healthz", headers={"Host": "localhost"}).status_code == 200
    assert strake.stop() == 0


def test_both_loopback_families_are_served(strake: Strake) -> None:
    for host in ("127.0.0.1", "[::1]"):
        assert httpx.get(f"http://{host}:{strake.port}/livez").status_code == 200


def test_unix_socket_is_served(tmp_path: Path, migrated_home: Path) -> None:
    path = tmp_path / "http.sock"
    strake = Strake(migrated_home)
    strake.environment["STRAKE_BIND"] = f"127.0.0.1:{strake.port},unix:{path}"
    with strake, httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
        assert client.get("http://localhost/readyz").text == "ok"
    assert not path.exists()


PASS_A_SOCKET = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", PORT="1")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_sockets_of_systemd_are_served(migrated_home: Path) -> None:
    """A service manager passes the socket as descriptor 3, and names the process it is for."""
    with Strake(migrated_home, command=("-c", PASS_A_SOCKET, "manage.py", "serve", "--no-link")) as strake:
        assert httpx.get(f"{strake.url}/readyz").text == "ok"


def test_address_in_use_exits_with_one_line(tmp_path: Path, strake: Strake) -> None:
    environment = {**strake.environment, "STRAKE_HOME": str(tmp_path / "other")}
    done = subprocess.run(
        [sys.executable, "manage.py", "serve"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert f"Port {strake.port} is taken" in done.stderr
    assert done.stderr.count("\n") == 1
