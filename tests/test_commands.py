"""What all commands have in common: help, and one clear line for a mistake in the configuration."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from django.conf import settings
from django.core.management import call_command, get_commands, load_command_class
from django.core.management.base import CommandError
from django.db import OperationalError

from strake.management.commands import serve
from tests.conftest import free_port, wait_for_port

ROOT: Path = settings.ROOT
PACKAGES = ("accounts", "credentials", "proxy", "strake")
OWN_COMMANDS = sorted(name for name, app in get_commands().items() if app in PACKAGES)
CHANGE_MANY_ROWS = {"prune", "rotate_master_key"}

EX_CONFIG = 78
SECRET = "hunter2-do-not-print"
MASTER_KEY = base64.b64encode(bytes(range(32))).decode()
DEPLOYED = {
    "STRAKE_BASE_URL": "https://strake.example.org",
    "STRAKE_SECRET_KEY": SECRET * 3,
    "STRAKE_MASTER_KEYS": json.dumps({"primary": "a", "keys": {"a": MASTER_KEY}}),
    "DATABASE_URL": f"postgres://strake:{SECRET}@127.0.0.1:1/strake",
    "REDIS_URL": f"redis://:{SECRET}@127.0.0.1:1/0",
    "EMAIL_URL": f"smtp://strake:{SECRET}@127.0.0.1:1",
}


# --- Help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OWN_COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        call_command(name, "--help")
    assert ended.value.code in {0, None}
    command = load_command_class(get_commands()[name], name)
    assert len(command.help) > 20
    assert " ".join(command.help.split()[:3]) in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", sorted(CHANGE_MANY_ROWS & set(OWN_COMMANDS)))
def test_commands_that_change_many_rows_have_a_dry_run(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        call_command(name, "--help")
    assert "--dry-run" in capsys.readouterr().out


@pytest.mark.parametrize("name", OWN_COMMANDS)
def test_an_unknown_option_is_refused_before_anything_happens(name: str):
    with pytest.raises((CommandError, TypeError)):
        call_command(name, "--no-such-option")


# --- A mistake in the configuration --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str


def manage(home: Path, *arguments: str, user: str = "", **environment: str) -> Ended:
    """Run `manage.py` in a process of its own, with nothing but these variables."""
    command = [sys.executable, str(ROOT / "manage.py"), *arguments]
    if user:
        command = ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups", *command]
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "STRAKE_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def assert_one_clear_line(ended: Ended, *words: str) -> None:
    """One line on standard error, with these words, no traceback and no secret, and a code scripts can use."""
    shown = ended.out + ended.err
    assert "Traceback" not in shown
    assert SECRET not in shown
    assert MASTER_KEY not in shown
    assert ended.code not in {0, 1}, shown
    assert len(ended.err.strip().splitlines()) == 1, ended.err
    for word in words:
        assert word in ended.err


@pytest.fixture(scope="module")
def used_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("used") / "home"
    ended = manage(folder, "migrate", "--verbosity=0")
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def home(used_home: Path, tmp_path: Path) -> Path:
    """A data folder that has been used: secrets and a migrated database."""
    return Path(shutil.copytree(used_home, tmp_path / "home"))


def contents(folder: Path) -> dict[str, bytes]:
    """What may not change: everything but the files SQLite comes and goes with."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(("-wal", "-shm"))}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not valid JSON"),
        (
            json.dumps({"primary": "a", "keys": {"a": base64.b64encode(bytes(range(31))).decode()}}),
            "31 bytes; it must have 32",
        ),
        (json.dumps({"primary": "a", "keys": {"a": "no base64!"}}), "base64"),
        (json.dumps({"primary": "b", "keys": {"a": MASTER_KEY}}), "'b'"),
        ("", "not valid JSON"),
    ],
    ids=["cut", "short", "no base64", "no primary", "empty"],
)
def test_an_unusable_keyring_stops_the_server_and_is_left_as_it_is(home: Path, content: str, says: str):
    (home / "master-keys.json").write_text(content)
    before = contents(home)
    ended = manage(home, "serve", PORT=str(free_port()))
    assert_one_clear_line(ended, "credentials.E001", says)
    assert contents(home) == before


