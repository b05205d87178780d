"""Start programs on one core and stop them, and wait until they respond."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / ".peers"
RESULTS = ROOT / "bench" / "results"
_CORES = sorted(os.sched_getaffinity(0))
GATEWAY_CORE, LOAD_CORE = _CORES[0], _CORES[-1]
ON_GATEWAY_CORE = ("taskset", "-c", str(GATEWAY_CORE))


def occupy_load_core() -> None:
    """Move this process to the load core, where its children stay too, and let all of them open many files."""
    if GATEWAY_CORE == LOAD_CORE:
        raise SystemExit("The measurements need two cores: one for the gateway, one for the load and the provider.")
    os.sched_setaffinity(0, {LOAD_CORE})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def running(
    name: str, command: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[int]:
    """Run a process group. Its output goes to bench/results/NAME.log."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**_clean_environment(), **(environment or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a command to its end. Raises `RuntimeError` with the end of its errors if it fails."""
    environment = {**_clean_environment(), **(environment or {})}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[:3]} ended with {done.returncode}: {done.stderr[-500:]}")


def wait_for(url: str, seconds: float = 60) -> None:
    """Return once the URL responds, with whatever status. Raises `TimeoutError`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"{url} does not respond: see the logs in {RESULTS}")


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("STRAKE_")}
