"""A deployed Strake as docs/operations.md sets it up: two units of two users, and three database roles."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from tests.support import users
from tests.support.postgres import PASSWORD, SUPERUSER, Cluster
from tests.support.running import ROOT, Strake
from tests.support.upstream import eventually
from tests.support.vault import document

HOST = "strake.example.org"
# Users and a group that every Debian has, in the place of strake-proxy, strake-web and strake-run.
PROXY_USER, WEB_USER, OTHER_USER, GROUP = "daemon", "nobody", "games", "users"


class Installation:
    """Both units running. Made by `installed`."""

    def __init__(self, folder: Path, operator: Strake, proxy: Strake, web_environment: dict[str, str]) -> None:
        self.folder, self.operator, self.proxy = folder, operator, proxy
        self.keyring_file = folder / "vault" / "master-keys.json"
        self._web_environment = web_environment
        self._prefix = users.prefix(WEB_USER, "nogroup", [GROUP])
        self._web: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.proxy.url

    @property
    def proxy_pids(self) -> list[int]:
        return _with_children(self.proxy.pid)

    @property
    def web_pids(self) -> list[int]:
        assert self._web is not None
        return _with_children(self._web.pid)

    def start_web(self) -> None:
        command = [*self._prefix, sys.executable, "manage.py", "serve", "--only=web"]
        with self.proxy.log_path.open("ab") as log:
            self._web = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._web_environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually(self._serves_pages, what=f"pages. {self.proxy.log()}")

    def stop_web(self) -> None:
        if self._web is not None:
            self._web.terminate()
            self._web.wait(60)
            self._web = None

    def restart_web(self) -> None:
        self.stop_web()
        self.start_web()

    def run_as_web(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run Python with the user and the environment of the web half."""
        return self._run(self._prefix, command)

    def run_as_other(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run Python with that environment as a third user, who is in the sockets' group."""
        return self._run(users.prefix(OTHER_USER, "games", [GROUP]), command)

    def _run(self, prefix: list[str], command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*prefix, sys.executable, *command],
            cwd=ROOT,
            env=self._web_environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def _serves_pages(self) -> bool:
        import httpx

        try:
            return httpx.get(f"{self.url}/healthz", headers={"Host": HOST}, timeout=30).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def installed(cluster: Cluster, redis_url: str) -> Iterator[Installation]:
    """Set it up, run both units, and remove everything afterwards. Needs root."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="strake-installed-")))
        folder.chmod(0o755)
        database = stack.enter_context(_database(cluster))
        common = {
            "STRAKE_BASE_URL": f"https://{HOST}",
            "REDIS_URL": redis_url,
            "STRAKE_RUNTIME": str(_runtime_folder(folder)),
            "STRAKE_DRAIN_SECONDS": "0",
            "WEB_CONCURRENCY": "2",
        }
        keyring = {"STRAKE_MASTER_KEYS_FILE": str(_keyring_file(folder))}
        operator = Strake(folder / "operator", common | keyring | {"DATABASE_URL": database["strake"]})
        operator.manage("grant_roles", f"--web={database['web_role']}", f"--proxy={database['proxy_role']}", check=True)
        proxy_environment = common | keyring | {"DATABASE_URL": database["proxy"], "STRAKE_WEB_USER": WEB_USER}
        prefix = users.prefix(PROXY_USER, "daemon", [GROUP])
        proxy = Strake(folder / "proxy", proxy_environment, ("manage.py", "serve", "--only=proxy"), prefix)
        web = {
            name: value for name, value in proxy.environment.items() if name not in {*keyring, "STRAKE_WEB_USER"}
        } | {
            "DATABASE_URL": database["web"],
            "STRAKE_SECRET_KEY": secrets.token_urlsafe(50),
            "EMAIL_URL": "smtp://127.0.0.1:1",
        }
        stack.enter_context(proxy)
        installation = Installation(folder, operator, proxy, web)
        stack.callback(operator.stop)
        stack.callback(installation.stop_web)
        installation.start_web()
        yield installation


def _runtime_folder(folder: Path) -> Path:
    """As tmpfiles.d makes /run/strake."""
    import grp
    import pwd

    run = folder / "run"
    group = grp.getgrnam(GROUP).gr_gid
    for path, owner in ((run, "root"), (run / "proxy", PROXY_USER), (run / "web", WEB_USER)):
        path.mkdir()
        os.chown(path, pwd.getpwnam(owner).pw_uid, group)
        path.chmod(0o2750)
    return run


def _keyring_file(folder: Path) -> Path:
    import shutil

    vault = folder / "vault"
    vault.mkdir(mode=0o700)
    file = vault / "master-keys.json"
    file.touch(mode=0o600)
    file.write_text(document())
    for path in (vault, file):
        shutil.chown(path, PROXY_USER)
    return file


@contextmanager
def _database(cluster: Cluster) -> Iterator[Mapping[str, str]]:
    """A new database and its three roles. Yields the URL of each role, and the names of two."""
    number = secrets.token_hex(4)
    name, roles = f"strake_installed_{number}", {half: f"strake_{half}_{number}" for half in ("web", "proxy")}
    cluster.create_migrated(name)
    with psycopg.connect(cluster.url_of("postgres", SUPERUSER), autocommit=True) as superuser:
        for role in roles.values():
            superuser.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(PASSWORD))
            )
        yield {
            "strake": cluster.url_of(name),
            "web": cluster.url_of(name, roles["web"]),
            "proxy": cluster.url_of(name, roles["proxy"]),
            "web_role": roles["web"],
            "proxy_role": roles["proxy"],
        }
        superuser.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        for role in roles.values():
            superuser.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def _with_children(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in map(int, children) for found in _with_children(child))]