def test_a_lost_keyring_stops_the_server_and_no_new_one_is_made_in_its_place(home: Path):
    (home / "master-keys.json").unlink()
    ended = manage(home, "serve", PORT=str(free_port()))
    assert_one_clear_line(ended, "credentials.E001", "does not exist", "backup")
    assert not (home / "master-keys.json").exists()


def test_a_keyring_that_others_can_read_stops_the_server(home: Path):
    (home / "master-keys.json").chmod(0o644)
    ended = manage(home, "serve", PORT=str(free_port()))
    assert_one_clear_line(ended, "credentials.E001", "chmod 600")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_keyring_of_another_user_stops_the_server(home: Path):
    nobody = pwd.getpwnam("nobody")
    # Where tests have their folders, nobody else may look.
    with tempfile.TemporaryDirectory() as reachable:
        Path(reachable).chmod(0o755)
        moved = Path(shutil.copytree(home, Path(reachable) / "home"))
        for path in (moved, *moved.iterdir()):
            if path.name != "master-keys.json":
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        ended = manage(moved, "serve", user="nobody", PORT=str(free_port()))
        assert_one_clear_line(ended, "credentials.E001", f"chown {nobody.pw_uid} {moved}/master-keys.json")


def test_a_taken_port_stops_a_second_server_before_it_touches_anything(home: Path):
    before = contents(home)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = manage(home, "serve", PORT=str(port))
    assert_one_clear_line(ended, f"Port {port} is taken", f"PORT={port + 1} make run")
    assert contents(home) == before


@pytest.mark.parametrize("command", ["serve", "check", "migrate", "signin_link"])
def test_a_data_folder_below_a_file_is_one_clear_line(tmp_path: Path, command: str):
    (tmp_path / "file").touch()
    ended = manage(tmp_path / "file" / "home", command, *(["a@example.org"] if command == "signin_link" else []))
    assert_one_clear_line(ended, "STRAKE_HOME is", "cannot be used", "set STRAKE_HOME to another one")
    assert ended.code == EX_CONFIG


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_a_data_folder_of_somebody_else_is_one_clear_line(tmp_path: Path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    ended = manage(folder / "home", "check", user="nobody")
    assert_one_clear_line(ended, "STRAKE_HOME is", "Permission denied")
    assert ended.code == EX_CONFIG
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("PORT", "http", "PORT must be a whole number from 1 to 65535"),
        ("STRAKE_BASE_URL", "http://strake.example.org", "STRAKE_BASE_URL must use https"),
        ("STRAKE_BASE_URL", f"https://admin:{SECRET}@strake.example.org", "STRAKE_BASE_URL must look like"),
        ("DATABASE_URL", f"mysql://strake:{SECRET}@db/strake", "DATABASE_URL should look like postgres://"),
        ("DATABASE_URL_FILE", "/nowhere/database-url", "cannot be read: No such file"),
        ("EMAIL_URL", f"mail.example.org:{SECRET}", "EMAIL_URL should look like"),
        ("STRAKE_TRUSTED_PROXIES", "yes", "STRAKE_TRUSTED_PROXIES must be a whole number"),
        ("STRAKE_LINK_MINUTES", "60", "STRAKE_LINK_MINUTES must be a whole number from 1 to 15"),
        ("STRAKE_MASTER_KEYS", MASTER_KEY, "credentials.E001"),
        ("STRAKE_ALLOWED_PRIVATE_UPSTREAMS", "ollama", "neither a network like 10.1.0.0/16 nor host:port"),
    ],
)
def test_a_value_that_makes_no_sense_is_one_clear_line(tmp_path: Path, variable: str, value: str, says: str):
    ended = manage(tmp_path / "home", "serve", **{"PORT": str(free_port()), variable: value})
    assert_one_clear_line(ended, says)


