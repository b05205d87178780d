"""Measure what a hostile account costs its neighbours.

    python -m tests.harness.hostile [--pairs 7] [--seconds 10] [--database sqlite] [--attack refusals]

For each attack and each database, a neighbour lives through pairs of spans: a quiet one, then one under attack. The
attack is slowed down until Strake spends at most 30 % of a core on it. The table compares the spans. Exits with 1 if
the neighbour had a failure, a request record was lost, or the median p99 of its calls or pages is above the quiet one
by more than 20 % or 5 ms, whichever is more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.harness import database
from tests.harness.attacks import ATTACKS, silent_server
from tests.harness.neighbour import EVENTS, Neighbour, Report, csrf_pair, kinds, percentile
from tests.support.process import processor_seconds
from tests.support.running import ROOT, Endpoint, Strake
from tests.support.services import RedisServer
from tests.support.upstream import Exchange, Upstream, eventually, fixed, head

MAX_SHARE = 0.30  # of a core, that Strake spends on the attack
SILENT_NAMES = 20
HOSTILE = "mallory@hostile.example"

# A name server that never answers, for this child alone. Where a namespace is not permitted, the function that looks
# names up is replaced instead.
_NAMESPACE = 'mount --make-rprivate / && mount --bind "$RESOLV_CONF" /etc/resolv.conf && unset RESOLV_CONF && exec "$@"'
_REPLACED = """
import socket, time
_real = socket.getaddrinfo
def getaddrinfo(host, *arguments, **options):
    if str(host).rstrip(".").endswith(".silent.test"):
        time.sleep(20)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _real(host, *arguments, **options)
socket.getaddrinfo = getaddrinfo
"""


@dataclass
class Silence:
    """How a Strake is started so that names are never answered for."""

    prefix: list[str]
    environment: dict[str, str]
    name: str


@contextmanager
def silent_names(folder: Path) -> Iterator[Silence]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        address = f"127.83.{os.getpid() % 256}.{secrets.randbelow(254) + 1}"
        try:
            server.bind((address, 53))
            subprocess.run(["unshare", "--mount", "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            # A folder of its own: the web half may read every folder that Python loads code from.
            code = folder / "code"
            code.mkdir()
            (code / "sitecustomize.py").write_text(_REPLACED)
            yield Silence([], {"PYTHONPATH": str(code)}, "getaddrinfo replaced")
            return
        resolv_conf = folder / "resolv.conf"
        resolv_conf.write_text(f"nameserver {address}\n")
        prefix = ["env", f"RESOLV_CONF={resolv_conf}", "unshare", "--mount", "sh", "-c", _NAMESPACE, "sh"]
        yield Silence(prefix, {}, "a name server that never answers")


@dataclass
class Pair:
    """A quiet span and one under attack."""

    quiet: Report
    attacked: Report
    lost: int
    rows: dict[str, int]
    share: float
    sent: int
    outcomes: dict[str, int]


@dataclass
class Outcome:
    """All pairs of one attack."""

    attack: str
    scale: float
    pairs: list[Pair] = field(default_factory=list)

    def median(self, which: str, kind: str, part: float) -> float:
        """The median over the pairs of a percentile in ms. `which` is "quiet" or "attacked"."""
        reports = [getattr(pair, which) for pair in self.pairs]
        times = [report.call_times() if kind == "calls" else report.pages for report in reports]
        return statistics.median(percentile(one, part) * 1000 for one in times)

    @property
    def failures(self) -> list[str]:
        return [failure for pair in self.pairs for failure in pair.attacked.failures]

    @property
    def lost(self) -> int:
        return sum(pair.lost for pair in self.pairs)

    @property
    def sent(self) -> int:
        return sum(pair.sent for pair in self.pairs)

    @property
    def rows(self) -> dict[str, int]:
        tables = {table for pair in self.pairs for table in pair.rows}
        total = {table: sum(pair.rows.get(table, 0) for pair in self.pairs) for table in tables}
        return {table: count for table, count in sorted(total.items(), key=lambda item: -item[1]) if count > 0}

    def broken(self) -> list[str]:
        """The bounds that do not hold."""
        found = []
        if self.failures:
            found.append(f"{len(self.failures)} failures")
        if self.lost:
            found.append(f"{self.lost} lost records")
        for kind in ("calls", "pages"):
            quiet, attacked = self.median("quiet", kind, 0.99), self.median("attacked", kind, 0.99)
            if attacked > quiet + max(0.2 * quiet, 5.0):
                found.append(f"p99 of {kind} {quiet:.0f} → {attacked:.0f} ms")
        return found

    def __str__(self) -> str:
        def pair(kind: str, part: float) -> str:
            return f"{self.median('quiet', kind, part):.1f} → {self.median('attacked', kind, part):.1f}"

        share = statistics.median(one.share for one in self.pairs)
        return (
            f"| {self.attack.replace('_', ' ')} | {self.sent:,} | {share:.0%} | {len(self.failures)} | {self.lost} "
            f"| {pair('calls', 0.5)} | {pair('calls', 0.99)} | {pair('pages', 0.5)} | {pair('pages', 0.99)} "
            f"| {sum(self.rows.values()):,} | {'; '.join(self.broken()) or 'holds'} |"
        )

    def details(self) -> str:
        outcomes: dict[str, int] = {}
        for one in self.pairs:
            for name, count in one.outcomes.items():
                outcomes[name] = outcomes.get(name, 0) + count
        return (
            f"  attacker got {outcomes}, scale {self.scale:.2f}; rows {dict(list(self.rows.items())[:4])}\n"
            f"  neighbour: {'; '.join(kinds(self.failures)) or 'no failure'}"
        )


HEAD = (
    "| attack | requests | Strake's CPU | failures | lost records | calls p50, ms | calls p99, ms | pages p50, ms "
    "| pages p99, ms | rows written | |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def environment_for(provider: Upstream) -> dict[str, str]:
    """Variables of a Strake whose neighbour's provider has a name, which must be looked up for each connection."""
    return {
        "STRAKE_TRUSTED_PROXIES": "1",
        "STRAKE_SIGNUP": "open",
        "STRAKE_ALLOWED_PRIVATE_UPSTREAMS": f"127.0.0.1/32,localhost:{provider.port}",
    }


