"""What other processes of this machine can learn of a running Strake, looked at from outside."""

from __future__ import annotations

import ast
import os
import pickle
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

from strake import hardening
from tests.credentials.vault import MASTER_KEY, document
from tests.running import ROOT, Strake, as_ordinary_user

SECRETS = {
    "STRAKE_SECRET_KEY": f"canary-secret-key-{secrets.token_hex(24)}",
    "STRAKE_MASTER_KEYS": document(),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory):
    """An embedded Strake that got its secrets through the environment, the way it is easiest to get wrong."""
    with Strake(tmp_path_factory.mktemp("strake") / "home", SECRETS) as strake:
        yield strake


def served(strake: Strake) -> list[int]:
    """The server and its workers; the demo provider is another program and knows no secret."""
    assert strake.workers
    return [strake.pid, *strake.workers]


def peek(path: str) -> str:
    """Try to read a file as another process of this user would."""
    code = (
        "import sys\n"
        "try:\n"
        "    with open(sys.argv[1], 'rb') as file: file.read(0); print('read')\n"
        "except PermissionError: print('refused')\n"
    )
    probe = [sys.executable, "-c", code, path]
    return subprocess.run(
        probe, capture_output=True, text=True, check=True, timeout=20, preexec_fn=as_ordinary_user
    ).stdout.strip()


def test_a_process_of_the_same_user_reads_neither_memory_nor_environment(running):
    sleeper = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(sleeper, stdin=subprocess.PIPE, preexec_fn=as_ordinary_user) as ordinary:
        for name in ("environ", "mem", "maps"):
            assert peek(f"/proc/{ordinary.pid}/{name}") == "read", "the probe itself works"
    for pid in served(running):
        for name in ("environ", "mem", "maps"):
            assert peek(f"/proc/{pid}/{name}") == "refused", name


def test_no_core_file_is_ever_written(running):
    for pid in served(running):
        (limit,) = re.findall(r"Max core file size\s+(\S+)\s+(\S+)", Path(f"/proc/{pid}/limits").read_text())
        assert limit == ("0", "0")


def test_whatever_is_written_is_for_this_user_alone(running):
    for pid in served(running):
        assert re.search(r"Umask:\s+0077", Path(f"/proc/{pid}/status").read_text())
    for path in [running.home, *running.home.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can still look")
def test_the_secret_variables_are_wiped_where_the_system_shows_them(running):
    for pid in served(running):
        shown = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"STRAKE_HOME=" in shown
        for value in SECRETS.values():
            assert value.encode() not in shown
            assert value.encode()[:12] not in shown


def test_every_secret_variable_that_the_settings_read_is_wiped():
    tree = ast.parse((ROOT / "strake" / "settings.py").read_text())
    read = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "secret"
        and isinstance(node.args[0], ast.Constant)
    }
    assert read
    assert set(hardening.SECRET_VARIABLES) == read | {"STRAKE_MASTER_KEYS"}


def test_workers_started_by_gunicorn_itself_are_hardened_too(tmp_path):
    strake = Strake(
        tmp_path / "home",
        SECRETS,
        command=("-m", "gunicorn", "-c", "python:strake.gunicorn_config", "strake.asgi:application"),
    )
    strake.manage("migrate", "-v0", check=True)
    with strake:
        for pid in served(strake):
            assert peek(f"/proc/{pid}/environ") == "refused"
            assert peek(f"/proc/{pid}/mem") == "refused"


def test_settings_hide_every_secret_in_their_repr(tmp_path):
    services = {
        "DATABASE_URL": "postgres://strake:canary-database@127.0.0.1/strake",
        "REDIS_URL": "redis://:canary-redis@127.0.0.1/0",
        "EMAIL_URL": "smtp://strake:canary-mail@127.0.0.1",
    }
    shown = Strake(tmp_path / "home", SECRETS | services).manage("diffsettings", check=True).stdout
    assert "canary" not in shown
    assert MASTER_KEY.hex() not in shown
    assert document() not in shown


@pytest.mark.redis
def test_a_pickle_in_the_cache_is_not_executed(redis_url, tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    code = (
        "from django.conf import settings; from django_redis import get_redis_connection\n"
        "from django.core.cache import cache\n"
        "assert settings.CACHES['default']['OPTIONS']['SERIALIZER'].endswith('JSONSerializer')\n"
        "cache.set('probe', {'a': 1}); assert cache.get('probe') == {'a': 1}\n"
        "connection = get_redis_connection('default')\n"
        "connection.set(cache.make_key('probe'), bytes.fromhex(sys.argv[1]))\n"
        "try: print('got', cache.get('probe'))\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    shown = Strake(tmp_path / "home", {"REDIS_URL": redis_url}).python(code, pickle.dumps(Payload()).hex())
    assert not (tmp_path / "executed").exists()
    assert "got None" in shown or "Error" in shown
    pickle.loads(pickle.dumps(Payload()))
    assert (tmp_path / "executed").exists(), "the payload itself works"


def test_sessions_are_not_pickled_either():
    assert settings.SESSION_SERIALIZER == "django.contrib.sessions.serializers.JSONSerializer"
