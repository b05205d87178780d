"""Compare Strake with other gateways in one run: `make bench`, or `python -m bench --help`.

Each gateway has one core to itself. Provider, load, PostgreSQL's backends and Redis share another. Rounds are
interleaved, so that a machine that changes speed affects all gateways: compare the ratios. Needs `wrk`, and for their
rows nginx, npm, PyPI, and PostgreSQL and redis-server.
"""

from __future__ import annotations

import argparse
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from functools import partial

from bench import bodies, gateways, latency, slo, strakes, streams, tail, targets, tokens
from bench.gateways import Gateway, Starter
from bench.processes import GATEWAY_CORE, LOAD_CORE, RESULTS, occupy_load_core
from bench.tables import Results

GATEWAYS = ("strake", "strake-pg", "portkey", "litellm", "nginx")
PASS_EVERYTHING = ("direct", "strake", "strake-pg", "nginx")  # any path and body
POSTGRES = "postgres://postgres@127.0.0.1:5432/postgres"


class Bench:
    """The chosen gateways, and everything measured so far."""

    def __init__(self, options: argparse.Namespace, direct: Gateway, stack: ExitStack) -> None:
        self._options, self._direct, self._stack = options, direct, stack
        self.results = Results()
        self.failures: list[str] = []
        self._starters = {name: self._starter(name) for name in ["direct", *options.gateways]}
        self._passing = {name: self._starters[name] for name in PASS_EVERYTHING if name in self._starters}
        if options.commit:
            self._starters[options.commit] = self._passing[options.commit] = self._starter(options.commit)

    def _starter(self, name: str) -> Starter:
        upstream, streams = self._direct.targets[0].url, self._options.streams
        match name:
            case "direct":
                return lambda: nullcontext(self._direct)
            case "strake":
                return self._stack.enter_context(strakes.embedded(upstream, streams))
            case "strake-pg":
                return self._stack.enter_context(strakes.deployed(upstream, streams, self._options.postgres))
            case "portkey" | "litellm" | "nginx":
                return partial(getattr(gateways, name), upstream)
            case _:
                return self._stack.enter_context(strakes.at_commit(upstream, streams, name))

    def _rounds(self, part: str, starters: Mapping[str, Starter], measure: Callable[[str, Gateway], None]) -> None:
        """Start one gateway at a time, since even an idle one has timers and garbage to collect."""
        for number in range(1, self._options.rounds + 1):
            self.results.round = number
            began = time.monotonic()
            for name, start in starters.items():
                try:
                    with start() as gateway:
                        measure(name, gateway)
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                    self.failures.append(f"* {part}, round {number}, {name}: {' '.join(str(error).split())[:300]}")
                    log(self.failures[-1])
            log(f"{part}: round {number} of {self._options.rounds} took {time.monotonic() - began:.0f} s")

    # --- Parts -------------------------------------------------------------------------------------------------------

    def latency(self) -> list[str]:
        def measure(_: str, gateway: Gateway) -> None:
            latency.measure(gateway, self._direct, self.results, self._options.seconds)

        self._rounds("latency", self._starters, measure)
        return latency.tables(self.results)

    def tail(self) -> list[str]:
        def measure(_: str, gateway: Gateway) -> None:
            tail.measure(gateway, self._direct, self.results, self._options.seconds)

        self._rounds("tail", {name: start for name, start in self._starters.items() if name != "direct"}, measure)
        return tail.tables(self.results)

    def slo(self) -> list[str]:
        def measure(_: str, gateway: Gateway) -> None:
            slo.measure(gateway, self.results, max(1, self._options.seconds // 2))

        self._rounds("slo", self._starters, measure)
        return slo.tables(self.results)

    def streams(self) -> list[str]:
        cases = [streams.Case(self._options.streams, 1.0, self._options.stream_seconds)]
        cases += [streams.Case(count, 0.02, self._options.seconds) for count in (100, 400)]
        through = {name: start for name, start in self._passing.items() if name != "direct"}
        self._rounds("streams", through, lambda _, gateway: streams.measure(gateway, self.results, cases))
        return streams.tables(self.results, cases)

    def bodies(self) -> list[str]:
        size = self._options.megabytes * 1_000_000
        self._rounds("bodies", self._passing, lambda _, gateway: bodies.measure(gateway, self.results, size))
        return bodies.tables(self.results, size)

    def tokens(self) -> list[str]:
        def measure(name: str, gateway: Gateway) -> None:
            tokens.measure(gateway, self.results, int(name), self._options.seconds)

        upstream = self._direct.targets[0].url
        with ExitStack() as stack:
            filled = {str(count): stack.enter_context(strakes.embedded(upstream, 0, count)) for count in tokens.COUNTS}
            self._rounds("tokens", filled, measure)
        return tokens.tables(self.results)


PARTS: dict[str, Callable[[Bench], list[str]]] = {
    "latency": Bench.latency,
    "tail": Bench.tail,
    "slo": Bench.slo,
    "streams": Bench.streams,
    "bodies": Bench.bodies,
    "tokens": Bench.tokens,
}


def main() -> None:
    options = read_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started is stopped
    occupy_load_core()
    with ExitStack() as stack:
        bench = Bench(options, stack.enter_context(gateways.provider()), stack)
        lines = introduction(options)
        for part in options.only:
            lines += PARTS[part](bench)
            write(lines)
        lines += targets.table_of(bench.results)
        if bench.failures:
            lines += ["", "## Failures", "", "What is missing in the tables.", "", *bench.failures]
    write(lines)
    sys.stdout.write("\n".join(lines) + "\n")


def read_options() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("--only", type=words, default=list(PARTS), help=f"parts, comma-separated ({','.join(PARTS)})")
    add("--gateways", type=words, default=list(GATEWAYS), help=f"comma-separated ({','.join(GATEWAYS)})")
    add("--commit", default="", help="another commit of Strake to measure as well")
    add("--rounds", type=int, default=5, help="(%(default)s)")
    add("--seconds", type=int, default=4, help="duration of one measurement (%(default)s)")
    add("--streams", type=int, default=5000, help="concurrent streams with an event a second (%(default)s)")
    add("--stream-seconds", type=int, default=20, help="for how long they are all open (%(default)s)")
    add("--megabytes", type=int, default=500, help="size of a large body (%(default)s)")
    add("--postgres", default=POSTGRES, help="where to create a database for a while (%(default)s)")
    options = parser.parse_args()
    unknown = [*({*options.only} - {*PARTS}), *({*options.gateways} - {*GATEWAYS})]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    return options


def introduction(options: argparse.Namespace) -> list[str]:
    return [
        f"# Strake beside other gateways, {time.strftime('%Y-%m-%d')}",
        "",
        f"Medians of {options.rounds} interleaved rounds. Each gateway has core {GATEWAY_CORE} to itself. "
        f"The provider, the load, PostgreSQL's backends and Redis share core {LOAD_CORE}. "
        f"Python {platform.python_version()}, Portkey {gateways.PORTKEY_VERSION}, LiteLLM {gateways.LITELLM_VERSION}.",
        "",
        "`strake`: embedded, SQLite. `strake-pg`: deployed, PostgreSQL and Redis, with tokens that have every limit. "
        "Both record every request. `nginx`: a map of headers, without a vault, database or log.",
        "",
    ]


def write(lines: list[str]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def log(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