@pytest.mark.parametrize("missing", DEPLOYED.keys() - {"STRAKE_BASE_URL"})
def test_a_deployed_server_without_one_of_its_secrets_or_services_does_not_start(tmp_path: Path, missing: str):
    environment = {name: value for name, value in DEPLOYED.items() if name != missing}
    ended = manage(tmp_path / "home", "serve", PORT=str(free_port()), **environment)
    assert_one_clear_line(ended, missing)
    assert not (tmp_path / "home").exists(), "nothing is made for a deployed server"


def test_a_short_secret_key_is_refused(tmp_path: Path):
    ended = manage(tmp_path / "home", "check", **{**DEPLOYED, "STRAKE_SECRET_KEY": SECRET})
    assert_one_clear_line(ended, "at least 50 random characters")


def test_a_database_that_does_not_answer_is_one_clear_line(tmp_path: Path):
    ended = manage(tmp_path / "home", "serve", PORT=str(free_port()), **DEPLOYED)
    assert_one_clear_line(ended, "The database cannot be used", "is DATABASE_URL right?")
    assert ended.code == os.EX_TEMPFAIL


def test_a_damaged_database_is_one_clear_line_and_left_as_it_is(home: Path):
    (home / "strake.sqlite3").write_bytes(b"not a database, but somebody's only copy of something" * 100)
    before = contents(home)
    ended = manage(home, "serve", PORT=str(free_port()))
    assert_one_clear_line(ended, "strake.sqlite3 cannot be used", "Restore it from your backup")
    assert contents(home) == before


def test_a_database_that_something_else_holds_is_not_called_broken(monkeypatch: pytest.MonkeyPatch):
    def locked(*_: object, **__: object) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(serve.connection, "ensure_connection", locked)
    with pytest.raises(CommandError, match=r"database is locked\. Something else is writing to it; try again\."):
        serve._prepare_database()


@pytest.mark.postgres
def test_a_deployed_server_does_not_migrate_by_itself_and_says_what_to_run(tmp_path: Path, postgres_url: str):
    ended = manage(tmp_path / "home", "serve", PORT=str(free_port()), **{**DEPLOYED, "DATABASE_URL": postgres_url})
    assert_one_clear_line(ended, "The database is not up to date. Run: manage.py migrate")
    assert ended.code == EX_CONFIG


# --- A server that starts ------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`manage.py serve` in a new data folder, as the first `make run` starts it."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), "serve"],
        env={"PATH": os.environ["PATH"], "STRAKE_HOME": str(tmp_path / "home"), "PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for_port(port)
        # The socket listens before the worker is ready; the answer comes once it is.
        assert httpx.get(f"http://localhost:{port}/healthz", timeout=30).json() == {"status": "ok"}
        yield process, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with its workers, which a failed test may have left behind
        process.communicate()


@pytest.mark.parametrize("end", [os.kill, os.killpg])  # a service manager's signal, and Ctrl+C in a terminal
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_the_first_start_makes_everything_prints_a_link_and_ends_cleanly(
    server: tuple[subprocess.Popen[str], int],
    tmp_path: Path,
    ending: signal.Signals,
    end: Callable[[int, int], None],
):
    process, port = server
    end(process.pid, ending)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert f"http://localhost:{port}" in out
    assert f"http://localhost:{port}/signin/link/link_" in out
    assert err == ""
    assert sorted(path.name for path in (tmp_path / "home").iterdir() if not path.name.endswith(("-wal", "-shm"))) == [
        "demo-port",
        "master-keys.json",
        "secret-key",
        "strake.sqlite3",
    ]


def test_the_tools_these_tests_need_are_there():
    assert os.geteuid() != 0 or shutil.which("setpriv")
