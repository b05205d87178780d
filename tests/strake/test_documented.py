"""The commands and files of docs/operations.md, run as they are printed but for names, addresses and paths."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
import psycopg
import pytest

from credentials.vault.keyring_document import new_key_id
from tests.support.fronts import OPERATIONS, front
from tests.support.postgres import PASSWORD, Cluster
from tests.support.running import KEY, ROOT, Strake
from tests.support.services import free_port, wait_for_port
from tests.support.upstream import Upstream
from tests.support.vault import document

OWNER = "daemon"  # a user that every Debian has, in the place of strake-proxy
MANAGE = f'manage() {{ (cd "{ROOT}" && exec "{sys.executable}" manage.py "$@"); }}'


def documented(text: str, **replacements: str) -> str:
    """Return the only block of code that contains a text, with replacements, each of which must apply."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", OPERATIONS.read_text(), flags=re.DOTALL | re.MULTILINE)
    (block,) = (block for block in blocks if text in block)
    return replace(block, replacements)


def replace(text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def run(script: str, environment: dict[str, str], **options: object) -> str:
    """Run a script with bash, up to its first error. Returns its output."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout
    return str(done.stdout)


def owner_and_mode(path: Path) -> tuple[str, int]:
    status = path.stat()
    return pwd.getpwuid(status.st_uid).pw_name, status.st_mode & 0o777


@pytest.mark.root
def test_first_installation_creates_the_folders_that_it_needs(tmp_path: Path) -> None:
    """On Debian 12, nothing has created /etc/sysusers.d before."""
    block = documented("deploy/sysusers.d", **{" /etc/": f" {tmp_path}/etc/", "strake-proxy": OWNER})
    (tmp_path / "etc").mkdir()
    run("".join(line for line in block.splitlines(keepends=True) if line.startswith("install ")), dict(os.environ))
    assert (tmp_path / "etc/sysusers.d/strake.conf").read_bytes() == (
        ROOT / "deploy/sysusers.d/strake.conf"
    ).read_bytes()
    assert owner_and_mode(tmp_path / "etc/tmpfiles.d/strake.conf") == ("root", 0o644)
    assert owner_and_mode(tmp_path / "etc/strake/vault") == (OWNER, 0o700)


# --- Is it working? --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.nginx
@pytest.mark.curl
def test_first_steps_after_an_installation(tmp_path: Path, upstream: Upstream) -> None:
    """On one machine, behind nginx. Nothing resolves the name here, so curl is told the address."""
    steps, request = documented("manage doctor      "), documented("Bearer TOKEN")
    strake = Strake(tmp_path / "home", {"STRAKE_TRUSTED_PROXIES": "1"}, command=("manage.py", "serve", "--init"))
    with front("nginx", strake.port, tmp_path / "nginx") as nginx:
        origin = f"https://strake.example.org:{nginx.port}"
        strake.environment |= {"STRAKE_BASE_URL": origin, "STRAKE_RUNTIME": f"{strake.home}-run"}
        (tmp_path / ".curlrc").write_text(f"insecure\nsilent\nresolve = strake.example.org:{nginx.port}:127.0.0.1\n")
        environment = strake.environment | {"PATH": os.environ["PATH"], "CURL_HOME": str(tmp_path)}
        with strake:
            provider = f"custom --destination {upstream.url}"
            steps = replace(
                steps,
                {
                    "https://strake.example.org": origin,
                    "manage doctor": "{ manage doctor || true; } | grep Database",
                    "--provider openai": f"--provider {provider} --unchecked",
                },
            )
            said = run(f"{MANAGE}\n{steps}", environment, input=f"{KEY}\n")
            assert said.startswith("ok")
            assert "ok    Database: SQLite" in said
            assert f"{origin}/signin/link/link_" in said
            shown = dict(line.split() for line in said.splitlines() if re.match("(url|token) ", line))
            assert shown["url"].startswith(f"{origin}/p/")
            request = replace(request, {"TOKEN": shown["token"], "URL": shown["url"]})
            run(request, environment)
    assert upstream.last.target == b"/v1/models"
    assert upstream.last.header("authorization") == f"Bearer {KEY}".encode()


# --- PostgreSQL and Redis on another machine -------------------------------------------------------------------------


@contextmanager
def documented_postgresql() -> Iterator[Cluster]:
    """A server with the lines of postgresql.conf and pg_hba.conf."""
    with tempfile.TemporaryDirectory(prefix="strake-postgres-") as folder:
        lines = documented(
            "# postgresql.conf",
            **{
                "10.0.0.21": "127.0.0.1",
                "/etc/postgresql/tls/db.pem": "server.crt",
                "/etc/postgresql/tls/db.key": "server.key",
            },
        )
        cluster = Cluster(Path(folder), **dict(line.split(" = ", 1) for line in lines.splitlines() if " = " in line))
        cluster.create()
        rules = documented("# pg_hba.conf", **{"10.0.0.11": "127.0.0.1"})
        cluster.stop()
        cluster.certificate.with_name("pg_hba.conf").write_text(rules)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


@contextmanager
def documented_redis(folder: Path, certificate: Path) -> Iterator[int]:
    """A server with the lines of redis.conf. Yields its port."""
    port = free_port()
    key, authority = certificate.with_name("server.key"), certificate
    lines = documented(
        "# redis.conf",
        **{
            " 10.0.0.21": "",
            "tls-port 6379": f"tls-port {port}",
            "/etc/redis/tls/db.pem": str(certificate),
            "/etc/redis/tls/db.key": str(key),
            "/etc/redis/tls/ca.pem": str(authority),
        },
    )
    (folder / "redis.conf").write_text(f"{lines}dir {folder}\n")
    with subprocess.Popen(["redis-server", str(folder / "redis.conf")], stdout=subprocess.DEVNULL) as server:
        wait_for_port(port)
        try:
            yield port
        finally:
            server.terminate()


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.redis
def test_postgresql_and_redis_of_two_hosts(tmp_path: Path) -> None:
    with documented_postgresql() as cluster, documented_redis(tmp_path, cluster.certificate) as redis_port:
        urls = documented(
            "REDIS_URL='rediss://",
            **{
                "OWNER-PASSWORD": quote(PASSWORD, safe=""),
                "@db.example.org/": f"@localhost:{cluster.port}/",
                "@db.example.org:6379/": f"@localhost:{redis_port}/",
                "/etc/strake/ca.pem": str(cluster.certificate),
            },
        )
        strake = Strake(
            tmp_path / "home", {"STRAKE_BASE_URL": "https://strake.example.org", "STRAKE_MASTER_KEYS": document()}
        )
        environment = strake.environment | {"STRAKE_TRUSTED_PROXIES": "1", "STRAKE_SIGNUP": "closed"}
        commands = "manage migrate -v0; STRAKE_CHECK_SERVICES=0 manage check --deploy; manage doctor || true"
        said = run(f"{MANAGE}\nset -a; {urls}\n{commands}", environment)
        assert "strake.E" not in said
        assert "ok    Database: PostgreSQL" in said
        assert "ok    Redis: Redis" in said
        assert "without TLS" not in said
        with pytest.raises(psycopg.OperationalError, match="no encryption"):
            psycopg.connect(f"{cluster.url}?sslmode=disable")
        with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
            psycopg.connect(f"{cluster.url_of('template1')}?sslmode=require")


# --- Another host ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ssh(tmp_path: Path) -> dict[str, str]:
    """An environment in which `ssh` runs its command here, with the folder `there` in place of `here`."""
    folders = {name: tmp_path / name for name in ("here", "there", "bin")}
    for folder in folders.values():
        folder.mkdir()
    program = folders["bin"] / "ssh"
    program.write_text(
        f"""#!/bin/sh\nshift\nexec sh -c "$(printf %s "$*" | sed 's|{folders["here"]}|{folders["there"]}|g')"\n"""
    )
    program.chmod(0o755)
    return {"PATH": f"{folders['bin']}:{os.environ['PATH']}"}


