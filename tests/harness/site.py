"""Two hosts that run Strake, with HAProxy in front, PostgreSQL with a standby, and Redis, on a machine each."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg

from credentials.vault.keyring import new_document
from tests.harness.moving_clock import MovingClock
from tests.harness.name_server import NameServer
from tests.support import machines
from tests.support.fronts import OPERATIONS
from tests.support.machines import Machine
from tests.support.postgres import SUPERUSER, Cluster
from tests.support.running import ROOT, Endpoint, Strake
from tests.support.services import RedisServer, wait_for_port
from tests.support.upstream import Upstream, eventually, sse

NAME = "strake.example.org"
PROVIDER = "provider.example.net"
FRONT = 8080  # HAProxy's port
PORT = 8000  # of each host
STREAM_SECONDS, EVENT_SECONDS = 6.0, 0.5
DISK_MB = 64
SERVER_SETTINGS: dict[str, Any] = {
    "synchronous_commit": "on",
    "max_connections": 60,
    # How soon a server and its standby notice that the other one is gone.
    "wal_sender_timeout": "5s",
    "wal_receiver_timeout": "5s",
    "wal_retrieve_retry_interval": "500ms",
}


class Host(Strake):
    """One host. It has no capabilities, as in production."""

    def __init__(self, machine: Machine, folder: Path, environment: dict[str, str], root: Path = ROOT) -> None:
        self.machine = machine
        self.clock = MovingClock(folder / f"{machine.name}-clock")
        super().__init__(
            folder / machine.name,
            {**environment, "STRAKE_BIND": f"{machine.address}:{PORT}"},
            command=("manage.py", "serve", "--wait-for-migrations"),
            prefix=(*machine.prefix, "setpriv", "--bounding-set=-all"),
            root=root,
        )

    @property
    def address(self) -> tuple[str, int]:
        return (self.machine.address, PORT)

    def wait_until_ready(self) -> None:
        """Wait until HAProxy sends requests here again: it looks once a second, and wants to see it ready twice."""
        url = f"http://{self.machine.address}:{PORT}/readyz"
        eventually(lambda: _status(url) == 200, 120)
        time.sleep(4)

    def on_commit(self, root: Path, command: Sequence[str]) -> None:
        """Run other code from the next start on."""
        self._root, self._command = root, command


class RemoteRedis(RedisServer):
    """A Redis on a machine."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        super().__init__(folder)
        self._machine = machine

    @property
    def url(self) -> str:
        return f"redis://{self._machine.address}:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", self._machine.address, "--dir", str(self.folder)]
        options += ["--protected-mode", "no", "--save", "", "--appendonly", "yes", "--appendfsync", "no"]
        command = [*self._machine.prefix, "redis-server", *options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for_port(self.port, host=self._machine.address)


@dataclass
class Site:
    """Everything, running."""

    folder: Path
    names: NameServer
    provider: Upstream
    primary: Cluster
    standby: Cluster
    redis: RemoteRedis
    hosts: list[Host]
    database_machine: Machine
    endpoint: Endpoint
    session: str = ""

    def query(self, statement: str) -> Any:
        """The first value of a statement's result, on the server that writes."""
        url = f"{self.hosts[0].environment['DATABASE_URL']}&connect_timeout=20"
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute(statement.encode()).fetchone()
        return row[0] if row else None

    def records(self) -> int:
        return int(self.query("SELECT count(*) FROM proxy_requestrecord"))

    def sign_in(self) -> None:
        self.session = _sign_in(self.hosts[0])

    def log(self) -> str:
        return "".join(host.log() for host in self.hosts)


@contextmanager
def site(folder: Path, root: Path = ROOT, command: Sequence[str] = ("manage.py", "serve")) -> Iterator[Site]:
    """Start it. `root` is the folder of the code, and `command` starts it."""
    with ExitStack() as stack:
        names = stack.enter_context(NameServer(folder))
        provider = stack.enter_context(Upstream(host=machines.ADDRESS))
        provider.on("/stream", sse([b"data: x\n\n"] * int(STREAM_SECONDS / EVENT_SECONDS), every=EVENT_SECONDS))
        named = [Machine(name, number) for number, name in enumerate(("db1", "db2", "redis", "host1", "host2"), 11)]
        db1, db2, redis_machine, *host_machines = named
        primary, standby = _clusters(stack, folder, db1, db2)
        redis = RemoteRedis(redis_machine, folder)
        redis.start()
        stack.callback(redis.stop)
        environment = _environment(folder, f"{primary.url}?sslmode=require&target_session_attrs=read-write", redis.url)
        servers = f"{primary.host}:{primary.port},{standby.host}:{standby.port}"
        environment["DATABASE_URL"] = environment["DATABASE_URL"].replace(f"{primary.host}:{primary.port}", servers)
        hosts = [Host(machine, folder, environment, root) for machine in host_machines]
        hosts[0].manage("migrate", "-v0", check=True)
        made = _connect(hosts[0], provider)
        hosts[0].environment |= hosts[0].clock.environment
        for host in hosts:
            host.on_commit(root, command)
            stack.callback(host.stop)
            host.start()
        stack.enter_context(_haproxy(folder))
        running = Site(folder, names, provider, primary, standby, redis, hosts, db1, made)
        running.sign_in()
        yield running


def _clusters(stack: ExitStack, folder: Path, db1: Machine, db2: Machine) -> tuple[Cluster, Cluster]:
    """A server and its standby. What is committed is on both. The tables are on a small disk."""
    made, disks = [], []
    for machine in (db1, db2):
        place, disk = folder / f"postgres-{machine.name}", folder / f"disk-{machine.name}"
        place.mkdir()
        disk.mkdir()
        machines.run("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(disk))
        shutil.chown(disk, "postgres")
        disks.append(disk)
        stack.callback(machines.run, "umount", str(disk))
        made.append(Cluster(place, host=machine.address, prefix=machine.prefix, **SERVER_SETTINGS))
        stack.callback(_stop, made[-1])
    primary, standby = made
    primary.create()
    with psycopg.connect(primary.url_of("postgres", SUPERUSER), autocommit=True) as connection:
        connection.execute(f"CREATE TABLESPACE small LOCATION '{disks[0]}'".encode())
        connection.execute("ALTER DATABASE strake SET TABLESPACE small")
        standby.create_standby(primary, f"--tablespace-mapping={disks[0]}={disks[1]}")
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        connection.execute("SELECT pg_reload_conf()")
    return primary, standby


def _stop(cluster: Cluster) -> None:
    with contextlib.suppress(subprocess.CalledProcessError):  # a test has stopped it
        cluster.stop()


def _environment(folder: Path, database_url: str, redis_url: str) -> dict[str, str]:
    secret = {"STRAKE_SECRET_KEY_FILE": secrets.token_urlsafe(50), "STRAKE_MASTER_KEYS_FILE": new_document()}
    for name, content in secret.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(content)
    return {name: str(folder / name) for name in secret} | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "EMAIL_URL": "smtp://127.0.0.1:1",
        "STRAKE_BASE_URL": f"https://{NAME}",
        "STRAKE_TRUSTED_PROXIES": "1",
        "STRAKE_ALLOWED_PRIVATE_UPSTREAMS": f"{machines.ADDRESS}/32",
        "WEB_CONCURRENCY": "2",
    }


def _connect(host: Host, provider: Upstream) -> Endpoint:
    """Connect an endpoint whose token has a limit, which is counted in Redis, that nobody reaches."""
    arguments = f"--email a@example.org --provider custom --destination http://{PROVIDER}:{provider.port} --key-stdin"
    made = json.loads(host.manage("connect", *arguments.split(), "--json", stdin="sk-0123456789", check=True).stdout)
    host.python("from credentials.models import BearerToken; BearerToken.objects.update(requests_per_minute=1_000_000)")
    return Endpoint(**made)


def _sign_in(host: Host) -> str:
    """The header Cookie of a session."""
    link = host.manage("signin_link", "a@example.org", check=True).stdout.strip()
    headers = {"Host": NAME, "Origin": f"https://{NAME}"}
    with httpx.Client(base_url=f"http://{machines.ADDRESS}:{FRONT}", headers=headers) as client:
        shown = client.get(link.removeprefix(f"https://{NAME}"))
        cookies = [value.partition(";")[0] for value in shown.headers.get_list("set-cookie")]
        confirm = client.get(shown.headers["location"], headers={"Cookie": "; ".join(cookies)})
        cookies += [value.partition(";")[0] for value in confirm.headers.get_list("set-cookie")]
        form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', confirm.text))
        signed_in = client.post("/signin/confirm/", data=form, headers={"Cookie": "; ".join(cookies)})
        set_cookies = signed_in.headers.get_list("set-cookie")
    return next(value for value in set_cookies if "session" in value).partition(";")[0]


@contextmanager
def _haproxy(folder: Path) -> Iterator[None]:
    """HAProxy with the documented configuration for two hosts, and without TLS."""
    (one,) = re.findall(r"^```haproxy\n(.*?)^```$", OPERATIONS.read_text(), flags=re.DOTALL | re.MULTILINE)
    (two,) = re.findall(r"^```cfg\n(.*?)^```$", OPERATIONS.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = one[: one.index("\nbackend strake") + 1] + two
    text = re.sub(r"bind :443 .*", f"bind {machines.ADDRESS}:{FRONT}", text)
    for number, name in ((14, "host1"), (15, "host2")):
        text = re.sub(rf"server {name} \S+", f"server {name} {machines.NETWORK}.{number}:{PORT}", text)
    (folder / "haproxy.cfg").write_text(text)
    running = subprocess.Popen(["haproxy", "-db", "-f", str(folder / "haproxy.cfg")], stdout=sys.stderr)
    try:
        wait_for_port(FRONT, host=machines.ADDRESS)
        yield
    finally:
        running.kill()
        running.wait(10)


def _status(url: str) -> int:
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return 0