async def _closing_stream(exchange: Exchange) -> None:
    """Send events, and close: every stream needs a new connection to the provider."""
    headers = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"), ("Connection", "close")]
    await exchange.write(head(200, headers))
    for _ in range(EVENTS):
        await exchange.chunk(b"data: {}\n\n")
        await asyncio.sleep(0.05)
    await exchange.chunk(b"")
    exchange.connection.writer.close()


class Site:
    """A running Strake with a hostile account and its neighbour."""

    def __init__(self, strake: Strake, provider: Upstream, hole: int, *, names: int = SILENT_NAMES) -> None:
        self.strake = strake
        provider.on("/v1/stream", _closing_stream)
        provider.default = fixed(200, [("Content-Type", "application/json")], b'{"object": "list", "data": []}')
        self.endpoint = strake.connect(f"http://localhost:{provider.port}", email="neighbour@neighbour.example")
        self.neighbour = Neighbour(strake, self.endpoint)
        self.means = self._means(f"http://127.0.0.1:{hole}", names)

    def _means(self, hole: str, names: int) -> dict[str, Any]:
        strake = self.strake
        slow = strake.connect(hole, email=HOSTILE)
        silent = [strake.connect(f"https://name-{number}.silent.test", email=HOSTILE) for number in range(names)]
        revoked = strake.connect(hole, email=HOSTILE)
        strake.revoke(revoked)
        browser, visitor = self._browser(), self._browser()
        with browser, visitor:
            link = strake.call("signin_link", email=HOSTILE)["link"]
            browser.get(httpx.URL(link).path)
            _, csrf = csrf_pair(browser, "/signin/confirm/")
            token = httpx.URL(link).path.rstrip("/").rpartition("/")[2]
            browser.post("/signin/confirm/", data={"csrfmiddlewaretoken": csrf, "token": token})
            cookie, csrf = csrf_pair(browser, f"/endpoints/{slow.subdomain}/name/")
            visitor_cookie, visitor_csrf = csrf_pair(visitor, "/signin/")
        return {
            "address": strake.address,
            "slow": _means_of(slow),
            "silent": [_means_of(endpoint) for endpoint in silent],
            "revoked": _means_of(revoked),
            "hole": hole,
            "cookie": cookie,
            "csrf": csrf,
            "visitor_cookie": visitor_cookie,
            "visitor_csrf": visitor_csrf,
            "access_token": strake.call("create_access_token", email=HOSTILE)["token"],
        }

    def _browser(self) -> httpx.Client:
        origin = f"http://localhost:{self.strake.port}"
        return httpx.Client(base_url=origin, headers={"X-Forwarded-For": "198.51.100.1", "Origin": origin}, timeout=30)

    def processor_seconds(self) -> float:
        return sum(processor_seconds(pid) for pid in self.strake.pids)

    def rows(self) -> dict[str, int]:
        return dict(self.strake.call("rows", but_of=self.endpoint.subdomain)["rows"])

    def recorded(self) -> int:
        return int(self.strake.call("count_records", subdomain=self.endpoint.subdomain)["count"])

    @contextmanager
    def attacked(self, attack: str, scale: float) -> Iterator[dict[str, Any]]:
        """Attack while the context lasts. Afterwards the result holds what was sent and what became of it."""
        result: dict[str, Any] = {}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.attacks", attack],
            cwd=ROOT,
            env={**os.environ, **self.strake.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps({**self.means, "scale": scale}) + "\n")
        process.stdin.flush()
        try:
            yield result
        finally:
            output, _ = process.communicate(timeout=60)
            result.update(json.loads(output))

    def scale_of(self, attack: str) -> float:
        """The share of an attack's nominal rate at which Strake spends at most `MAX_SHARE` of a core on it."""
        scale = 1.0
        for _ in range(3):
            with self.attacked(attack, scale):
                time.sleep(1.5)  # the attacker starts
                before, started = self.processor_seconds(), time.monotonic()
                time.sleep(3)
                share = (self.processor_seconds() - before) / (time.monotonic() - started)
            if share <= MAX_SHARE:
                break
            scale *= 0.9 * MAX_SHARE / share
        return scale

    def settle(self) -> None:
        """Wait until an attack's traces are gone: three quick calls in a row."""
        end, quick = time.monotonic() + 60, 0
        with httpx.Client(headers=self.endpoint.bearer, timeout=30) as client:
            while quick < 3 and time.monotonic() < end:
                began = time.monotonic()
                status = client.get(f"{self.endpoint.url}/v1/settle").status_code
                quick = quick + 1 if status == 200 and time.monotonic() - began < 0.5 else 0

    def pair(self, attack: str, scale: float, seconds: float) -> Pair:
        self.settle()
        time.sleep(2.0)  # the request log has written everything
        quiet_recorded, at_first = self.recorded(), self.rows()
        before = self.processor_seconds()
        quiet = asyncio.run(self.neighbour.live(seconds))
        quiet_processor = self.processor_seconds() - before
        rows = self.rows()
        with self.attacked(attack, scale) as result:
            time.sleep(1.5)
            before = self.processor_seconds()
            attacked = asyncio.run(self.neighbour.live(seconds))
            share = (self.processor_seconds() - before - quiet_processor) / seconds
        expected = quiet_recorded + quiet.recorded + attacked.recorded
        try:
            eventually(lambda: self.recorded() >= expected, 15)
            lost = 0
        except AssertionError:
            lost = expected - self.recorded()
        after = self.rows()
        # Without what the neighbour itself causes in a span, such as sign-in links.
        written = {table: count - 2 * rows[table] + at_first[table] for table, count in after.items()}
        return Pair(quiet, attacked, lost, written, share, result["sent"], result["outcomes"])


