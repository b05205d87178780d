"""Mutated requests to a running Strake, and mutated responses to it, with what must hold whatever the bytes are.

* No response is a 500, and the log has no error and no traceback.
* The provider gets only requests that h11, a second parser, finds in the client's bytes, in their order, with the same
  method, path and body. It never gets a malformed one.
* A response that reaches the client complete is the one that h11 finds in the provider's bytes.
* The same processes serve afterwards, in bounded memory, and the next request gets its own response.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import secrets
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import h11

from tests.fuzz import wire_seeds
from tests.fuzz.mutate import mutate
from tests.fuzz.parsers import CORPUS
from tests.support import process
from tests.support.raw import ask, get
from tests.support.running import Endpoint, Strake
from tests.support.smuggling import fill
from tests.support.upstream import Exchange, Upstream, fixed, raw

MAX_GROWTH = 96 * 1024 * 1024
# A request whose client left. The provider of these tests reports it, and Strake can do nothing about it.
_CUT_SHORT = ("chunk size b''", "half a head")


_STATUS_LINE = re.compile(rb"^HTTP/1\.[01] \d{3} [^\r\n]*\r\n", re.MULTILINE)

_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)\d\d(?:[^\r\n]*\r\n)+?\r\n")


@dataclass(frozen=True)
class Message:
    """What h11 reads: a request's method and path, or a response's status, and the body."""

    start: tuple[bytes, ...]
    body: bytes


def requests_in(sent: bytes) -> list[Message]:
    """The complete requests that h11 finds, up to the first that it refuses."""
    found: list[Message] = []
    while sent:
        # h11 refuses what is allowed: empty lines before a request (RFC 9112 §2.2), several spaces in its line (§3).
        sent = sent.lstrip(b"\r\n")
        sent = re.sub(rb"\A([A-Z]+) +(\S+) +(HTTP/1\.[01]\r\n)", rb"\1 \2 \3", sent)
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
        parser.receive_data(sent)
        start: tuple[bytes, ...] = ()
        body = b""
        try:
            while not isinstance(event := parser.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Request):
                    start = (event.method, event.target.partition(b"?")[0])
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    return found
        except h11.RemoteProtocolError:
            return found
        found.append(Message(start, body))
        sent = parser.trailing_data[0]
    return found


def response_in(received: bytes, *, closed: bool, method: bytes = b"GET") -> Message | None:
    """The first final response, or None if h11 finds it incomplete or malformed."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
    parser.send(h11.Request(method=method, target=b"/", headers=[("Host", "a")]))
    parser.send(h11.EndOfMessage())
    start: tuple[bytes, ...] = ()
    body = b""
    try:
        parser.receive_data(received)
        if closed:
            parser.receive_data(b"")
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                start = (b"%d" % event.status_code,)
            elif isinstance(event, h11.Data):
                body += event.data
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None
    return Message(start, body)


def _printable(line: re.Match[bytes]) -> bytes:
    return re.sub(rb"[^\t\r\n\x20-\x7e\x80-\xff]", b" ", line[0])


