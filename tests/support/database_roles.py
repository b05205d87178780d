"""A migrated PostgreSQL database with the three roles of a deployed Strake."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
from psycopg import sql

from credentials.vault.keyring import new_document
from tests.support.postgres import PASSWORD, SUPERUSER, Cluster
from tests.support.running import ROOT, Strake, prepare_home
from tests.support.upstream import eventually

# Every grant to a role in this database, on objects of any kind.
GRANTED = """
WITH grants AS (
    SELECT relname::text AS name, NULL AS attname, (aclexplode(relacl)).* FROM pg_class
    UNION ALL SELECT relname::text, attname, (aclexplode(attacl)).*
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    UNION ALL SELECT 'schema ' || nspname, NULL, (aclexplode(nspacl)).* FROM pg_namespace
    UNION ALL SELECT 'database', NULL, (aclexplode(datacl)).* FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT 'function ' || proname, NULL, (aclexplode(proacl)).* FROM pg_proc
    UNION ALL SELECT 'defaults', NULL, (aclexplode(defaclacl)).* FROM pg_default_acl
)
SELECT name, privilege_type || coalesce(' (' || string_agg(attname, ', ' ORDER BY attname) || ')', ''), is_grantable
FROM grants JOIN pg_roles ON pg_roles.oid = grantee WHERE rolname = %s
GROUP BY name, privilege_type, is_grantable, attname IS NULL ORDER BY name, privilege_type
"""


@dataclass(frozen=True)
class Database:
    """A database whose owner is `ROLE`, and a role for each half. `strake` runs commands as the owner."""

    cluster: Cluster
    name: str
    web: str
    proxy: str
    strake: Strake

    def url(self, role: str) -> str:
        return self.cluster.url_of(self.name, quote(role, safe=""))

    @contextmanager
    def connect(self, role: str) -> Iterator[psycopg.Connection[Any]]:
        """A connection that commits each statement."""
        with psycopg.connect(self.url(role), autocommit=True) as connection:
            yield connection

    def execute(self, role: str, statement: str, *roles: str) -> list[tuple[Any, ...]]:
        """Run a statement with these role names in the place of {}. Returns its rows."""
        with self.connect(role) as connection:
            cursor = connection.execute(sql.SQL(statement).format(*map(sql.Identifier, roles)))
            return cursor.fetchall() if cursor.description else []

    def granted(self, role: str) -> dict[str, str]:
        """The rights that were granted to a role, by object, such as "INSERT, SELECT (id, label)"."""
        with self.connect(SUPERUSER) as connection:
            rows = connection.execute(GRANTED, [role]).fetchall()
        found: dict[str, str] = {}
        for name, privilege, is_grantable in rows:
            assert not is_grantable, f"{role} may pass on {privilege} on {name}"
            found[name] = f"{found[name]}, {privilege}" if name in found else privilege
        return found

    def open_functions(self) -> list[tuple[Any, ...]]:
        """The functions that run as their owner and that everybody may execute."""
        return self.execute(
            SUPERUSER,
            "SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef "
            "AND has_function_privilege('public', oid, 'EXECUTE')",
        )

    def grant(self) -> None:
        assert self.command("grant_roles", "--web", self.web, "--proxy", self.proxy)["failed"] == ""

    def command(self, *arguments: str) -> dict[str, str]:
        """Run a command as the owner, in the provisioner. Returns its "output", and why it "failed"."""
        return self.strake.call("command", arguments=arguments)


@contextmanager
def migrated(cluster: Cluster, home: Path) -> Iterator[Database]:
    """Creates a database and two roles without any rights, and drops them afterwards."""
    number = secrets.token_hex(6)
    name = f"strake_test_{number}"
    # Names that must be quoted.
    web, proxy = f'strake"Web {number}', f"strake-proxy;{number}"
    superuser = cluster.url_of("postgres", SUPERUSER)
    cluster.create_migrated(name)
    with psycopg.connect(superuser, autocommit=True) as connection:
        for role in (web, proxy):
            created = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(PASSWORD))
            connection.execute(created)
    prepare_home(home, keys=False)
    strake = Strake(home, {"DATABASE_URL": cluster.url_of(name), "STRAKE_MASTER_KEYS": new_document()})
    try:
        yield Database(cluster, name, web, proxy, strake)
    finally:
        strake.hang_up()
        with psycopg.connect(superuser, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            for role in (web, proxy):
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@contextmanager
def empty(database: Database, home: Path) -> Iterator[Database]:
    """A second, empty database with the same roles and the same keyring."""
    name = f"strake_test_{secrets.token_hex(6)}"
    database.cluster.create_database(name)
    prepare_home(home, keys=False)
    keys = database.strake.environment["STRAKE_MASTER_KEYS"]
    strake = Strake(home, {"DATABASE_URL": database.cluster.url_of(name), "STRAKE_MASTER_KEYS": keys})
    try:
        yield replace(database, name=name, strake=strake)
    finally:
        strake.hang_up()
        with psycopg.connect(database.cluster.url_of("postgres", SUPERUSER), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def proxy_half(database: Database, folder: Path, redis_url: str = "redis://127.0.0.1:1", **changed: str) -> Strake:
    """The proxy half of a deployed Strake, with its own role. It is not running yet."""
    environment = {
        "STRAKE_BASE_URL": "https://strake.example.org",
        "STRAKE_MASTER_KEYS": database.strake.environment["STRAKE_MASTER_KEYS"],
        "DATABASE_URL": database.url(database.proxy),
        "REDIS_URL": redis_url,
        "STRAKE_DRAIN_SECONDS": "0",
        "WEB_CONCURRENCY": "1",
    }
    return Strake(folder / "proxy", environment | changed, ("manage.py", "serve", "--only=proxy"))


@contextmanager
def both_halves(database: Database, folder: Path, redis_url: str) -> Iterator[Strake]:
    """Run both halves, each with its own role. Yields the proxy half when pages work."""
    with proxy_half(database, folder, redis_url) as proxy:
        own = {
            "DATABASE_URL": database.url(database.web),
            "STRAKE_SECRET_KEY": secrets.token_urlsafe(50),
            "EMAIL_URL": "smtp://127.0.0.1:1",
        }
        environment = {name: value for name, value in proxy.environment.items() if name != "STRAKE_MASTER_KEYS"} | own
        command = [sys.executable, "manage.py", "serve", "--only=web"]
        with proxy.log_path.open("ab") as log:
            web = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            eventually(lambda: _page_status(proxy) == 200, what=f"pages. {proxy.log()}")
            yield proxy
        finally:
            web.terminate()
            web.wait(60)


def _page_status(proxy: Strake) -> int:
    return httpx.get(f"{proxy.url}/healthz", headers={"Host": "strake.example.org"}, timeout=30).status_code
