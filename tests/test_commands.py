"""Properties of every command: --help, and one clear line for a mistake in the configuration."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import pwd
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import httpx
import pytest
from django.conf import settings
from django.core.management import call_command, get_commands, load_command_class
from django.core.management.base import CommandError
from django.db import OperationalError, connection

from accounts.commands import OperatorCommand
from strake.processes import serve
from tests.support import users
from tests.support.running import prepare_home
from tests.support.services import free_port, wait_for_port

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


# --- Output --------------------------------------------------------------------------------------------------------


def test_commands_print_through_one_function() -> None:
    """`OperatorCommand.print` escapes control characters. Nothing else of a command writes to the terminal."""
    paths = [path for package in PACKAGES for path in (ROOT / package).glob("management/commands/[a-z]*.py")]
    assert {path.stem for path in paths} == set(OWN_COMMANDS)
    for path in paths:
        tree = ast.parse(path.read_text())
        [command] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Command"]
        assert ast.unparse(command.bases[0]) in {"KeyringCommand", "OperatorCommand", "PersonCommand"}, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called != "print", path
                assert not re.search(r"(stdout|stderr)\.write|call_command", called), (path, called)


def test_control_characters_are_escaped_in_output() -> None:
    out = StringIO()
    command = OperatorCommand(stdout=out)
    command.print("a\x1b[2Jb\nroot (c): all open.\x9b\u202e", "tab\tx")
    command.print_json({"label": "\x1b[2J\x7f"})
    assert out.getvalue() == ('a\\x1b[2Jb\\nroot (c): all open.\\x9b\\u202e\ntab\\tx\n{"label": "\\u001b[2J\\u007f"}\n')


def test_errors_of_commands_are_escaped() -> None:
    class Failing(OperatorCommand):
        requires_system_checks = ()

        def handle(self, *args: object, **options: object) -> None:
            raise CommandError("no \x1b[31muser", returncode=3)

    with pytest.raises(CommandError) as caught:
        call_command(Failing())
    assert (str(caught.value), caught.value.returncode) == ("no \\x1b[31muser", 3)


def test_output_survives_another_encoding() -> None:
    raw = io.BytesIO()
    terminal = io.TextIOWrapper(raw, "ascii", write_through=True)
    OperatorCommand(stdout=terminal).print("Zoë …")
    assert raw.getvalue() == b"Zo\\xeb \\u2026\n"


# --- Help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OWN_COMMANDS)
def test_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        call_command(name, "--help")
    assert exited.value.code in {0, None}
    command = load_command_class(get_commands()[name], name)
    assert len(command.help) > 20
    assert " ".join(command.help.split()[:3]) in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", sorted(CHANGE_MANY_ROWS & set(OWN_COMMANDS)))
def test_command_that_changes_many_rows_has_a_dry_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command(name, "--help")
    assert "--dry-run" in capsys.readouterr().out


@pytest.mark.parametrize("name", OWN_COMMANDS)
def test_unknown_option_is_refused(name: str) -> None:
    with pytest.raises((CommandError, TypeError)):
        call_command(name, "--no-such-option")


# --- A mistake in the configuration --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Result:
    """The exit code and output of a process."""

    code: int
    out: str
    err: str


def manage(home: Path, *arguments: str, user: str = "", **environment: str) -> Result:
    """Run `manage.py` in a new process with these environment variables only."""
    command = [sys.executable, str(ROOT / "manage.py"), *arguments]
    if user:
        command = [*users.prefix(user, "nogroup", ["nogroup"]), *command]
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "STRAKE_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def assert_one_clear_line(result: Result, *words: str) -> None:
    """Require one line on standard error with these words, a specific exit code, no traceback and no secret."""
    shown = result.out + result.err
    assert "Traceback" not in shown
    assert SECRET not in shown
    assert MASTER_KEY not in shown
    assert result.code not in {0, 1}, shown
    assert len(result.err.strip().splitlines()) == 1, result.err
    for word in words:
        assert word in result.err


@pytest.fixture(scope="module")
def used_home(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Path:
    return prepare_home(tmp_path_factory.mktemp("used") / "home", migrated_database)


@pytest.fixture
def home(used_home: Path, tmp_path: Path) -> Path:
    """A data folder with secrets and a migrated database."""
    return Path(shutil.copytree(used_home, tmp_path / "home"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file except SQLite's temporary ones."""
    return {path: (folder / path).read_bytes() for path in files_in(folder)}


