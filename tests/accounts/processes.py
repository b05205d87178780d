"""Run code in other processes of an installation, to see what happens between processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from tests.support.running import ROOT, Strake

_SETUP = "import django, sys; django.setup()\n"


def run_python(
    installation: Strake, code: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code after `django.setup()` to its end."""
    [done] = run_together(installation, [code], environment=environment)
    return done


def run_together(
    installation: Strake, codes: list[str], *, wait_for: str = "", environment: Mapping[str, str] | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """Run several processes at the same time, to their end.

    Each prints `wait_for` when it is ready, and continues at the end of its input, which comes when all are ready.
    """
    processes = [_start(installation, code, environment) for code in codes]
    try:
        for process in processes if wait_for else []:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{wait_for}\n"
        results = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None
        for process in processes:
            out, errors = process.communicate(timeout=200)
            results.append(subprocess.CompletedProcess(process.args, process.returncode, out, errors))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return results


def printed(done: subprocess.CompletedProcess[str]) -> str:
    """What a process printed. Raises `AssertionError` if it failed."""
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _start(installation: Strake, code: str, environment: Mapping[str, str] | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _SETUP + code],
        cwd=ROOT,
        env=installation.environment | dict(environment or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