def _means_of(endpoint: Endpoint) -> dict[str, str]:
    return {"path": endpoint.path, "token": endpoint.token, "subdomain": endpoint.subdomain}


@contextmanager
def site(name: str) -> Iterator[Site]:
    """A Strake on "sqlite", or on "postgresql" with Redis."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="strake-hostile-")))
        folder.chmod(0o755)
        environment = dict(stack.enter_context(database(name)))
        if name == "postgresql":
            redis = RedisServer(folder)
            redis.start()
            stack.callback(redis.stop)
            environment["REDIS_URL"] = redis.url
        silence = stack.enter_context(silent_names(folder))
        hole = stack.enter_context(silent_server())
        provider = stack.enter_context(Upstream())
        environment |= silence.environment | environment_for(provider)
        strake = stack.enter_context(Strake(folder / "home", environment, prefix=silence.prefix))
        print(f"{name}: {silence.name}", flush=True)
        yield Site(strake, provider, hole)


def measure(name: str, attack: str, pairs: int, seconds: float) -> Outcome:
    """Measure one attack on new installations: what another has left behind must not count."""
    with site(name) as running:
        outcome = Outcome(attack, running.scale_of(attack))
    with site(name) as running:
        for _ in range(pairs):
            outcome.pairs.append(running.pair(attack, outcome.scale, seconds))
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.hostile", description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a span")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--attack", choices=ATTACKS, action="append")
    given = parser.parse_args()
    if shutil.which("unshare") is None:
        parser.error("unshare is not installed")
    holds = True
    for name in given.database or ["sqlite", "postgresql"]:
        outcomes = []
        for attack in given.attack or ATTACKS:
            outcome = measure(name, attack, given.pairs, given.seconds)
            print(f"{outcome}\n{outcome.details()}", flush=True)
            outcomes.append(outcome)
        print(f"\n{name}\n\n{HEAD}", *outcomes, sep="\n", flush=True)
        holds = holds and not any(outcome.broken() for outcome in outcomes)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