def files_in(folder: Path) -> list[str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [str(path.relative_to(folder)) for path in paths if not path.name.endswith(("-wal", "-shm"))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        (
            json.dumps({"primary": "a", "keys": {"a": base64.b64encode(bytes(range(31))).decode()}}),
            "31 bytes. It must have 32",
        ),
        (json.dumps({"primary": "a", "keys": {"a": "no base64!"}}), "base64"),
        (json.dumps({"primary": "b", "keys": {"a": MASTER_KEY}}), "'b'"),
        ("", "not valid JSON"),
    ],
    ids=["cut", "short", "no base64", "no primary", "empty"],
)
def test_unusable_keyring_stops_serve_and_is_unchanged(home: Path, content: str, message: str) -> None:
    (home / "vault/master-keys.json").write_text(content)
    before = contents(home)
    result = manage(home, "serve", PORT=str(free_port()))
    assert_one_clear_line(result, "credentials.E001", message)
    assert contents(home) == before


def test_lost_keyring_stops_serve_and_is_not_replaced(home: Path) -> None:
    (home / "vault/master-keys.json").unlink()
    result = manage(home, "serve", PORT=str(free_port()))
    assert_one_clear_line(result, "credentials.E001", "does not exist", "backup")
    assert not (home / "vault/master-keys.json").exists()


