"""DATABASE_URL reaches both drivers with the same meaning, or is refused at startup."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import httpx
import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql.base import DatabaseWrapper
from hypothesis import given
from hypothesis import strategies as st

from proxy.access.postgresql_connections import _connect_to_first, connect_arguments
from strake.database_url import DEADLINES, OPTIONS, database_config
from tests.support.postgres import PASSWORD, Cluster
from tests.support.running import Strake
from tests.support.services import free_port
from tests.support.upstream import Upstream

SECRET = "hunter2-do-not-print"


def test_url_is_split_into_settings(tmp_path: Path) -> None:
    root = tmp_path / "root.crt"
    root.touch()
    url = f"postgres://us%40er:p%2Fw@db.example.org:5433/strake?sslmode=verify-full&sslrootcert={root}"
    assert database_config(url) == {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "strake",
        "USER": "us@er",
        "PASSWORD": "p/w",
        "HOST": "db.example.org",
        "PORT": "5433",
        "OPTIONS": {**DEADLINES, "sslmode": "verify-full", "sslrootcert": str(root)},
    }


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgres://u@db/strake", "db", "5432"),
        ("postgres://u@[::1]:5433/strake", "::1", "5433"),
        ("postgres://u@a,b:5433,[::1]/strake", "a,b,::1", "5432,5433,5432"),
        ("postgres://u@%2Frun%2Fpostgresql/strake", "/run/postgresql", "5432"),
        ("postgresql:///strake?host=/run/postgresql", "/run/postgresql", "5432"),
        ("postgres://u@/strake?host=/run/postgresql&port=5433", "/run/postgresql", "5433"),
        ("postgres://u@/strake?host=a,b&port=5433,5434", "a,b", "5433,5434"),
        ("postgres://u@a,b/strake?port=5433", "a,b", "5433,5433"),
    ],
)
def test_every_host_has_a_port(url: str, host: str, port: str) -> None:
    config = database_config(url)
    assert (config["HOST"], config["PORT"]) == (host, port)
    assert [(one["host"], str(one["port"])) for one in connect_arguments(config)] == list(
        zip(host.split(","), port.split(","), strict=True)
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"mysql://user:{SECRET}@db/strake", "should look like postgres://"),
        (f"user:{SECRET}@db", "should look like postgres://"),
        (f"postgres://user:{SECRET}@db:notaport/strake", "host or a port that cannot be read"),
        (f"postgres://user:{SECRET}@db:65536/strake", "host or a port that cannot be read"),
        (f"postgres://user:{SECRET}@db,/strake", "host or a port that cannot be read"),
        (f"postgres://user:{SECRET}@a,b,c/strake?port=1,2", "host or a port that cannot be read"),
        (f"postgres://user:{SECRET}@db:5432/", "names no database"),
        (f"postgres://[{SECRET}", "percent-encode"),
        (f"postgres://user:{SECRET}@/strake", "must name its host once"),
        (f"postgres://user:{SECRET}@db/strake?host=/run", "must name its host once"),
        ("postgres://u@db/strake?sslmode=verified", "sslmode must be one of"),
        ("postgres://u@db/strake?target_session_attrs=master", "target_session_attrs must be one of"),
        ("postgres://u@db/strake?connect_timeout=soon", "connect_timeout must be a whole number"),
        ("postgres://u@db/strake?connect_timeout=0", "connect_timeout must be a whole number"),
        (
            "postgres://u@db/strake?sslrootcert=/nowhere/root.crt",
            "sslrootcert names a file that cannot be read: No such",
        ),
        ("postgres://u@db/strake?sslmode=require&sslmode=disable", "option 'sslmode' one value"),
        ("postgres://u@db/strake?sslmode", "option 'sslmode' one value"),
    ],
)
def test_invalid_url_is_refused_and_not_repeated(url: str, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="DATABASE_URL") as caught:
        database_config(url)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["keepalives", "channel_binding", "hostaddr", "dbname", "service", "pool", "SSLMODE"])
def test_unknown_option_is_refused_by_name(name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"DATABASE_URL has the option '{name}', which Strake does not"):
        database_config(f"postgres://u@db/strake?{name}=1")


@pytest.mark.parametrize("special", "#/?")
@pytest.mark.parametrize("form", ["{}" + SECRET, SECRET + "{}", "1{}" + SECRET, "@{}" + SECRET, "{}a=" + SECRET])
def test_special_character_must_be_percent_encoded(special: str, form: str) -> None:
    password = form.format(special)
    with pytest.raises(ImproperlyConfigured, match=f"percent-encode .* {special} is %".replace("?", r"\?")) as caught:
        database_config(f"postgres://user:{password}@db:5432/strake?sslmode=require")
    assert SECRET not in str(caught.value)
    config = database_config(f"postgres://user:{quote(password, safe='')}@db:5432/strake?sslmode=require")
    assert (config["PASSWORD"], config["HOST"], config["NAME"]) == (password, "db", "strake")


@given(st.text())
def test_any_password_survives_percent_encoding(password: str) -> None:
    with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate is no text
        encoded = quote(password, safe="")
        assert database_config(f"postgres://user:{encoded}@db/strake")["PASSWORD"] == password


@given(st.text() | st.text().map("postgres://{}".format) | st.text().map("postgres://u@h/n?{}".format))
def test_no_text_raises_another_error(url: str) -> None:
    with contextlib.suppress(ImproperlyConfigured):
        connect_arguments(database_config(url))


# --- With a server -------------------------------------------------------------------------------------------------


SESSION = """
    SELECT coalesce(host(inet_server_addr()), 'socket'), ssl, current_setting('port'), current_user, current_database(),
        current_setting('application_name'), current_setting('search_path')
    FROM pg_stat_ssl WHERE pid = pg_backend_pid()
