"""A copy of the repository that may be edited, and its tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mutations.mutation import ROOT

IGNORED = (".git", ".venv", ".strake", "__pycache__", ".*_cache", ".hypothesis", ".coverage*", "screenshots", ".peers")


@dataclass(frozen=True)
class Result:
    """The outcome of a pytest run. `timed_out` means that it was killed."""

    exit_code: int
    output: str
    timed_out: bool = False

    @property
    def passed(self) -> bool:
        return self.exit_code == 0


@contextmanager
def copy() -> Iterator[Path]:
    """Yield a copy of the repository, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="strake-mutations-") as temporary:
        folder = Path(temporary) / "strake"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*IGNORED))
        yield folder


@contextmanager
def edited(path: Path, text: str) -> Iterator[None]:
    """Replace the text of a file for as long as the context lasts."""
    original = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(original)


def run_tests(
    folder: Path, tests: Sequence[str], *options: str, seconds: float = 900, require_services: bool = True
) -> Result:
    """Run tests in `folder` up to the first failure. Kills every process they started if they take too long."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *options, *tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if require_services:
        environment["STRAKE_REQUIRE_SERVICES"] = "1"
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return Result(-signal.SIGKILL, output, timed_out=True)
    return Result(process.returncode, output)
