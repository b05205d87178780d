"""Other processes on the machine can read neither the memory nor the secrets of a running Strake."""

from __future__ import annotations

import ast
import os
import pickle
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from strake.processes import hardening
from tests.support.running import ROOT, Strake, as_ordinary_user, prepare_home
from tests.support.upstream import eventually
from tests.support.vault import MASTER_KEY, document

SECRETS = {
    "STRAKE_SECRET_KEY": f"canary-secret-key-{secrets.token_hex(24)}",
    "STRAKE_MASTER_KEYS": document(),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Strake]:
    """An embedded Strake with its secrets in environment variables, the least safe way."""
    home = prepare_home(tmp_path_factory.mktemp("strake") / "home", migrated_database, keys=False)
    with Strake(home, SECRETS) as strake:
        yield strake


def server_pids(strake: Strake) -> list[int]:
    assert strake.workers
    assert strake.web_workers
    return strake.pids


def try_to_read(path: str) -> str:
    """Try to read a file from another process of the same user."""
    code = (
        "import sys\n"
        "try:\n"
        "    with open(sys.argv[1], 'rb') as file: file.read(0); print('read')\n"
        "except PermissionError: print('refused')\n"
    )
    probe = [sys.executable, "-c", code, path]
    return subprocess.run(
        probe, capture_output=True, text=True, check=True, timeout=60, preexec_fn=as_ordinary_user
    ).stdout.strip()


def test_memory_and_environment_are_unreadable(running: Strake) -> None:
    sleeper = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(sleeper, stdin=subprocess.PIPE, preexec_fn=as_ordinary_user) as ordinary:
        for name in ("environ", "mem", "maps"):
            assert try_to_read(f"/proc/{ordinary.pid}/{name}") == "read", "the probe itself works"
    for pid in server_pids(running):
        for name in ("environ", "mem", "maps"):
            assert try_to_read(f"/proc/{pid}/{name}") == "refused", name


def test_core_dumps_are_disabled(running: Strake) -> None:
    for pid in server_pids(running):
        (limit,) = re.findall(r"Max core file size\s+(\S+)\s+(\S+)", Path(f"/proc/{pid}/limits").read_text())
        assert limit == ("0", "0")


@pytest.fixture
def connecting(tmp_path: Path, migrated_database: Path) -> Iterator[subprocess.Popen[str]]:
    """A command that has loaded the keyring and waits for a provider key on standard input."""
    strake = Strake(prepare_home(tmp_path / "home", migrated_database, keys=False), SECRETS)
    with subprocess.Popen(
        [sys.executable, "manage.py", "connect", "--email=a@example.org", "--provider=openai", "--key-stdin"],
        cwd=ROOT,
        env=strake.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=as_ordinary_user,
        text=True,
    ) as command:
        yield command


def test_command_with_keys_is_as_closed_as_a_server(connecting: subprocess.Popen[str]) -> None:
    pid = connecting.pid
    eventually(lambda: try_to_read(f"/proc/{pid}/environ") == "refused", seconds=60)
    for name in ("mem", "maps"):
        assert try_to_read(f"/proc/{pid}/{name}") == "refused", name
    assert re.search(r"Max core file size\s+0\s+0", Path(f"/proc/{pid}/limits").read_text())
    if os.geteuid() == 0:
        assert SECRETS["STRAKE_MASTER_KEYS"].encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    assert connecting.poll() is None


def test_no_command_is_dumpable(tmp_path: Path) -> None:
    code = "import ctypes, resource; print(ctypes.CDLL(None).prctl(3), resource.getrlimit(resource.RLIMIT_CORE))"
    shown = Strake(tmp_path / "home").manage("shell", "-c", code, check=True).stdout
    assert shown.splitlines()[-1] == "0 (0, 0)"


def test_files_are_for_this_user_only(running: Strake) -> None:
    for pid in server_pids(running):
        assert re.search(r"Umask:\s+0077", Path(f"/proc/{pid}/status").read_text())
    for path in [running.home, *running.home.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read /proc/PID/environ")
def test_secret_variables_are_wiped_in_proc(running: Strake) -> None:
    for pid in server_pids(running):
        shown = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"STRAKE_HOME=" in shown
        for value in SECRETS.values():
            assert value.encode() not in shown
            assert value.encode()[:12] not in shown


def test_every_secret_variable_is_wiped() -> None:
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
    others = {"STRAKE_MASTER_KEYS", "STRAKE_MASTER_KEYS_COMMAND", "STRAKE_AUDIT_KEY"}
    assert set(hardening.SECRET_VARIABLES) == read | others


def test_settings_hide_secrets_in_their_repr(tmp_path: Path) -> None:
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
def test_pickle_in_the_cache_is_not_executed(redis_url: str, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
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


def test_sessions_are_not_pickled() -> None:
    assert settings.SESSION_SERIALIZER == "django.contrib.sessions.serializers.JSONSerializer"