@pytest.mark.root
def test_configuration_is_copied_with_owners_and_modes(tmp_path: Path, ssh: dict[str, str]) -> None:
    vault = tmp_path / "here/strake/vault"
    vault.mkdir(parents=True)
    (vault / "master-keys.json").write_text(document())
    (vault / "master-keys.json").chmod(0o600)
    vault.chmod(0o700)
    for path in (vault, vault / "master-keys.json"):
        shutil.chown(path, OWNER, OWNER)
    run(documented("tar -C /etc -c strake", **{"/etc": str(tmp_path / "here")}), ssh)
    assert owner_and_mode(tmp_path / "there/strake/vault") == (OWNER, 0o700)
    copy = tmp_path / "there/strake/vault/master-keys.json"
    assert (owner_and_mode(copy), copy.read_text()) == ((OWNER, 0o600), document())


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.postgres
@pytest.mark.redis
def test_master_keys_are_rotated_on_two_hosts(
    tmp_path: Path, ssh: dict[str, str], migrated_url: str, redis_url: str, upstream: Upstream
) -> None:
    files = [tmp_path / host / "vault/master-keys.json" for host in ("here", "there")]
    for file in files:
        file.parent.mkdir()
        file.touch(mode=0o600)
        file.write_text(document())
    common = {"STRAKE_BASE_URL": "https://strake.example.org", "DATABASE_URL": migrated_url, "REDIS_URL": redis_url}
    command = ("manage.py", "serve", "--only=proxy")
    hosts = [
        Strake(tmp_path / name, common | {"STRAKE_DRAIN_SECONDS": "0", "STRAKE_MASTER_KEYS_FILE": str(file)}, command)
        for name, file in zip(("host1", "host2"), files, strict=True)
    ]
    new_id = new_key_id(("2026-11-a",))
    block = documented(
        "copy_keyring()",
        **{"/etc/strake": str(tmp_path / "here"), "strake-proxy": "root", "2026-12-a": new_id},
    )
    with hosts[0], hosts[1]:
        endpoint = hosts[0].connect(upstream.url)
        said = run(f"{MANAGE}\n{block}", hosts[0].environment | ssh)
        assert f"{new_id} is the primary in" in said
        assert f"Retired 2026-11-a and removed it from {files[0]}." in said
        for host, file in zip(hosts, files, strict=True):
            held = json.loads(file.read_text())
            assert (held["primary"], list(held["keys"])) == (new_id, [new_id])
            assert [path.name for path in file.parent.iterdir() if path.suffix != ".lock"] == [file.name]
            assert file.stat().st_mode & 0o777 == 0o600
            url = f"{host.url}{endpoint.path}/v1/models"
            assert httpx.get(url, headers=endpoint.bearer | {"Host": "strake.example.org"}).status_code == 200
