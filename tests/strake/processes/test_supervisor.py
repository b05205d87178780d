"""Both halves under one command: what happens when one of them ends, and which secrets each is given."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured

from proxy import relay
from strake.data_dir import DataDir
from strake.processes import landlock
from strake.processes import serve as start_steps
from tests.support import users
from tests.support.running import ROOT, Strake, prepare_home
from tests.support.services import free_port
from tests.support.upstream import Upstream, eventually, sse
from tests.support.vault import document

DEPLOYED = {"STRAKE_BASE_URL": "https://strake.example.org"}
SECRET_KEY = "canary-secret-key-" + "0123456789" * 5


@pytest.fixture
def own(run_strake: Callable[..., Strake]) -> Strake:
    return run_strake()


def page(strake: Strake) -> int:
    """The status of a page. It waits for the web half, again if that takes longer to start than a page waits."""
    while True:
        started = time.monotonic()
        status = httpx.get(f"{strake.url}/signin/", headers={"Host": "localhost"}, timeout=60).status_code
        if status != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() - started < relay.WEB_SECONDS - 0.5:
            return status


def is_alive(pid: int) -> bool:
    """True if a process runs. One that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Streaming:
    """A stream of `events` through an endpoint, half a second long for every five, read in a thread."""

    def __init__(self, strake: Strake, upstream: Upstream, events: int) -> None:
        upstream.on("/stream", sse([b"data: %d\n\n" % number for number in range(events)], every=0.1))
        self._endpoint = strake.connect(upstream.url)
        self._started = threading.Event()
        self._body = b""
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self._started.wait(60)

    def _read(self) -> None:
        try:
            url, headers = f"{self._endpoint.url}/stream", self._endpoint.bearer
            with httpx.stream("GET", url, headers=headers, timeout=60) as response:
                for chunk in response.iter_raw():
                    self._body += chunk
                    self._started.set()
        except httpx.HTTPError as error:
            self._error = error

    def finish(self) -> bytes:
        """Return the whole body. Raises the error that broke the stream."""
        self._thread.join(60)
        if self._error is not None:
            raise self._error
        return self._body


def test_web_half_that_is_killed_starts_again_and_breaks_no_request(own: Strake, upstream: Upstream) -> None:
    stream = Streaming(own, upstream, 40)
    before = own.half("web")
    for pid in (before, *own.web_workers):
        os.kill(pid, signal.SIGKILL)
    assert page(own) == 200, "the page waited for the new web half"
    assert own.half("web") != before
    assert stream.finish().endswith(b"data: 39\n\n")
    assert "The web half ended with code -9. It starts again in 0.2 seconds." in own.log()


def test_web_worker_that_is_killed_is_replaced(own: Strake) -> None:
    half, workers = own.half("web"), own.web_workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: own.web_workers and not set(own.web_workers) & set(workers))
    assert page(own) == 200
    assert own.half("web") == half


def test_proxy_worker_that_is_killed_is_replaced(own: Strake) -> None:
    web, workers = own.half("web"), own.workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: own.workers and not set(own.workers) & set(workers))
    eventually(lambda: _livez(own) == 200)
    assert own.half("web") == web


def _livez(strake: Strake) -> int:
    try:
        return httpx.get(f"{strake.url}/livez").status_code
    except httpx.TransportError:
        return 0


def test_end_of_the_proxy_half_is_the_end_of_all(own: Strake) -> None:
    pids = own.pids
    os.kill(own.half("proxy"), signal.SIGKILL)
    eventually(lambda: not any(map(is_alive, pids)))
    assert own.stop() == 128 + signal.SIGKILL


def test_nothing_is_orphaned_if_the_supervisor_is_killed(own: Strake) -> None:
    pids = own.pids
    os.kill(own.pid, signal.SIGKILL)
    eventually(lambda: not any(map(is_alive, pids)))


