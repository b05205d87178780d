"""PgBouncer in transaction mode, in front of a cluster for tests."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.postgres import PASSWORD, ROLE, Cluster, unprivileged_user
from tests.support.services import free_port, wait_for_port

_CONFIGURATION = """
[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = {address}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 500
server_tls_sslmode = require
server_round_robin = 1
"""


@contextmanager
def pgbouncer(
    cluster: Cluster, *, size: int = 5, host: str = "127.0.0.1", address: str = "127.0.0.1", prefix: Sequence[str] = ()
) -> Iterator[int]:
    """A running PgBouncer. Yields its port, where the cluster's role and databases are reached.

    It uses its server connections in turn, so that consecutive transactions of a client are on different ones.
    """
    user = unprivileged_user()
    with tempfile.TemporaryDirectory(prefix="strake-pgbouncer-") as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)
        (folder / "users").write_text(f'"{ROLE}" "{PASSWORD}"\n')
        (folder / "pgbouncer.ini").write_text(
            _CONFIGURATION.format(
                host=host, server_port=cluster.port, address=address, port=port, folder=folder, size=size
            )
        )
        as_user = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        command = [*prefix, *as_user, "pgbouncer", "--quiet", str(folder / "pgbouncer.ini")]
        with (folder / "log").open("wb") as log:
            running = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for_port(port, host=address)
            yield port
        finally:
            running.terminate()
            running.wait(60)
