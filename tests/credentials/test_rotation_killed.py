"""kill -9 in the middle of a rotation loses nothing, and the next run goes on."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pty
import re
import subprocess
import sys
import threading
import time

import httpx
import pytest

from tests.running import ROOT, Endpoint, Strake
from tests.upstream import Upstream

SEED = (
    "from accounts.models import User; from tests import factories\n"
    "alice = User.objects.create(email='alice@example.org')\n"
    "for n in range(30): factories.make_endpoint(owner=alice, key=f'sk-row-{n}')\n"
)


def seeded(strake: Strake) -> Strake:
    strake.manage("migrate", "-v0", check=True)
    strake.python(SEED)
    strake.manage("create_master_key", check=True)
    return strake


def rotate_under_fire(strake: Strake, first: int, step: int) -> dict:
    result = subprocess.run(
        [sys.executable, "-m", "tests.credentials.killed_rotation", str(first), str(step)],
        cwd=ROOT,
        env=strake.environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(("first", "step"), [(1, 1), (17, 0)], ids=["at every statement", "always at the same one"])
def test_killed_at_any_statement_it_goes_on_where_it_was(tmp_path, first, step):
    strake = seeded(Strake(tmp_path / "home"))
    seen = rotate_under_fire(strake, first, step)
    assert seen["kills"] >= 3
    assert len(seen["under"]) == 1
    assert seen["progress"] == sorted(seen["progress"]), "what was committed stays"
    assert seen["progress"][-1] == 30
    assert "30 sealed keys: all open." in strake.manage("verify_vault").stdout


def test_a_terminal_shows_how_far_how_fast_and_how_long_still(tmp_path):
    strake = seeded(Strake(tmp_path / "home"))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "manage.py", "rotate_master_key", "--batch", "1"],
        cwd=ROOT,
        env={**strake.environment, "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ):
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # what a closed terminal reads as
            while data := os.read(ours, 4096):
                shown += data
    os.close(ours)
    for part in (rb"30/30", rb"100%", rb"\d rows/s", rb"\d:\d\d:\d\d"):
        assert re.search(part, shown), shown


class Traffic(threading.Thread):
    """Calls one endpoint after the other until it is stopped, and keeps every answer that is not the right one."""

    def __init__(self, keys: dict[Endpoint, str], upstream: Upstream) -> None:
        super().__init__(daemon=True)
        self.keys, self.upstream = keys, upstream
        self.answered, self.wrong = 0, []
        self.stopped = threading.Event()

    def run(self) -> None:
        with httpx.Client(timeout=30) as client:
            for endpoint, key in itertools.cycle(self.keys.items()):
                if self.stopped.is_set():
                    return
                try:
                    answer = client.get(f"{endpoint.url}/v1/models", headers=endpoint.bearer)
                    sent = self.upstream.last.header("authorization")
                    if answer.status_code != 200 or sent != f"Bearer {key}".encode():
                        self.wrong.append(answer.status_code)
                except (httpx.HTTPError, IndexError) as error:
                    self.wrong.append(repr(error))
                self.answered += 1

    def goes_on(self) -> None:
        """Return once requests that began after this call have been answered."""
        enough = self.answered + len(self.keys) + 1
        end = time.monotonic() + 30
        while self.answered < enough:
            assert self.is_alive()
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def environment(request) -> dict[str, str]:
    return {"DATABASE_URL": request.getfixturevalue("postgres_url")} if request.param == "postgres" else {}


def test_no_request_fails_while_a_key_is_made_rotated_under_fire_and_retired(environment, run_strake, upstream):
    strake = run_strake(**environment)
    keys = {strake.connect(upstream.url, key=f"sk-row-{n}"): f"sk-row-{n}" for n in range(12)}
    file = strake.home / "master-keys.json"
    old = json.loads(file.read_text())["primary"]
    traffic = Traffic(keys, upstream)
    traffic.start()
    try:
        strake.manage("create_master_key", check=True)
        traffic.goes_on()
        seen = rotate_under_fire(strake, 2, 5)
        assert seen["kills"] >= 2
        assert seen["progress"][-1] == len(keys)
        traffic.goes_on()
        strake.manage("retire_master_key", old, check=True)
        assert old not in json.loads(file.read_text())["keys"]
        traffic.goes_on()
    finally:
        traffic.stopped.set()
        traffic.join()
    assert traffic.wrong == []


@pytest.mark.postgres
def test_killed_on_postgresql_it_goes_on_and_its_lock_dies_with_it(tmp_path, postgres_url):
    strake = seeded(Strake(tmp_path / "home", {"DATABASE_URL": postgres_url}))
    seen = rotate_under_fire(strake, 1, 3)
    assert seen["kills"] >= 3
    assert seen["progress"][-1] == 30
    assert "30 sealed keys: all open." in strake.manage("verify_vault").stdout


@pytest.mark.postgres
def test_two_rotations_on_postgresql_exclude_each_other(tmp_path, postgres_url):
    strake = seeded(Strake(tmp_path / "home", {"DATABASE_URL": postgres_url}))
    code = (
        "import subprocess\nfrom accounts.audit import OPERATOR; from credentials import rotation\n"
        "def another(_):\n"
        "    command = [sys.executable, 'manage.py', 'rotate_master_key']\n"
        "    found = subprocess.run(command, capture_output=True, text=True)\n"
        "    print(found.returncode, found.stderr)\n"
        "print(rotation.rotate(actor=OPERATOR, batch=30, on_progress=another).rewrapped)\n"
    )
    shown = strake.python(code)
    assert "1 CommandError: Another rotation is running" in shown
    assert shown.splitlines()[-1] == "30"
