"""kill -9 in the middle of a rotation loses nothing, and the next run goes on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.running import ROOT, Strake

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