def test_hangup_replaces_every_worker_and_breaks_no_stream(own: Strake, upstream: Upstream) -> None:
    stream = Streaming(own, upstream, 40)
    proxy, web, workers = own.half("proxy"), own.half("web"), own.workers
    os.kill(own.pid, signal.SIGHUP)
    eventually(lambda: set(own.workers) - set(workers))
    assert page(own) == 200
    assert stream.finish().endswith(b"data: 39\n\n")
    eventually(lambda: not set(own.workers) & set(workers))
    assert own.half("proxy") == proxy
    assert own.half("web") != web
    assert own.stop() == 0


def test_sigterm_lets_a_stream_finish(own: Strake, upstream: Upstream) -> None:
    stream = Streaming(own, upstream, 30)
    os.kill(own.pid, signal.SIGTERM)
    assert stream.finish().endswith(b"data: 29\n\n")
    assert own.stop() == 0


# --- Secrets -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read /proc/PID/environ")
def test_further_sigterms_change_no_exit_code(own: Strake) -> None:
    """The proxy half may receive one before its handlers are installed, or after it has given them back."""
    pid, ended = own.pid, threading.Event()

    def send_more() -> None:
        while not ended.wait(0.002):
            os.kill(pid, signal.SIGTERM)

    sender = threading.Thread(target=send_more)
    sender.start()
    try:
        eventually(lambda: not is_alive(pid), what="it ends")
    finally:
        ended.set()
        sender.join()
    assert own.stop() == 0


