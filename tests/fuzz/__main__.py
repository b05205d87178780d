"""Fuzz every parser, then the wire: `python -m tests.fuzz [--seconds 60] [TARGET…]`.

Each target gets so many seconds. An input that breaks one is written into its folder in `corpus/`, where the normal
tests fail on it until the parser is mended. Exits with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import wire
from tests.fuzz.parsers import CORPUS, TARGETS

ROOT = Path(__file__).resolve().parents[2]
WIRE = ("requests", "responses")


@dataclass
class Outcome:
    """The result of one target."""

    name: str
    executions: int
    seconds: float
    found: Sequence[str]

    def __str__(self) -> str:
        rate = self.executions / self.seconds if self.seconds else 0
        finds = ", ".join(self.found) if self.found else "nothing found"
        return f"{self.name:17} {self.executions:>11,} executions {self.seconds:>7.0f} s {rate:>8,.0f}/s   {finds}"


def fuzz_parser(name: str, seconds: int) -> Outcome:
    """Run one target under atheris, in a child process, because libFuzzer ends its process."""
    before = set((CORPUS / name).iterdir())
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="strake-fuzz-") as folder:
        # New inputs are added to the first folder, so the corpus is the second.
        options = [
            f"-max_total_time={seconds}",
            "-timeout=20",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            f"-artifact_prefix={CORPUS / name}/",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.instrumented", name, *options, folder, str(CORPUS / name)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    output = done.stdout.decode(errors="replace")
    executed = re.search(r"stat::number_of_executed_units:\s+(\d+)", output)
    found = sorted(path.name for path in set((CORPUS / name).iterdir()) - before)
    if done.returncode or executed is None:
        sys.stdout.write(output[-6000:] + "\n")
        found = found or [f"exit code {done.returncode}"]
    return Outcome(name, int(executed[1]) if executed else 0, time.monotonic() - started, found)


def fuzz_wire(name: str, seconds: int, seed: int) -> Outcome:
    started = time.monotonic()
    executions, found = wire.fuzz(name, seconds=seconds, seed=seed)
    return Outcome(name, executions, time.monotonic() - started, found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the mutations on the wire")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join([*TARGETS, *WIRE]))
    given = parser.parse_args()
    unknown = set(given.targets) - {*TARGETS, *WIRE}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    outcomes = []
    for name in given.targets or [*TARGETS, *WIRE]:
        outcome = fuzz_wire(name, given.seconds, given.seed) if name in WIRE else fuzz_parser(name, given.seconds)
        print(outcome, flush=True)
        outcomes.append(outcome)
    total = Outcome("all", sum(o.executions for o in outcomes), sum(o.seconds for o in outcomes), ())
    print(f"{total.name:17} {total.executions:>11,} executions {total.seconds:>7.0f} s")
    return 1 if any(outcome.found for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
