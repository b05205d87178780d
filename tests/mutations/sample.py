"""Sample random mutations of the code, and count those that the tests notice.

    python -m tests.mutations.sample --seed 1 --count 200 --jobs 2

Chooses lines uniformly from the four packages, and one edit of each line. Each mutant meets its tests in stages, the
nearest first: the test file of its module, the folder of that, then everything else except the slowest folders. It
survives if all stages pass. A failing test counts only if it passes without the mutation. Works on copies of the
repository, and takes hours for 200 mutants: a survivor costs a run of the test suite.
"""

from __future__ import annotations

import argparse
import difflib
import random
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import Queue

from tests.mutations.mutation import ROOT
from tests.mutations.operators import Edit, edits
from tests.mutations.scratch import Result, copy, edited, run_tests

PACKAGES = ("accounts", "credentials", "proxy", "strake")
SLOW = ("tests/browser", "tests/sdk", "tests/mutations")
STAGE_SECONDS = 1800


@dataclass(frozen=True)
class Mutant:
    """One edit of one file."""

    path: str
    edit: Edit

    def __str__(self) -> str:
        return f"{self.path}:{self.edit.line} {self.edit.summary}"

    def diff(self) -> str:
        before = (ROOT / self.path).read_text()
        lines = difflib.unified_diff(before.splitlines(), self.edit.apply(before).splitlines(), lineterm="", n=0)
        return "\n".join(f"    {line}" for line in list(lines)[3:])


@dataclass(frozen=True)
class Verdict:
    """`outcome` is "killed", "survived" or "unclear". `reason` is the test that failed, or what went wrong."""

    mutant: Mutant
    outcome: str
    reason: str = ""


def choose(seed: int, count: int) -> list[Mutant]:
    """Choose lines without repetition, each with one edit. The same seed and code give the same mutants."""
    chooser = random.Random(seed)
    candidates: list[tuple[str, list[Edit]]] = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            if "migrations" not in file.parts:
                by_line = edits(file.read_text())
                candidates += [(str(file.relative_to(ROOT)), by_line[line]) for line in sorted(by_line)]
    chooser.shuffle(candidates)
    mutants: list[Mutant] = []
    for path, found in candidates:
        source = (ROOT / path).read_text()
        chooser.shuffle(found)
        edit = next((edit for edit in found if edit.is_valid(source)), None)
        if edit is not None:
            mutants.append(Mutant(path, edit))
        if len(mutants) == count:
            break
    return mutants


# --- Tests of a module ---------------------------------------------------------------------------------------------


@cache
def test_files() -> dict[str, str]:
    """Return the text of every test file by its path, without the slowest folders."""
    paths = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    return {path: (ROOT / path).read_text() for path in paths if not path.startswith(SLOW)}


def stages(path: str) -> list[list[str]]:
    """Return the test files for a module in the order to run them."""
    module = Path(path)
    folder = f"tests/{module.parent}"
    dotted = ".".join(module.with_suffix("").parts)
    imported = re.compile(
        rf"\b{re.escape(dotted)}\b|from {re.escape('.'.join(module.parent.parts))} import [^\n]*\b{module.stem}\b"
    )
    files = test_files()
    wanted = [
        [file for file in files if file.startswith(f"{folder}/test_{module.stem}")],
        [file for file, text in files.items() if imported.search(text)],
        [file for file in files if file.startswith(f"{folder}/")],
        [file for file in files if file.startswith(f"tests/{module.parts[0]}/")],
        list(files),
    ]
    seen: set[str] = set()
    result = []
    for stage in wanted:
        if new := [file for file in stage if file not in seen]:
            result.append(new)
            seen.update(new)
    return result


# --- Running -------------------------------------------------------------------------------------------------------


class Sampler:
    """Runs mutants in copies of the repository, one per job."""

    def __init__(self, max_stages: int) -> None:
        self._max_stages = max_stages
        self._sound: set[str] = set()  # tests that have passed without a mutation
        self._lock = threading.Lock()

    def judge(self, mutant: Mutant, folder: Path) -> Verdict:
        path = folder / mutant.path
        for tests in stages(mutant.path)[: self._max_stages]:
            with edited(path, mutant.edit.apply(path.read_text())):
                result = run_tests(folder, tests, seconds=STAGE_SECONDS, require_services=False)
            if result.timed_out:
                return Verdict(mutant, "killed", "timeout")
            if result.exit_code not in {0, 5}:  # 5: no tests were collected
                return self._explain(mutant, folder, result)
        return Verdict(mutant, "survived")

    def _explain(self, mutant: Mutant, folder: Path, result: Result) -> Verdict:
        failed = re.search(r"^(?:FAILED|ERROR) (tests/[^ \n]+)", result.output, re.MULTILINE)
        if failed is None:
            return Verdict(mutant, "killed", f"pytest exited with {result.exit_code}")
        test = failed[1]
        with self._lock:
            is_sound = test in self._sound
        if not is_sound:
            if not run_tests(folder, [test], seconds=STAGE_SECONDS, require_services=False).passed:
                return Verdict(mutant, "unclear", f"{test} fails without the mutation")
            with self._lock:
                self._sound.add(test)
        return Verdict(mutant, "killed", test)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations.sample")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2, help="copies that run at the same time (%(default)s)")
    parser.add_argument("--stages", type=int, default=5, help="run only so many stages of tests (%(default)s)")
    parser.add_argument("--list", action="store_true", help="print the mutants without running them")
    options = parser.parse_args()
    mutants = choose(options.seed, options.count)
    if options.list:
        for mutant in mutants:
            print(f"{mutant}\n{mutant.diff()}")
        return 0
    outcomes: Counter[str] = Counter()
    for verdict in judge_all(mutants, options.jobs, options.stages):
        outcomes[verdict.outcome] += 1
        print(f"{verdict.outcome:8} {verdict.mutant}{f': {verdict.reason}' if verdict.reason else ''}", flush=True)
        if verdict.outcome != "killed":
            print(verdict.mutant.diff(), flush=True)
    share = outcomes["killed"] / len(mutants)
    print(f"{len(mutants)} mutants: {dict(outcomes)}, {share:.0%} killed (seed {options.seed})")
    return 0


def judge_all(mutants: list[Mutant], jobs: int, max_stages: int) -> Iterator[Verdict]:
    """Judge the mutants in `jobs` copies. Yields each verdict when it is known."""
    sampler = Sampler(max_stages)
    folders: Queue[Path] = Queue()

    def judge(mutant: Mutant) -> Verdict:
        folder = folders.get()
        try:
            return sampler.judge(mutant, folder)
        finally:
            folders.put(folder)

    with ExitStack() as copies, ThreadPoolExecutor(jobs) as executor:
        for _ in range(jobs):
            folders.put(copies.enter_context(copy()))
        for future in as_completed([executor.submit(judge, mutant) for mutant in mutants]):
            yield future.result()


if __name__ == "__main__":
    sys.exit(main())
