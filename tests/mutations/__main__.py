"""Apply each mutation of the catalogue to a copy of the repository, and see its tests fail.

    python -m tests.mutations [P1 P8 … | templates/ strake/static/ …]

The tests must pass before a mutation and fail after it. Exits with 1 if a mutation survived or no longer applies.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tests.mutations.catalogue import all_mutations
from tests.mutations.mutation import Mutation
from tests.mutations.scratch import copy, edited, run_tests


class Survived(Exception):
    """No test failed."""


def noticed_by(path: Path, mutation: Mutation, folder: Path) -> str:
    """Return the test that fails with the mutation. Raises `Survived` with the reason if there is none."""
    text = path.read_text()
    if text.count(mutation.before) != 1:
        raise Survived(f"no longer applies: its text occurs {text.count(mutation.before)} times")
    with edited(path, text.replace(mutation.before, mutation.after)):
        result = run_tests(folder, mutation.tests_in(folder))
    if result.passed:
        raise Survived("its tests still pass")
    # Code that cannot be imported fails every test and proves nothing.
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::\S+)", result.output, re.MULTILINE)
    if failed is None:
        raise Survived(f"no test failed, but pytest exited with {result.exit_code}: {result.output[-300:]}")
    return failed[1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations")
    words = "a promise such as P8, or how the path of a mutated file begins (default: every mutation)"
    parser.add_argument("chosen", nargs="*", metavar="PROMISE|PATH", help=words)
    chosen = parser.parse_args().chosen
    mutations = [
        (path, each)
        for path, each in all_mutations()
        if not chosen or each.promise in chosen or path.startswith(tuple(chosen))
    ]
    survived = 0
    with copy() as folder:
        for tests in sorted({tuple(mutation.tests_in(folder)) for _, mutation in mutations}):
            before = run_tests(folder, tests)
            if not before.passed:
                raise SystemExit(f"These tests fail without a mutation:\n{before.output}")
        for path, mutation in mutations:
            try:
                verdict = f"noticed by {noticed_by(folder / path, mutation, folder)}"
            except Survived as reason:
                verdict = f"SURVIVED: {reason}"
                survived += 1
            print(f"{mutation.promise or '-':4} {mutation.summary}: {verdict}", flush=True)
    print(f"{len(mutations)} mutations, {survived} survived.")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
