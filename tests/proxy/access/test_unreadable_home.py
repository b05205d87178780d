"""PostgreSQL with the HOME of another user, as `setpriv` keeps it: nobody needs what it may not read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import users
from tests.support.postgres import Cluster
from tests.support.running import ROOT, Strake
from tests.support.upstream import eventually

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]
USER = users.prefix("nobody", "nogroup", ["nogroup"]) if os.geteuid() == 0 else []

CONNECT = """
import asyncio, django, sys
from django.conf import settings
from django.db import connection
from proxy.access.postgresql_connections import _connect_to_first, connect_arguments
from strake.database_url import database_config

ENCRYPTED = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
config = database_config(sys.argv[1])

async def ask():
    connection = await _connect_to_first(connect_arguments(config))
    return await connection.fetchval(ENCRYPTED)

settings.configure(DATABASES={"default": config})
django.setup()
with connection.cursor() as cursor:
    print(cursor.execute(ENCRYPTED).fetchone()[0], asyncio.run(ask()))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter, with a home folder that only root may."""
    with tempfile.TemporaryDirectory(prefix="strake-home-") as created:
        folder = Path(created)
        folder.chmod(0o777)
        (folder / "root" / ".postgresql").mkdir(parents=True)
        (folder / "root").chmod(0o700)
        yield folder


@pytest.mark.parametrize("mode", ["", "prefer", "require", "verify-full"])
@pytest.mark.parametrize("locked", ["folder", "files"])
def test_both_drivers_connect_with_tls(mode: str, locked: str, folder: Path, postgres_cluster: Cluster) -> None:
    if locked == "files":
        (folder / "root").chmod(0o755)
        for name in ("postgresql.crt", "postgresql.key", "root.crt", "root.crl"):
            (folder / "root" / ".postgresql" / name).touch(0o600)
    root = shutil.copy(postgres_cluster.certificate, folder)
    Path(root).chmod(0o644)
    query = f"?sslmode={mode}" if mode else ""
    if mode == "verify-full":
        query += f"&sslrootcert={root}"
    done = subprocess.run(
        [*USER, sys.executable, "-c", CONNECT, postgres_cluster.url + query],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(folder / "root")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True True\n", "")


@pytest.mark.slow
def test_strake_serves(folder: Path, migrated_url: str) -> None:
    environment = {"DATABASE_URL": migrated_url, "HOME": str(folder / "root")}
    with Strake(folder / "strake", environment, prefix=USER) as strake:
        eventually(
            lambda: httpx.get(f"{strake.url}/readyz", timeout=60).text == "ok", what=f"readiness. {strake.log()}"
        )