@dataclass
class Wire:
    """A running Strake between a client and a provider. The checks return what is wrong, or an empty string."""

    strake: Strake
    upstream: Upstream
    endpoint: Endpoint
    workers: list[int] = field(init=False)
    memory: int = field(init=False)
    logged: int = field(init=False)

    def __post_init__(self) -> None:
        self.workers = self.strake.workers
        self.memory = process.memory(self.workers[0])
        self.logged = len(self.strake.log())

    def check_request(self, data: bytes, *, wait: float) -> str:
        """Send a request, and wait so many seconds for the next part of its response."""
        self.upstream.clear()
        sent = fill(data, self.endpoint)
        received, _ = self._exchange(sent, wait)
        if re.search(rb"^HTTP/1\.1 500 ", received, re.MULTILINE):
            return "a 500"
        malformed = [text for text in self.upstream.malformed if not text.startswith(_CUT_SHORT)]
        if malformed:
            return f"malformed towards the provider: {malformed}"
        arrived = [exchange for exchange in self.upstream.exchanges if exchange.body_complete]
        legitimate = requests_in(sent)
        if len(arrived) > len(legitimate):
            return f"{len(arrived)} requests arrived, h11 finds {len(legitimate)}"
        for exchange, expected in zip(arrived, legitimate, strict=False):
            if (fault := self._differs(exchange, expected)) != "":
                return fault
        return self._server_fault()

    def _differs(self, exchange: Exchange, expected: Message) -> str:
        path = expected.start[1].removeprefix(self.endpoint.path.encode()) or b"/"
        if (exchange.method.encode(), exchange.path.encode("latin-1")) != (expected.start[0], path):
            return f"{exchange.method} {exchange.path} arrived, h11 finds {expected.start}"
        if exchange.body != expected.body:
            return f"the body {exchange.body[:80]!r} arrived, h11 finds {expected.body[:80]!r}"
        return ""

    def check_response(self, data: bytes, *, then: str, wait: float) -> str:
        """Let the provider respond with these bytes. `then` as in `tests.support.upstream.raw`."""
        self.upstream.clear()
        self.upstream.default = raw(data, then=then)
        received, closed = self._exchange(get(self.endpoint), wait)
        own = re.search(rb"(?i)\r\nx-strake-error:", received.partition(b"\r\n\r\n")[0] + b"\r\n") is not None
        if re.match(rb"HTTP/1\.1 500 ", received) and own:
            return "a 500"
        delivered = response_in(received, closed=closed)
        if delivered is not None and not own:
            # The reason phrase is not passed on, so what it holds does not matter.
            plain = _STATUS_LINE.sub(_printable, data).lstrip(b"\r\n")
            # Empty lines before a head have one reading, and h11 refuses them.
            while (interim := _INTERIM.match(plain)) is not None:
                plain = plain[interim.end() :].lstrip(b"\r\n")
            expected = response_in(plain, closed=then == "close")
            if expected is None:
                return f"{delivered} was delivered, h11 refuses the provider's response"
            if delivered != expected:
                return f"{delivered} was delivered, h11 finds {expected}"
        return self._server_fault()

    def check_next_request(self) -> str:
        """Another request, on whichever connection, gets its own response."""
        self.upstream.clear()
        body = secrets.token_hex(16).encode()
        self.upstream.on("/next", fixed(200, body=body))
        received = ask(self.strake.address, get(self.endpoint, "/next"))
        if (received.status, received.body) != (200, body):
            return f"the next request got {received.raw[:200]!r}"
        if self.strake.workers != self.workers:
            return "a worker process has ended"
        grown = process.memory(self.workers[0]) - self.memory
        return f"memory has grown by {grown} bytes" if grown > MAX_GROWTH else ""

    def _server_fault(self) -> str:
        log = self.strake.log()
        new, self.logged = log[self.logged :], len(log)
        # Django reports a Host that it does not serve at this level, for operators who forgot one.
        new = "\n".join(line for line in new.splitlines() if "DisallowedHost" not in line)
        return f"logged: {new[:500]}" if re.search(r"Traceback|\bERROR\b|\bCRITICAL\b|never retrieved", new) else ""

    def _exchange(self, sent: bytes, wait: float) -> tuple[bytes, bool]:
        """Send, and read until the peer closes or nothing comes for `wait` seconds."""
        with socket.create_connection(self.strake.address, 10) as connection:
            connection.settimeout(wait)
            received = b""
            with contextlib.suppress(ConnectionError, TimeoutError):  # refused early: the response is still there
                connection.sendall(sent)
            try:
                while data := connection.recv(256 * 1024):
                    received += data
                    if len(received) > 2**20:
                        return received, False
            except TimeoutError:
                return received, False
            except ConnectionError:
                return received, False  # a reset is no clean end
            return received, True


def run(wire: Wire, kind: str, *, seed: int, iterations: int = 0, seconds: float = 0.0) -> tuple[int, list[bytes]]:
    """Mutate until `iterations` or `seconds` are over. Returns the number of executions, and the inputs that failed.

    A fault counts if it appears twice more, with more time: on a busy machine, a request may overtake the check.
    """
    rng = random.Random(seed)
    corpus = wire_seeds.requests() if kind == "requests" else wire_seeds.responses()
    end = time.monotonic() + seconds
    executions, found = 0, []
    while executions < iterations or time.monotonic() < end:
        data = mutate(rng, rng.choice(corpus), corpus)
        then = rng.choice(("close", "close", "keep", "reset"))
        executions += 1
        fault = check(wire, kind, data, then, wait=0.05)
        if not fault and executions % 10 == 0:
            fault = wire.check_next_request()
        for pause in (1.0, 3.0):
            if fault:
                time.sleep(pause)  # what is still on its way must not count again
                fault = check(wire, kind, data, then, wait=1.0) or wire.check_next_request()
        if fault:
            print(f"{kind}, then {then}: {fault}\n  {data!r}", flush=True)
            found.append(data)
            wire.__post_init__()
    return executions, found


def check(wire: Wire, kind: str, data: bytes, then: str, *, wait: float) -> str:
    if kind == "requests":
        return wire.check_request(data, wait=wait)
    return wire.check_response(data, then=then, wait=wait)


def fuzz(kind: str, *, seconds: int, seed: int) -> tuple[int, list[str]]:
    """Start a Strake, run, and write what was found into the corpus. Returns executions and the names of files."""
    with (
        tempfile.TemporaryDirectory(prefix="strake-fuzz-") as folder,
        Upstream() as upstream,
        Strake(Path(folder) / "strake") as strake,
    ):
        wire = Wire(strake, upstream, strake.connect(upstream.url))
        executions, found = run(wire, kind, seed=seed, seconds=seconds)
    names = []
    for data in found:
        names.append(f"crash-{hashlib.sha256(data).hexdigest()[:16]}")
        (CORPUS / kind / names[-1]).write_bytes(data)
    return executions, names