def test_readable_keyring_stops_serve(home: Path) -> None:
    (home / "vault/master-keys.json").chmod(0o644)
    result = manage(home, "serve", PORT=str(free_port()))
    assert_one_clear_line(result, "credentials.E001", "chmod 600")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_keyring_of_another_user_stops_serve(home: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    # Other users cannot open the folders of tmp_path.
    with tempfile.TemporaryDirectory() as reachable:
        Path(reachable).chmod(0o755)
        moved = Path(shutil.copytree(home, Path(reachable) / "home"))
        for path in (moved, *moved.rglob("*")):
            if path.name != "master-keys.json":
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        result = manage(moved, "serve", user="nobody", PORT=str(free_port()))
        assert_one_clear_line(result, "credentials.E001", f"chown {nobody.pw_uid} {moved}/vault/master-keys.json")


def test_taken_port_stops_serve_before_any_change(home: Path) -> None:
    before = contents(home)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = manage(home, "serve", PORT=str(port))
    assert_one_clear_line(result, f"Port {port} is taken", f"PORT={port + 1} make run")
    assert contents(home) == before


@pytest.mark.parametrize("command", ["serve", "migrate", "signin_link"])
def test_data_folder_below_a_file_is_one_clear_line(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    result = manage(tmp_path / "file" / "home", command, *(["a@example.org"] if command == "signin_link" else []))
    assert_one_clear_line(result, "STRAKE_HOME is", "cannot be used", "set STRAKE_HOME to another folder")
    assert result.code == EX_CONFIG


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_data_folder_of_another_user_is_one_clear_line(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    result = manage(folder / "home", "migrate", user="nobody")
    assert_one_clear_line(result, "STRAKE_HOME is", "Permission denied")
    assert result.code == EX_CONFIG
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PORT", "http", "PORT must be a whole number from 1 to 65535"),
        ("STRAKE_BASE_URL", "http://strake.example.org", "STRAKE_BASE_URL must use https"),
        ("STRAKE_BASE_URL", f"https://admin:{SECRET}@strake.example.org", "STRAKE_BASE_URL must look like"),
        ("DATABASE_URL", f"mysql://strake:{SECRET}@db/strake", "DATABASE_URL should look like postgres://"),
        ("REDIS_URL", f"redis://:{SECRET}#@127.0.0.1", "REDIS_URL should look like rediss://"),
        ("DATABASE_URL_FILE", "/nowhere/database-url", "cannot be read: No such file"),
        ("EMAIL_URL", f"mail.example.org:{SECRET}", "EMAIL_URL should look like"),
        ("STRAKE_TRUSTED_PROXIES", "yes", "STRAKE_TRUSTED_PROXIES must be a whole number"),
        ("STRAKE_LINK_MINUTES", "60", "STRAKE_LINK_MINUTES must be a whole number from 1 to 15"),
        ("STRAKE_MASTER_KEYS", MASTER_KEY, "credentials.E001"),
        ("STRAKE_ALLOWED_PRIVATE_UPSTREAMS", "ollama", "neither a network like 10.1.0.0/16 nor host:port"),
    ],
)
def test_invalid_value_is_one_clear_line(tmp_path: Path, variable: str, value: str, message: str) -> None:
    result = manage(tmp_path / "home", "serve", **{"PORT": str(free_port()), variable: value})
    assert_one_clear_line(result, message)


@pytest.mark.parametrize(
    ("half", "missing"),
    [("proxy", name) for name in ("DATABASE_URL", "REDIS_URL", "STRAKE_MASTER_KEYS")]
    + [("web", name) for name in ("DATABASE_URL", "REDIS_URL", "STRAKE_SECRET_KEY", "EMAIL_URL")],
)
def test_deployed_half_requires_each_of_its_variables(tmp_path: Path, half: str, missing: str) -> None:
    foreign = {"STRAKE_MASTER_KEYS"} if half == "web" else {"STRAKE_SECRET_KEY", "EMAIL_URL"}
    environment = {name: value for name, value in DEPLOYED.items() if name not in {missing, *foreign}}
    environment |= {"PORT": str(free_port()), "STRAKE_RUNTIME": str(tmp_path / "run")}
    result = manage(tmp_path / "home", "serve", f"--only={half}", **environment)
    assert_one_clear_line(result, missing)
    assert not (tmp_path / "home").exists(), "a deployed Strake has no data folder"


@pytest.mark.parametrize("process", ["proxy", "web", ""])
def test_two_sources_of_master_keys_are_refused(tmp_path: Path, process: str) -> None:
    for second in ("STRAKE_MASTER_KEYS_COMMAND", "STRAKE_MASTER_KEYS_FILE"):
        environment = {**DEPLOYED, "STRAKE_PROCESS": process, second: "/nowhere"}
        result = manage(tmp_path / "home", "diffsettings", **environment)
        assert_one_clear_line(result, second, "STRAKE_MASTER_KEYS")


def test_web_half_refuses_a_command_for_master_keys(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    environment = {name: value for name, value in DEPLOYED.items() if name != "STRAKE_MASTER_KEYS"}
    environment["STRAKE_MASTER_KEYS_COMMAND"] = f"touch {marker}"
    assert_one_clear_line(manage(tmp_path / "home", "serve", "--only=web", **environment), "must not know master keys")
    assert not marker.exists()


@pytest.mark.parametrize("command", ["rotate_token", "revoke_token", "connect"])
def test_help_in_another_locale(tmp_path: Path, command: str) -> None:
    result = manage(tmp_path / "home", command, "--help", PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0")
    assert result.code == 0, result.err
    assert f"manage.py {command}" in result.out


@pytest.mark.postgres
def test_database_says_itself_why_it_cannot_be_used(tmp_path: Path, postgres_url: str) -> None:
    environment = {**DEPLOYED, "DATABASE_URL": postgres_url.replace("strake_test_", "nosuch_", 1)}
    for arguments in (["verify_vault"], ["migrate"], ["serve", "--only=proxy"]):
        extra = {"PORT": str(free_port()), "STRAKE_RUNTIME": str(tmp_path / "run")}
        result = manage(tmp_path / "home", *arguments, **{**environment, **extra})
        assert_one_clear_line(result, 'database "nosuch_', "does not exist")
        assert result.code == os.EX_CONFIG


def test_commands_on_loopback_are_for_the_first_account(home: Path) -> None:
    link = manage(home, "signin_link", PORT="8000")
    assert link.out.startswith("http://localhost:8000/signin/link/"), link.err
    with contextlib.closing(sqlite3.connect(home / "data/strake.sqlite3")) as database:
        accounts = database.execute("SELECT email FROM accounts_user").fetchall()
    token = manage(home, "create_access_token", "--label", "x")
    assert token.out.startswith("pat_"), token.err
    with contextlib.closing(sqlite3.connect(home / "data/strake.sqlite3")) as database:
        assert database.execute("SELECT email FROM accounts_user").fetchall() == accounts
    elsewhere = {"STRAKE_BASE_URL": "https://strake.example.org"}
    assert "Name the person" in manage(home, "signin_link", **elsewhere).err


def test_short_secret_key_is_refused(tmp_path: Path) -> None:
    result = manage(tmp_path / "home", "check", **{**DEPLOYED, "STRAKE_SECRET_KEY": SECRET})
    assert_one_clear_line(result, "at least 50 random characters")


def test_unreachable_database_is_one_clear_line(tmp_path: Path) -> None:
    environment = {**DEPLOYED, "STRAKE_RUNTIME": str(tmp_path / "run")}  # the default one is root's
    result = manage(tmp_path / "home", "serve", PORT=str(free_port()), **environment)
    assert_one_clear_line(result, "The database cannot be used", "is DATABASE_URL right?")
    assert result.code == os.EX_TEMPFAIL


def test_damaged_database_stops_serve_and_is_unchanged(home: Path) -> None:
    (home / "data/strake.sqlite3").write_bytes(b"not a database, but somebody's only copy of something" * 100)
    before = contents(home)
    result = manage(home, "serve", PORT=str(free_port()))
    assert_one_clear_line(result, "strake.sqlite3 cannot be used", "Restore it from your backup")
    assert contents(home) == before


def test_locked_database_is_not_reported_as_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object, **__: object) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(connection, "ensure_connection", locked)
    with pytest.raises(serve.StartupError, match=r"database is locked\. Another process is writing to it\. Try again"):
        serve.prepare_database()


@pytest.mark.postgres
def test_deployed_serve_does_not_migrate(tmp_path: Path, postgres_url: str) -> None:
    environment = {**DEPLOYED, "DATABASE_URL": postgres_url, "STRAKE_RUNTIME": str(tmp_path / "run")}
    result = manage(tmp_path / "home", "serve", PORT=str(free_port()), **environment)
    assert_one_clear_line(result, "The database is not up to date. Run: manage.py migrate")
    assert result.code == EX_CONFIG


# --- A server that starts ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(home: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), "serve"],
        env={"PATH": os.environ["PATH"], "STRAKE_HOME": str(home), "PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for_port(port)
        # The socket listens before the worker is ready to respond.
        assert httpx.get(f"http://localhost:{port}/healthz", timeout=60).json() == {"status": "ok"}
        yield process, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with its workers, which a failed test may have left behind
        process.communicate()


@pytest.mark.parametrize("send", [os.kill, os.killpg])  # a service manager's signal, and Ctrl+C in a terminal
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_start_prints_a_link_and_ends_cleanly(
    used_home: Path, tmp_path: Path, number: signal.Signals, send: Callable[[int, int], None]
) -> None:
    home = tmp_path / "home"
    if (send, number) != (os.kill, signal.SIGTERM):
        shutil.copytree(used_home, home)  # one of the four has to create its tables, as the first `make run`
    with serving(home) as (process, port):
        send(process.pid, number)
        out, err = process.communicate(timeout=90)
    assert process.returncode == 0
    assert f"http://localhost:{port}" in out
    assert f"http://localhost:{port}/signin/link/link_" in out
    assert all(re.search(r" INFO strake\S* st(art|op) half=(proxy|web) version=", line) for line in err.splitlines()), (
        err
    )
    assert files_in(home) == [
        "data/demo-port",
        "data/secret-key",
        "data/strake.sqlite3",
        "vault/master-keys.json",
    ]


def test_setpriv_is_installed() -> None:
    assert os.geteuid() != 0 or shutil.which("setpriv")
