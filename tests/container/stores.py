"""PostgreSQL and Redis on the host, for containers: what their images would run, from this machine's packages."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.support import postgres
from tests.support.postgres import PASSWORD, SUPERUSER, Cluster
from tests.support.running import ROOT
from tests.support.services import free_port, wait_for_port

HOST = "host.containers.internal"  # the host, as Podman names it in every container


@dataclass(frozen=True)
class Stores:
    cluster: Cluster
    redis_port: int

    @property
    def redis_url(self) -> str:
        return f"redis://{HOST}:{self.redis_port}/0"

    def create_roles(self, folder: Path) -> None:
        """Run the script that the image of PostgreSQL runs, with the secrets in `folder`."""
        environment = {
            "PATH": os.environ["PATH"],
            "SECRETS": str(folder),
            "POSTGRES_USER": SUPERUSER,
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.cluster.port),
            "PGPASSWORD": PASSWORD,
        }
        subprocess.run(["sh", ROOT / "contrib/compose/roles.sh"], env=environment, check=True, timeout=60)


@contextmanager
def running(folder: Path) -> Iterator[Stores]:
    """Both, reachable from containers, with passwords for PostgreSQL."""
    port = free_port()
    options = ["--port", str(port), "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", str(folder), "--save", ""]
    redis = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        with postgres.cluster(listen_addresses="'*'") as cluster:
            _prepare(cluster)
            yield Stores(cluster, port)
    finally:
        redis.kill()
        redis.wait(60)


def _prepare(cluster: Cluster) -> None:
    """Let containers in, and make room for what roles.sh creates."""
    with (cluster.folder / "data" / "pg_hba.conf").open("a") as file:
        file.write("host all all 0.0.0.0/0 scram-sha-256\n")
    with psycopg.connect(cluster.url_of("postgres", SUPERUSER), autocommit=True) as superuser:
        superuser.execute("SELECT pg_reload_conf()")
        superuser.execute("ALTER DATABASE strake RENAME TO strake_of_tests")
        superuser.execute("ALTER ROLE strake RENAME TO strake_of_tests")


def with_host(urls: Mapping[str, Path], stores: Stores) -> None:
    """Let the database URLs of secrets.sh lead to the host."""
    for name, path in urls.items():
        if name.startswith("database-url"):
            path.chmod(0o644)
            path.write_text(path.read_text().replace("@postgres/", f"@{HOST}:{stores.cluster.port}/"))
            path.chmod(0o444)
