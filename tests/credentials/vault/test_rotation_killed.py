"""SIGKILL in the middle of a rotation loses nothing, and the next run continues."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.running import ROOT, Endpoint, Strake
from tests.support.upstream import Upstream

SEED = (
    "from accounts.models import User; from tests.support import factories\n"
    "alice = User.objects.create(email='alice@example.org')\n"
    "for n in range(30): factories.make_endpoint(owner=alice, key=f'sk-row-{n}')\n"
)


def seeded(strake: Strake) -> Strake:
    strake.python(SEED)
    strake.manage("create_master_key", "--no-server", check=True)
    return strake


def rotate_under_fire(strake: Strake, first: int, step: int) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_rotation", str(first), str(step)],
        cwd=ROOT,
        env=strake.environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    killed: dict[str, Any] = json.loads(result.stdout)
    return killed


@pytest.mark.parametrize(("first", "step"), [(1, 1), (17, 0)], ids=["every-statement", "one-statement"])
def test_rotation_resumes_after_kill_at_any_statement(migrated_home: Path, first: int, step: int) -> None:
    strake = seeded(Strake(migrated_home))
    seen = rotate_under_fire(strake, first, step)
    assert seen["kills"] >= 3
    assert len(seen["under"]) == 1
    assert seen["progress"] == sorted(seen["progress"]), "committed rows stay committed"
    assert seen["progress"][-1] == 30
    assert "30 sealed keys: all open." in strake.manage("verify_vault").stdout


def test_terminal_shows_progress_speed_and_time_left(migrated_home: Path) -> None:
    strake = seeded(Strake(migrated_home))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with subprocess.Popen(
        [sys.executable, "manage.py", "rotate_master_key", "--no-server", "--batch", "1"],
        cwd=ROOT,
        env={**strake.environment, "TERM": "xterm"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ):
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Reading a closed terminal raises EIO.
            while data := os.read(ours, 4096):
                shown += data
    os.close(ours)
    for part in (rb"30/30", rb"100%", rb"\d rows/s", rb"\[\d\d:\d\d<\d\d:\d\d"):
        assert re.search(part, shown), shown


class Traffic(threading.Thread):
    """Calls the endpoints in turn until it is stopped, and records every wrong response."""

    def __init__(self, keys: dict[Endpoint, str], upstream: Upstream) -> None:
        super().__init__(daemon=True)
        self.keys, self.upstream = keys, upstream
        self.completed = 0
        self.wrong: list[int | str] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        with httpx.Client(timeout=60) as client:
            for endpoint, key in itertools.cycle(self.keys.items()):
                if self.stopped.is_set():
                    return
                try:
                    response = client.get(f"{endpoint.url}/v1/models", headers=endpoint.bearer)
                    sent = self.upstream.last.header("authorization")
                    if response.status_code != 200 or sent != f"Bearer {key}".encode():
                        self.wrong.append(response.status_code)
                except (httpx.HTTPError, IndexError) as error:
                    self.wrong.append(repr(error))
                self.completed += 1

    def wait_for_round(self) -> None:
        """Return after every endpoint has been called once more."""
        enough = self.completed + len(self.keys) + 1
        end = time.monotonic() + 90
        while self.completed < enough:
            assert self.is_alive()
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"DATABASE_URL": request.getfixturevalue("migrated_url")} if request.param == "postgres" else {}


def test_no_request_fails_during_killed_rotations(
    environment: dict[str, str], run_strake: Callable[..., Strake], upstream: Upstream
) -> None:
    strake = run_strake(**environment)
    keys = {strake.connect(upstream.url, key=f"sk-row-{n}"): f"sk-row-{n}" for n in range(12)}
    file = strake.home / "vault/master-keys.json"
    old = json.loads(file.read_text())["primary"]
    traffic = Traffic(keys, upstream)
    traffic.start()
    try:
        strake.manage("create_master_key", check=True)
        traffic.wait_for_round()
        seen = rotate_under_fire(strake, 2, 5)
        assert seen["kills"] >= 2
        assert seen["progress"][-1] == len(keys)
        traffic.wait_for_round()
        strake.manage("retire_master_key", old, check=True)
        assert old not in json.loads(file.read_text())["keys"]
        traffic.wait_for_round()
    finally:
        traffic.stopped.set()
        traffic.join()
    assert traffic.wrong == []


@pytest.mark.postgres
def test_rotation_resumes_after_kill_on_postgresql(migrated_home: Path, migrated_url: str) -> None:
    strake = seeded(Strake(migrated_home, {"DATABASE_URL": migrated_url}))
    seen = rotate_under_fire(strake, 1, 3)
    assert seen["kills"] >= 3
    assert seen["progress"][-1] == 30
    assert "30 sealed keys: all open." in strake.manage("verify_vault").stdout


@pytest.mark.postgres
def test_rotations_exclude_each_other_on_postgresql(migrated_home: Path, migrated_url: str) -> None:
    strake = seeded(Strake(migrated_home, {"DATABASE_URL": migrated_url}))
    code = (
        "import subprocess\nfrom accounts.actors import OPERATOR; from credentials.vault import rotation\n"
        "def another(_):\n"
        "    command = [sys.executable, 'manage.py', 'rotate_master_key', '--no-server']\n"
        "    found = subprocess.run(command, capture_output=True, text=True)\n"
        "    print(found.returncode, found.stderr)\n"
        "print(rotation.rotate(actor=OPERATOR, batch=30, no_server=True, on_progress=another).rewrapped)\n"
    )
    shown = strake.python(code)
    assert "1 CommandError: Another rotation is running" in shown
    assert shown.splitlines()[-1] == "30"
