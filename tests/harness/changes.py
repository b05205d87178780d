"""Changes of access by the real services, in a process that uses the token as soon as a call has returned.

`python -m tests.harness.changes PROCESSES` reads calls from standard input as JSON lines, and prints when each began
and returned. A call may ask for probes: a request to each proxy process before the call, a few during it, and one at
once after it.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import django

django.setup()

from django.db.models.functions import Now  # noqa: E402
from django.utils import timezone  # noqa: E402

from accounts import users  # noqa: E402
from accounts.actors import OPERATOR  # noqa: E402
from credentials import services  # noqa: E402
from credentials.models import BearerToken  # noqa: E402
from tests.harness.access import KEY, Access  # noqa: E402
from tests.harness.processes import Process  # noqa: E402
from tests.support import provisioner  # noqa: E402

# --- Calls ---------------------------------------------------------------------------------------------------------


def connect(access: Access) -> None:
    access.key, access.destination = access.key + 1, access.destination + 1
    made = provisioner.connect(
        email=access.email, key=f"{KEY}{access.key}", destination_url=f"{access.upstream}/{access.destination}"
    )
    access.subdomain, access.token, access.token_id = made["subdomain"], made["token"], made["token_id"]
    access.runs_out = 0.0


def issue(access: Access) -> None:
    issued = provisioner.issue(subdomain=access.subdomain)
    access.token, access.token_id, access.runs_out = issued["token"], issued["token_id"], 0.0


def issue_for(access: Access) -> None:
    end, now = timezone.now() + timedelta(seconds=access.seconds), time.monotonic()
    issued = services.issue_token(actor=OPERATOR, subdomain=access.subdomain, expires_at=end)
    access.token, access.token_id, access.runs_out = issued.plaintext, issued.token.pk, now + access.seconds


def rotate(access: Access) -> None:
    access.token = provisioner.rotate(token_id=access.token_id)["token"]


def revoke(access: Access) -> None:
    provisioner.revoke(token_id=access.token_id)


def pause(access: Access) -> None:
    provisioner.pause(subdomain=access.subdomain)


def resume(access: Access) -> None:
    provisioner.resume(subdomain=access.subdomain)


def suspend(access: Access) -> None:
    users.suspend(actor=OPERATOR, user=users.find(access.email))


def readmit(access: Access) -> None:
    users.resume(actor=OPERATOR, user=users.find(access.email))


def delete(access: Access) -> None:
    provisioner.delete(subdomain=access.subdomain)


def erase(access: Access) -> None:
    users.erase(actor=OPERATOR, user=users.find(access.email))


def replace_key(access: Access) -> None:
    access.key += 1
    provisioner.replace_key(subdomain=access.subdomain, key=f"{KEY}{access.key}")


def redirect(access: Access) -> None:
    access.key, access.destination = access.key + 1, access.destination + 1
    services.change_destination(
        actor=OPERATOR,
        subdomain=access.subdomain,
        api_key=f"{KEY}{access.key}",
        destination_url=f"{access.upstream}/{access.destination}",
        unchecked=True,
    )


def revoke_parent(access: Access) -> None:
    """Give the token a parent, and revoke only that one's row. The service would write the child's row too."""
    parent_id = provisioner.issue(subdomain=access.subdomain)["token_id"]
    _edit(access, parent_id=parent_id)
    BearerToken.objects.filter(pk=parent_id).update(revoked_at=Now())


# Edits of the row, as an operator would make them. The services write it in the same way.


def expire(access: Access) -> None:
    _edit(access, expires_at=Now())


def narrow_paths(access: Access) -> None:
    _edit(access, allowed_paths=["GET /v1/files"])


def widen_paths(access: Access) -> None:
    _edit(access, allowed_paths=[])


def narrow_networks(access: Access) -> None:
    _edit(access, allowed_networks=["192.0.2.0/24"])


def widen_networks(access: Access) -> None:
    _edit(access, allowed_networks=[])


def _edit(access: Access, **fields: Any) -> None:
    BearerToken.objects.filter(pk=access.token_id).update(**fields)


CALLS = {
    call.__name__: call
    for call in (
        *(
            connect,
            issue,
            issue_for,
            rotate,
            revoke,
            revoke_parent,
            expire,
            pause,
            resume,
            suspend,
            readmit,
            delete,
            erase,
        ),
        *(replace_key, redirect, narrow_paths, widen_paths, narrow_networks, widen_networks),
    )
}


# --- Probes --------------------------------------------------------------------------------------------------------


@dataclass
class Probe:
    """A kept-alive connection to one process."""

    process: Process
    connection: socket.socket | None = None

    def open(self) -> None:
        while self.connection is None:
            with self.process.alone() as is_alone:
                if is_alone:
                    self.connection = socket.create_connection(self.process.address, 60)
                    self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.send("/livez", "")
                    self.receive()
                    return
            time.sleep(0.001)

    def send(self, path: str, token: str) -> float:
        """Send a request. Returns the time before its first byte."""
        assert self.connection is not None
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        began = time.monotonic()
        with suppress(OSError):  # closed, which `receive` finds out
            self.connection.sendall(request)
        return began

    def receive(self) -> dict[str, Any]:
        """Read a response. Its status is 0 if the connection broke."""
        assert self.connection is not None
        received = b""
        with suppress(OSError):
            while not _is_whole(received) and (data := self.connection.recv(65536)):
                received += data
        ended = time.monotonic()
        if not _is_whole(received) or b"\r\nconnection: close" in received.lower():
            self.connection.close()
            self.connection = None
        head = received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        return {"ended": ended, "status": int(head[0][9:12] or 0), "headers": fields}


def _is_whole(response: bytes) -> bool:
    head, end, body = response.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(end) and length is not None and len(body) >= int(length[1])


def ask_all(probes: list[Probe], path: str, token: str) -> list[dict[str, Any]]:
    """Send one request to each process before any of them answers. Returns the fields of a `Sample`, with the pid."""
    began = [probe.send(path, token) for probe in probes]
    return [{"pid": probe.process.pid, "began": at, **probe.receive()} for probe, at in zip(probes, began, strict=True)]


@contextmanager
def asking(probes: list[Probe], path: str, token: str, samples: list[dict[str, Any]]) -> Iterator[None]:
    """Keep a request on its way to each process, so that a look-up is, when the call returns."""
    over = threading.Event()

    def keep_asking(probe: Probe) -> None:
        while not over.is_set() and probe.connection is not None:
            samples.extend(ask_all([probe], path, token))

    with ThreadPoolExecutor(max(1, len(probes))) as pool:
        for probe in probes:
            pool.submit(keep_asking, probe)
        try:
            yield
        finally:
            over.set()


# --- Main ----------------------------------------------------------------------------------------------------------


def main(probes: list[Probe], busy: list[Probe]) -> Iterator[dict[str, Any]]:
    """Serve the calls of standard input, and yield the reply to each. `busy` are the probes that keep asking."""
    for line in sys.stdin:
        order = json.loads(line)
        access, call = Access(**order["access"]), CALLS[order["call"]]
        path, token = access.path, access.token
        asked, asking_on = (probes, busy) if order["probed"] else ([], [])
        for probe in (*asked, *asking_on):
            probe.open()
        samples = ask_all(asked, path, token)
        for probe in asked:
            probe.open()
        with asking(asking_on, path, token, samples):
            began, returned, error = time.monotonic(), 0.0, ""
            try:
                call(access)
                returned = time.monotonic()
            except Exception as failure:  # noqa: BLE001  (the caller gets every error)
                error = f"{type(failure).__name__}: {failure}"
            samples += ask_all(asked, path, token)
        yield {"access": asdict(access), "began": began, "returned": returned, "error": error, "samples": samples}


if __name__ == "__main__":
    known = [Process(pid, ("127.0.0.1", port), tuple(siblings)) for pid, port, siblings in json.loads(sys.argv[1])]
    for reply in main([Probe(process) for process in known], [Probe(process) for process in known]):
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