"""


def with_psycopg(config: dict[str, Any]) -> tuple[Any, ...]:
    """Connect as Django does."""
    parameters = DatabaseWrapper({**config, "TIME_ZONE": None, "CONN_HEALTH_CHECKS": False}).get_connection_params()
    parameters.pop("cursor_factory", None)
    parameters.pop("context", None)
    with psycopg.connect(**parameters) as connection:
        row: tuple[Any, ...] | None = connection.execute(SESSION).fetchone()
    assert row is not None
    return row


async def with_asyncpg(config: dict[str, Any]) -> tuple[Any, ...]:
    """Connect as the look-up does."""
    connection = await _connect_to_first(connect_arguments(config))
    try:
        return tuple(await connection.fetchrow(SESSION))
    finally:
        await connection.close()


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("hosts", "options", "expected"),
    [
        ("127.0.0.1:{port}", "", ("127.0.0.1", True)),
        ("", "host={folder}&port={port}", ("socket", False)),
        ("127.0.0.1:{port}", "sslmode=disable", ("127.0.0.1", False)),
        ("127.0.0.1:{port}", "sslmode=verify-full&sslrootcert={certificate}", ("127.0.0.1", True)),
        ("localhost:{port}", "sslmode=verify-ca&sslrootcert={certificate}&connect_timeout=5", ("127.0.0.1", True)),
        ("127.0.0.1:{closed},127.0.0.1:{port}", "target_session_attrs=read-write", ("127.0.0.1", True)),
        ("", "host=127.0.0.1,127.0.0.1&port={closed},{port}", ("127.0.0.1", True)),
        ("127.0.0.1:{port}", "target_session_attrs=prefer-standby", ("127.0.0.1", True)),
        ("127.0.0.1:{port}", "application_name=a+b&options=-c%20search_path%3Dx", ("127.0.0.1", True)),
    ],
)
async def test_both_drivers_reach_the_same_server(
    hosts: str, options: str, expected: tuple[str, bool], postgres_cluster: Cluster
) -> None:
    values = {
        "port": postgres_cluster.port,
        "closed": free_port(),
        "folder": postgres_cluster.folder,
        "certificate": postgres_cluster.certificate,
    }
    password = quote(PASSWORD, safe="")
    config = database_config(f"postgres://strake:{password}@{hosts.format(**values)}/strake?{options.format(**values)}")
    seen = with_psycopg(config)
    assert seen == await with_asyncpg(config)
    assert seen[:2] == expected
    assert seen[2:5] == (str(postgres_cluster.port), "strake", "strake")
    if "application_name" in options:
        assert seen[5:] == ("a+b", "x")


@pytest.fixture
def other_certificate(tmp_path: Path) -> Path:
    """A certificate that the server does not have."""
    path = tmp_path / "other.crt"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other -keyout /dev/null -out"
    subprocess.run([*command.split(), str(path)], check=True, capture_output=True)
    return path


@pytest.mark.postgres
@pytest.mark.parametrize("options", ["sslmode=verify-full", "target_session_attrs=standby"])
async def test_both_drivers_refuse_the_same_server(options: str, postgres_url: str, other_certificate: Path) -> None:
    config = database_config(f"{postgres_url}?{options}&sslrootcert={other_certificate}")
    with pytest.raises(psycopg.OperationalError):
        with_psycopg(config)
    with pytest.raises((OSError, asyncpg.InternalClientError)):
        await with_asyncpg(config)


@pytest.mark.postgres
def test_pages_and_proxy_use_a_socket_in_the_query(
    run_strake: Callable[..., Strake], postgres_cluster: Cluster, postgres_url: str, upstream: Upstream
) -> None:
    user, name = urlsplit(postgres_url).netloc.partition("@")[0], urlsplit(postgres_url).path
    running = run_strake(
        DATABASE_URL=f"postgres://{user}@{name}?host={postgres_cluster.folder}&port={postgres_cluster.port}"
    )
    endpoint = running.connect(upstream.url)
    assert httpx.get(f"{running.url}/healthz", headers={"Host": f"localhost:{running.port}"}).status_code == 200
    assert httpx.get(f"{endpoint.url}/v1/models", headers=endpoint.bearer).status_code == 200


def test_unknown_option_stops_the_server_with_one_message(tmp_path: Path) -> None:
    strake = Strake(tmp_path / "home", {"DATABASE_URL": f"postgres://u:{SECRET}@127.0.0.1/strake?keepalives=1"})
    ended = strake.manage("serve")
    assert ended.returncode == os.EX_CONFIG
    assert "DATABASE_URL has the option 'keepalives', which Strake does not support." in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert SECRET not in ended.stderr


def test_every_option_reaches_asyncpg(tmp_path: Path) -> None:
    """asyncpg sends an option that it does not know to the server, which refuses the connection."""
    known_to_the_server = {"application_name", "options"}
    assert OPTIONS - known_to_the_server == {
        "connect_timeout",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslmode",
        "sslpassword",
        "sslrootcert",
        "target_session_attrs",
    }