def demo_processes(strake: Strake) -> list[int]:
    children = Path(f"/proc/{strake.pid}/task/{strake.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"strake.demo_provider" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_demo_provider_starts_at_its_first_request(own: Strake) -> None:
    assert not demo_processes(own)
    url = f"http://127.0.0.1:{(own.home / 'data/demo-port').read_text().strip()}/v1/models"
    for _ in range(2):
        assert httpx.get(url, headers={"Authorization": "Bearer demo"}, timeout=60).status_code == HTTPStatus.OK
    (demo,) = demo_processes(own)
    assert own.stop() == 0
    eventually(lambda: not is_alive(demo))


def test_taken_port_of_the_demo_provider_is_said(migrated_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        (migrated_home / "data/demo-port").write_text(str(other.getsockname()[1]))
        with Strake(migrated_home) as strake:
            assert "The demo provider is not running: 127.0.0.1:" in strake.log()


@pytest.mark.root
def test_each_half_gets_its_own_secrets_only(tmp_path: Path, migrated_database: Path) -> None:
    secrets = {"STRAKE_MASTER_KEYS": document(), "STRAKE_SECRET_KEY": SECRET_KEY, "EMAIL_URL": "smtp://127.0.0.1:1"}
    with Strake(prepare_home(tmp_path / "strake", migrated_database, keys=False), secrets) as strake:
        names = {half: _environment_names(strake.half(half)) for half in ("proxy", "web")}
    assert "STRAKE_MASTER_KEYS" in names["proxy"]
    assert not {"STRAKE_SECRET_KEY", "EMAIL_URL"} & names["proxy"]
    assert {"STRAKE_SECRET_KEY", "EMAIL_URL"} <= names["web"]
    assert "STRAKE_MASTER_KEYS" not in names["web"]


def _environment_names(pid: int) -> set[str]:
    shown = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return {line.partition(b"=")[0].decode() for line in shown}


def test_web_half_is_confined(own: Strake) -> None:
    """Landlock shows nothing in /proc, except that it needs a process without a way to more privileges."""
    for pid in (own.half("web"), *own.web_workers):
        assert "NoNewPrivs:\t1\n" in Path(f"/proc/{pid}/status").read_text()
    for pid in (own.half("proxy"), *own.workers):
        assert "NoNewPrivs:\t0\n" in Path(f"/proc/{pid}/status").read_text(), "it is Landlock that set it"


def test_web_half_that_reads_the_keyring_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Landlock's rules may name a folder that holds the data folder too."""
    home = DataDir(tmp_path)
    home.prepare(lambda: "{}")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(landlock, "restrict", lambda **_: True)
    with pytest.raises(ImproperlyConfigured, match=r"The web half can read .*master-keys\.json"):
        start_steps.confine(home)


def test_missing_landlock_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(landlock, "restrict", lambda **_: False)
    start_steps.confine(DataDir(tmp_path))
    assert "this system has no Landlock" in capsys.readouterr().err


@pytest.fixture
def deployed(tmp_path: Path, migrated_url: str, redis_url: str) -> dict[str, str]:
    """The environment that both halves share in a deployed Strake, with a migrated database."""
    environment = DEPLOYED | {"DATABASE_URL": migrated_url, "REDIS_URL": redis_url, "STRAKE_DRAIN_SECONDS": "0"}
    environment["STRAKE_RUNTIME"] = str(tmp_path / "run")
    return environment


@pytest.mark.postgres
@pytest.mark.redis
def test_halves_start_alone_with_their_own_secrets(tmp_path: Path, deployed: dict[str, str]) -> None:
    proxy = Strake(
        tmp_path / "proxy", deployed | {"STRAKE_MASTER_KEYS": document()}, ("manage.py", "serve", "--only=proxy")
    )
    with proxy:
        assert httpx.get(f"{proxy.url}/readyz").text == "ok"
        environment = proxy.environment | {"STRAKE_SECRET_KEY": SECRET_KEY, "EMAIL_URL": "smtp://127.0.0.1:1"}
        del environment["STRAKE_MASTER_KEYS"]
        command = [sys.executable, "manage.py", "serve", "--only=web"]
        with subprocess.Popen(command, cwd=ROOT, env=environment) as web:
            try:
                eventually(lambda: _healthz(proxy) == 200)
            finally:
                web.terminate()
        assert web.returncode == 0
        assert httpx.get(f"{proxy.url}/readyz").text == "ok", "the proxy half does not need the other"


def _healthz(strake: Strake) -> int:
    return httpx.get(f"{strake.url}/healthz", headers={"Host": "strake.example.org"}, timeout=60).status_code


def serve(tmp_path: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = Strake(tmp_path / "strake", environment).environment | {"PORT": str(free_port())}
    command = [sys.executable, "manage.py", "serve", "--no-link", *arguments]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=60)


def test_web_half_refuses_to_know_master_keys(tmp_path: Path) -> None:
    done = serve(tmp_path, {"STRAKE_MASTER_KEYS": document()}, "--only=web")
    assert done.returncode == 78
    assert "The web half must not know master keys" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.postgres
@pytest.mark.redis
def test_web_half_that_cannot_start_ends_both_with_its_message(tmp_path: Path, deployed: dict[str, str]) -> None:
    done = serve(tmp_path, deployed | {"STRAKE_MASTER_KEYS": document(), "EMAIL_URL": "smtp://127.0.0.1:1"})
    assert done.returncode == 78
    (message,) = (line for line in done.stderr.splitlines() if " INFO " not in line)  # start and stop of the other half
    assert "STRAKE_SECRET_KEY (or STRAKE_SECRET_KEY_FILE) must hold" in message


@pytest.mark.parametrize("variable", ["WEB_CONCURRENCY", "STRAKE_WEB_WORKERS"])
def test_sqlite_takes_one_process_of_each_kind(tmp_path: Path, variable: str) -> None:
    done = serve(tmp_path, {variable: "2"})
    assert done.returncode == 78
    assert "With SQLite, one proxy process and one web process run" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.root
def test_interpreter_that_the_user_cannot_execute_is_said(tmp_path: Path) -> None:
    """As with a .venv of a Python in the home folder of root. `setpriv` itself still finds it."""
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    python = hidden / "python"
    python.symlink_to(sys.executable)
    done = subprocess.run(
        [*users.prefix("nobody", "nogroup", ["nogroup"]), str(python), "manage.py", "serve"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "STRAKE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (78, 1), done.stderr
    assert f"This user cannot execute {python}" in done.stderr
    assert "/usr/bin/python3 -m venv --clear .venv" in done.stderr
