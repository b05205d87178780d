"""A Strake of its own for one test: a data folder, real server processes, commands, and an upstream on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import free_port, wait_for_port

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Call:
    """An endpoint as its user has it."""

    url: str
    subdomain: str
    token: str
    token_id: str


def as_ordinary_user() -> None:
    """For `preexec_fn`: what is started has no capabilities, also where the tests run as root."""
    libc = ctypes.CDLL(None)
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; what execve would give root is taken from this set


class Installation:
    """One configuration of Strake. Nothing of the environment of the tests gets in."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.port = free_port()
        self.log = home.with_name(f"{home.name}.log")
        self.environment = {
            "PATH": os.environ["PATH"],
            "STRAKE_HOME": str(home),
            "PORT": str(self.port),
            "STRAKE_BASE_URL": f"http://localhost:{self.port}",
            **environment,
        }
        self.server: subprocess.Popen[bytes] | None = None

    def manage(
        self, *arguments: str, given: str = "", check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        result = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env={**self.environment, **environment},
            input=given,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and result.returncode:
            raise AssertionError(f"{arguments}: exit code {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    def python(self, code: str, *arguments: str) -> str:
        """Run code with this installation's models; what it prints."""
        result = subprocess.run(
            [sys.executable, "-c", f"import django, sys; django.setup()\n{code}", *arguments],
            cwd=ROOT,
            env={**self.environment, "DJANGO_SETTINGS_MODULE": "strake.settings"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if result.returncode:
            raise AssertionError(result.stdout + result.stderr)
        return result.stdout

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `manage.py serve`, or another command of this Python, and return once it answers."""
        with self.log.open("ab") as log:
            self.server = subprocess.Popen(
                [sys.executable, *(command or ("manage.py", "serve", "--no-link"))],
                preexec_fn=as_ordinary_user,
                cwd=ROOT,
                env={**self.environment, **environment},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            wait_for_port(self.port, 60)
        except TimeoutError:
            self.stop()
            raise AssertionError(self.log.read_text()) from None
        return self.server

    def stop(self) -> None:
        """Stop the server and every process it started."""
        if self.server is None:
            return
        if self.server.poll() is None:
            self.server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.server.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.server.pid, signal.SIGKILL)  # a session of its own: nobody else's processes are in it
        self.server.wait(10)
        self.server = None

    @contextlib.contextmanager
    def serving(self, *command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        try:
            yield self.start(*command, **environment)
        finally:
            self.stop()

    def processes(self) -> list[int]:
        """The ids of the server and of all its descendants."""
        assert self.server is not None
        found, queue = [], [self.server.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").iterdir():
                queue += map(int, (task / "children").read_text().split())
        return found

    def workers(self) -> list[int]:
        """The ids of the processes that answer requests: the server's children that run its own program."""
        assert self.server is not None
        master = Path(f"/proc/{self.server.pid}/cmdline").read_bytes()
        return [
            pid
            for pid in self.processes()
            if pid != self.server.pid and Path(f"/proc/{pid}/cmdline").read_bytes() == master
        ]

    def connect(self, *, key: str, destination: str, email: str = "alice@example.org", **options: str) -> Call:
        """Connect a provider of one's own, without asking it about the key."""
        code = (
            "from accounts.audit import Actor; from accounts.models import User; from credentials import services\n"
            "data = __import__('json').loads(sys.argv[1])\n"
            "owner, _ = User.objects.get_or_create(email=data.pop('email'))\n"
            "made = services.connect(actor=Actor(owner), owner=owner, provider='custom', unchecked=True, **data)\n"
            "values = [made.endpoint.url, made.endpoint.subdomain, made.plaintext, made.token.pk]\n"
            "print(__import__('json').dumps(values))"
        )
        data = {"email": email, "api_key": key, "destination_url": destination, **options}
        return Call(*json.loads(self.python(code, json.dumps(data)).splitlines()[-1]))

    def request(
        self, call: Call, path: str = "/v1/models", *, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One request through the proxy, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            prefix = "/p/" + call.subdomain
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, prefix + path, body, {"Authorization": f"Bearer {call.token}", **named})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()


class KeyEcho:
    """An upstream that answers with the SHA-256 of the `Authorization` value it got: a test can tell that the right
    key arrived, while the key itself stands in no answer.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @staticmethod
    def answer_to(key: str) -> bytes:
        return hashlib.sha256(f"Bearer {key}".encode()).hexdigest().encode()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> KeyEcho:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._answer, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
                fields = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in head[1:]}
                await reader.readexactly(int(fields.get(b"content-length", b"0")))
                self.requests += 1
                body = hashlib.sha256(fields.get(b"authorization", b"")).hexdigest().encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()
        writer.close()


def wait_until(condition: Any, seconds: float = 10) -> None:
    """Return once `condition()` is true. Raises `AssertionError`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not come true in time")
        time.sleep(0.05)
