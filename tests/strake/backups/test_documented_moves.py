"""The commands of docs/operations.md for one machine: back up, restore on a new one, move to PostgreSQL, and split."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import users
from tests.support.fronts import OPERATIONS
from tests.support.postgres import PASSWORD
from tests.support.running import ROOT, Endpoint, Strake, prepare_home
from tests.support.upstream import Upstream, fixed

pytestmark = pytest.mark.root
USER = "daemon"  # a user that every Debian has, in the place of those of the page
FILES = ("vault/master-keys.json", "vault/audit-key", "data/secret-key")


def documented(words: str) -> str:
    """The only block of code that has these words."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", OPERATIONS.read_text(), flags=re.DOTALL | re.MULTILINE)
    (found,) = (block for block in blocks if words in block)
    return str(found)


class Machine:
    """One machine with an endpoint, in `folder`, as after the first start. Strake does not run."""

    def __init__(self, folder: Path, database: Path, upstream: Upstream) -> None:
        self.folder, self.home = folder, folder / "var/lib/strake/home"
        for name in ("etc/default", "etc/strake/vault", "etc/strake/web", "root/copies", "var/lib/strake"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        prepare_home(self.home, database)
        self.as_user = users.prefix(USER, USER, [USER])
        deployed = {"STRAKE_BASE_URL": "https://strake.example.org"}
        self.strake = Strake(self.home, deployed, prefix=self.as_user)
        del self.strake.environment["STRAKE_RUNTIME"]
        self.endpoint: Endpoint = self.strake.connect(upstream.url)
        self.trail = self.strake.manage("export_audit", check=True).stdout
        self.strake.manage("checkpoint_audit", check=True)  # the first one creates the key
        self.strake.hang_up()
        for path in (folder / "var/lib/strake", *(folder / "var/lib/strake").rglob("*")):
            shutil.chown(path, USER, USER)
        self.setup = re.findall(
            r"^cat >.*^    --init-groups .*?}$", documented("serve --init"), re.DOTALL | re.MULTILINE
        )[0]
        self.run("")

    def run(self, script: str) -> str:
        """Run commands of the page with its function `manage`, in this folder and without systemd."""
        script = f"systemctl() {{ :; }}\n{self.setup}\n{script}"
        script = re.sub(r"(?<=[\s\"=<>])/(?=(etc|root|var)/)", f"{self.folder}/", script)
        as_user = shlex.join([*self.as_user, sys.executable])
        script = re.sub(r"setpriv --reuid=.*?\.venv/bin/python", lambda _: as_user, script, flags=re.DOTALL)
        script = re.sub(r"(-o |-g )strake(-proxy)?\b", rf"\1{USER}", script.replace("/opt/strake", str(ROOT)))
        done = subprocess.run(
            ["bash", "-euc", script],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={"PATH": os.environ["PATH"]},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def files(self) -> list[bytes]:
        return [(self.home / name).read_bytes() for name in FILES]


@pytest.fixture
def machine(migrated_database: Path, upstream: Upstream) -> Iterator[Machine]:
    upstream.default = fixed(200, body=b"{}")
    with tempfile.TemporaryDirectory(prefix="strake-machine-") as name:
        Path(name).chmod(0o755)
        yield Machine(Path(name), migrated_database, upstream)


def test_backup_is_restored_on_a_new_machine(machine: Machine) -> None:
    before = machine.files()
    machine.run(documented("-g strake /var/lib/strake-backups\nmanage backup"))
    copies, backups = machine.folder / "root/copies", machine.folder / "var/lib/strake-backups"
    (backup,) = backups.iterdir()
    assert backup.owner() == USER
    for source, name in ((backup, "strake.backup"), *((machine.home / name, Path(name).name) for name in FILES)):
        shutil.copy(source, copies / name)
    (copies / "trail.ndjson").write_text(machine.trail)
    for folder in (machine.home, backups):
        shutil.rmtree(folder)
    said = machine.run(documented("cd /root/copies"))
    assert "1 sealed key: all open" in said
    assert "0 ended again" in said
    assert machine.files() == before


@pytest.mark.postgres
@pytest.mark.redis
def test_one_machine_moves_to_postgresql_and_becomes_two_halves(
    machine: Machine, postgres_url: str, redis_url: str
) -> None:
    before = machine.files()
    url = machine.folder / "root/database-url"
    url.write_text(f"{postgres_url}\n")
    moves = documented("manage move_to -")
    printed = machine.run(moves[moves.index("manage move_to -") :])
    assert PASSWORD not in printed
    lines = documented("DATABASE_URL='postgres://strake:PASSWORD@127.0.0.1/strake'\nREDIS_URL")
    documented_names = re.findall(r"^(\w+)=", lines, re.MULTILINE)
    assert re.findall(r"^  (\w+)=", printed, re.MULTILINE) == documented_names
    ours = lines.replace("/var/lib/strake/home", str(machine.home))
    assert re.findall(r"^  (STRAKE_.*)$", printed, re.MULTILINE) == re.findall("^STRAKE_.*", ours, re.MULTILINE)

    environment = machine.folder / "etc/default/strake"
    urls = {"DATABASE_URL": postgres_url, "REDIS_URL": redis_url, "EMAIL_URL": "smtp://127.0.0.1:1"}
    added = re.sub(r"^(\w+_URL)=.*$", lambda found: f"{found[1]}='{urls[found[1]]}'", ours, flags=re.MULTILINE)
    machine.setup += f"\ncat >>{environment} <<'ENV'\n{added}ENV\n"
    assert "1 sealed key: all open" in machine.run("manage verify_vault")
    serving = dict(line.split("=", 1) for line in environment.read_text().replace("'", "").splitlines())
    machine.strake.environment |= {name: value for name, value in serving.items() if name != "STRAKE_HOME"}
    machine.strake.environment |= urls
    with machine.strake as strake:
        response = httpx.get(f"{strake.url}{machine.endpoint.path}/v1/models", headers=machine.endpoint.bearer)
        assert response.status_code == 200

    split = documented("systemctl disable --now strake\n").replace("manage grant_roles", ": manage grant_roles")
    machine.run(split)
    copies = [machine.folder / "etc/strake" / name.replace("data/", "web/") for name in FILES]
    assert [path.read_bytes() for path in copies] == before
    assert [(path.owner(), path.stat().st_mode & 0o777) for path in copies] == [
        (USER, 0o600),
        (USER, 0o600),
        ("root", 0o600),
    ]
