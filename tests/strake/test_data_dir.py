"""The data folder of the embedded configuration: created once, private, and only by commands that need it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from credentials.vault import keyring, keyring_file
from strake.data_dir import DataDir
from tests.support.running import ROOT
from tests.support.vault import document

SECRET_FILES = ["data/demo-port", "data/secret-key", "vault/master-keys.json"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files_in(folder: Path) -> list[str]:
    """Every file below a folder, except links."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [str(path.relative_to(folder)) for path in files]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process that has STRAKE_HOME and no other setting."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "STRAKE_HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- When it is created --------------------------------------------------------------------------------------------


def test_constructor_creates_nothing(tmp_path: Path) -> None:
    DataDir(tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "code",
    [
        "import strake.settings",
        "from django.conf import settings; settings.INSTALLED_APPS",
        "import django; django.setup()",
        "import django; django.setup(); from django.core.checks import run_checks; run_checks()",
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_importing_settings_creates_nothing(tmp_path: Path, code: str, exists: bool) -> None:
    folder = tmp_path / "home"
    if exists:
        folder.mkdir()
    done = run(folder, "-c", code, DJANGO_SETTINGS_MODULE="strake.settings")
    assert done.returncode == 0, done.stderr
    assert [*tmp_path.rglob("*")] == ([folder] if exists else [])


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [[], ["check"], ["makemigrations", "--check", "--dry-run"], ["diffsettings"], ["serve", "--help"], ["prune", "-h"]],
    ids=" ".join,
)
def test_read_only_command_creates_nothing(tmp_path: Path, arguments: list[str], exists: bool) -> None:
    folder = tmp_path / "home"
    if exists:
        folder.mkdir()
    done = run(folder, "manage.py", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert [*tmp_path.rglob("*")] == ([folder] if exists else [])


@pytest.mark.parametrize(
    "arguments", [["migrate", "-v0"], ["showmigrations"], ["create_master_key"]], ids=lambda arguments: arguments[0]
)
def test_other_command_creates_the_secrets(tmp_path: Path, arguments: list[str]) -> None:
    done = run(tmp_path / "home", "manage.py", *arguments)
    assert set(SECRET_FILES) <= set(files_in(tmp_path / "home")), done.stderr


@pytest.mark.namespaces
def test_machine_without_ipv4_gets_a_data_folder(tmp_path: Path) -> None:
    """The demo provider listens on 127.0.0.1, which a new network namespace does not have."""
    done = subprocess.run(
        ["unshare", "-Urn", sys.executable, "manage.py", "showmigrations"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "STRAKE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(SECRET_FILES) <= set(files_in(tmp_path / "home"))


def test_missing_keyring_beside_database_is_reported(tmp_path: Path) -> None:
    assert run(tmp_path, "manage.py", "migrate", "-v0").returncode == 0
    (tmp_path / "vault/master-keys.json").unlink()
    done = run(tmp_path, "manage.py", "check")
    assert done.returncode != 0
    assert "credentials.E001" in done.stderr


# --- What it holds -------------------------------------------------------------------------------------------------


def test_folder_and_files_are_private(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / "deep" / "home")
    data_dir.prepare(keyring.new_document)
    assert files_in(data_dir.path) == SECRET_FILES
    assert {mode(data_dir.path / name) for name in SECRET_FILES} == {0o600}
    assert sorted(path.name for path in data_dir.path.iterdir()) == ["data", "run", "vault"]
    assert {mode(path) for path in (data_dir.path, *data_dir.path.iterdir())} == {0o700}


def test_existing_readable_folder_becomes_private(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    (tmp_path / "home" / "vault").mkdir(mode=0o755)
    DataDir(tmp_path / "home").prepare(keyring.new_document)
    assert mode(tmp_path / "home") == mode(tmp_path / "home" / "vault") == 0o700


def test_secrets_are_created_once(tmp_path: Path) -> None:
    DataDir(tmp_path).prepare(keyring.new_document)
    before = contents(tmp_path)
    DataDir(tmp_path).prepare(keyring.new_document)
    assert contents(tmp_path) == before


def test_created_master_key_is_a_usable_keyring(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    data_dir.prepare(keyring.new_document)
    ring = keyring_file.read_file(data_dir.master_keys)
    assert ring.ids == (ring.primary_id,)
    assert json.loads(data_dir.read(data_dir.master_keys))["primary"] == ring.primary_id
    assert len(data_dir.read(data_dir.secret_key)) >= 50


def test_no_master_key_is_created_beside_a_database(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    data_dir.prepare(keyring.new_document)
    data_dir.database.touch()
    data_dir.master_keys.unlink()
    DataDir(tmp_path).prepare(keyring.new_document)
    assert not data_dir.master_keys.exists()


def test_concurrent_processes_agree_on_the_secrets(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        seen = pool.map(_secrets_of, [str(tmp_path / "home")] * 8)
        pool.close()  # and join: leaving the block would kill the workers while they write their coverage
        pool.join()
    assert len(set(seen)) == 1
    assert files_in(tmp_path / "home") == SECRET_FILES


def _secrets_of(path: str) -> str:
    data_dir = DataDir(path)
    data_dir.prepare(keyring.new_document)
    return "".join(data_dir.read(file) for file in (data_dir.secret_key, data_dir.master_keys, data_dir.demo_port))


def test_folder_below_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ImproperlyConfigured, match=r"STRAKE_HOME is .*/file/home, which cannot be used: Not a directory"
    ):
        DataDir(tmp_path / "file" / "home").prepare(keyring.new_document)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_damaged_secret_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    data_dir = DataDir(tmp_path)
    data_dir.prepare(keyring.new_document)
    data_dir.secret_key.write_bytes(content)
    with pytest.raises(ImproperlyConfigured, match=r"secret-key is damaged\. Restore it from your backup"):
        data_dir.read(data_dir.secret_key)


def test_unreadable_secret_is_a_clear_error(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    data_dir.secret_key.mkdir(parents=True)
    with pytest.raises(ImproperlyConfigured, match="secret-key cannot be read: Is a directory"):
        data_dir.read(data_dir.secret_key)


# --- A folder of an older version ----------------------------------------------------------------------------------

OLDER_FILES = ["demo-port", "master-keys.json", "secret-key", "strake.sqlite3"]
NEWER_FILES = [*SECRET_FILES[:2], "data/strake.sqlite3", SECRET_FILES[2]]

# A server that is killed has not checkpointed: its last rows are in the write-ahead log alone.
KILLED_SERVER = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA journal_mode=WAL")
database.execute("PRAGMA wal_autocheckpoint=0")
database.execute("CREATE TABLE rows (number INTEGER)")
database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
database.executemany("INSERT INTO rows VALUES (?)", [(number,) for number in range(1000)])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a killed older version. Tests copy it."""
    folder = tmp_path_factory.mktemp("older") / "home"
    folder.mkdir(mode=0o700)
    for name, content in (("demo-port", "40123"), ("secret-key", "s" * 60), ("master-keys.json", document())):
        (folder / name).write_text(content + "\n")
        (folder / name).chmod(0o600)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_SERVER, str(folder / "strake.sqlite3")], umask=0o077, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    with contextlib.closing(sqlite3.connect(f"file:{folder}/strake.sqlite3?mode=ro&immutable=1", uri=True)) as alone:
        assert alone.execute("SELECT count(*) FROM rows").fetchone() == (0,), "the database file lacks the rows"
    return folder


@pytest.fixture
def older(left_behind: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(left_behind, tmp_path / "home"))


def count_rows(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        count: int = connection.execute("SELECT count(*) FROM rows").fetchone()[0]
        return count


def assert_moved(home: Path, original: Path) -> None:
    """Require the newer layout, with the same secrets and every row."""
    assert files_in(home) == NEWER_FILES
    for name in SECRET_FILES:
        assert (home / name).read_bytes() == (original / Path(name).name).read_bytes()
    assert count_rows(home / "data/strake.sqlite3") == 1000


def new_keyring_is_a_loss() -> str:
    raise AssertionError("a keyring would be created beside the old one")


def test_older_folder_is_moved_with_rows_in_its_log(older: Path, left_behind: Path) -> None:
    DataDir(older).prepare(new_keyring_is_a_loss)
    assert_moved(older, left_behind)
    assert {mode(older / name) for name in NEWER_FILES} == {0o600}
    assert not DataDir(older).is_older
    DataDir(older).prepare(new_keyring_is_a_loss)
    assert_moved(older, left_behind)


def test_old_names_lead_to_the_moved_files(older: Path) -> None:
    """A server of the older version, or a backup script, would otherwise create an empty database."""
    DataDir(older).prepare(new_keyring_is_a_loss)
    for name in OLDER_FILES:
        assert (older / name).resolve() == next(older / new for new in NEWER_FILES if new.endswith(f"/{name}"))
    with contextlib.closing(sqlite3.connect(older / "strake.sqlite3", isolation_level=None)) as server:
        server.execute("PRAGMA journal_mode=WAL")
        server.execute("INSERT INTO rows VALUES (1000)")
        assert count_rows(older / "data/strake.sqlite3") == 1001
        DataDir(older).prepare(new_keyring_is_a_loss)


def test_older_folder_without_a_database_is_moved(older: Path) -> None:
    for path in older.glob("strake.sqlite3*"):
        path.unlink()
    DataDir(older).prepare(new_keyring_is_a_loss)
    assert files_in(older) == SECRET_FILES


def test_linked_keyring_still_leads_to_its_file(older: Path, tmp_path: Path) -> None:
    (older / "master-keys.json").rename(tmp_path / "elsewhere.json")
    (older / "master-keys.json").symlink_to("../elsewhere.json")
    DataDir(older).prepare(new_keyring_is_a_loss)
    assert DataDir(older).master_keys.resolve() == tmp_path / "elsewhere.json"
    assert files_in(tmp_path) == ["elsewhere.json", *(f"home/{name}" for name in NEWER_FILES[:-1])]


# Python reports these before they happen. https://docs.python.org/3/library/audit_events.html
KILL_AT_STEP = """
import os, signal, sys
from credentials.vault import keyring
from strake.data_dir import DataDir
home, remaining = sys.argv[1], int(sys.argv[2])
def count(event, arguments):
    global remaining
    if event in {"open", "os.mkdir", "os.chmod", "os.rename", "os.symlink", "os.remove", "fcntl.flock",
                 "sqlite3.connect", "sqlite3.connect/handle"}:
        remaining -= 1
        if remaining == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
DataDir(home).prepare(keyring.new_document)
"""


def test_move_resumes_after_kill_at_any_step(left_behind: Path, tmp_path: Path) -> None:
    steps, places = 0, set()
    while True:
        steps += 1
        home = Path(shutil.copytree(left_behind, tmp_path / str(steps)))
        killed = run(home, "-c", KILL_AT_STEP, str(home), str(steps))
        interrupted = DataDir(home)
        assert not interrupted.is_new
        assert interrupted.read(interrupted.secret_key) == "s" * 60
        assert keyring_file.read_file(interrupted.master_keys).ids == ("2026-11-a",)
        places.add(tuple(files_in(home)))
        DataDir(home).prepare(new_keyring_is_a_loss)
        assert_moved(home, left_behind)
        if killed.returncode != -signal.SIGKILL:
            break
    assert killed.returncode == 0, killed.stderr
    assert steps > 20
    assert len(places) == 6, "with the log, without it, and after each of the four files"


def test_racing_processes_move_an_older_folder_once(older: Path, left_behind: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        seen = pool.map(_secrets_of, [str(older)] * 8)
        pool.close()
        pool.join()
    assert len(set(seen)) == 1
    assert_moved(older, left_behind)


def waits_for_lock(pid: int) -> bool:
    """True if a process waits for flock(2). https://man7.org/linux/man-pages/man5/proc_locks.5.html"""
    return re.search(rf"-> FLOCK +ADVISORY +WRITE +{pid} ", Path("/proc/locks").read_text()) is not None


def test_process_waits_for_another_that_prepares(older: Path, left_behind: Path) -> None:
    before = contents(older)
    descriptor = os.open(older, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    code = "import sys; from strake.data_dir import DataDir; DataDir(sys.argv[1]).prepare(str)"
    with subprocess.Popen([sys.executable, "-c", code, str(older)], cwd=ROOT) as process:
        end = time.monotonic() + 60
        while not waits_for_lock(process.pid):
            assert process.poll() is None, "it did not wait"
            assert time.monotonic() < end
            time.sleep(0.02)
        assert contents(older) == before
        os.close(descriptor)
        assert process.wait(60) == 0
    assert_moved(older, left_behind)


@pytest.fixture
def running_server(older: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has read the database of the older folder and keeps it open."""
    code = (
        "import sqlite3, sys; database = sqlite3.connect(sys.argv[1]); "
        "database.execute('SELECT count(*) FROM rows').fetchone(); print('open', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(older / "strake.sqlite3")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_running_server_prevents_the_move(
    older: Path, left_behind: Path, running_server: subprocess.Popen[str]
) -> None:
    before = contents(older)
    with pytest.raises(ImproperlyConfigured, match=r"^Stop the running Strake first: .*/home/strake\.sqlite3"):
        DataDir(older).prepare(new_keyring_is_a_loss)
    assert contents(older).keys() == before.keys()
    running_server.kill()
    running_server.wait()
    DataDir(older).prepare(new_keyring_is_a_loss)
    assert_moved(older, left_behind)


@pytest.mark.parametrize("newer", [*NEWER_FILES, "data/strake.sqlite3-wal"])
def test_files_of_two_installations_are_not_mixed(older: Path, newer: str) -> None:
    (older / newer).parent.mkdir()
    (older / newer).write_bytes(b"restored by hand")
    before = contents(older)
    with pytest.raises(ImproperlyConfigured, match="Stop Strake, move") as refused:
        DataDir(older).prepare(new_keyring_is_a_loss)
    assert contents(older) == before
    assert str(older / newer) in str(refused.value)
    assert newer.endswith("-wal") or str(older / Path(newer).name) in str(refused.value)


def test_log_without_its_database_is_not_forgotten(older: Path) -> None:
    """Somebody moved the database by hand, without the log that holds its newest rows."""
    (older / "data").mkdir()
    (older / "strake.sqlite3").rename(older / "data/strake.sqlite3")
    with pytest.raises(ImproperlyConfigured, match=r"strake\.sqlite3-wal may hold the newest rows"):
        DataDir(older).prepare(new_keyring_is_a_loss)
    for log in older.glob("strake.sqlite3-*"):
        log.rename(older / "data" / log.name)
    DataDir(older).prepare(new_keyring_is_a_loss)
    assert count_rows(older / "data/strake.sqlite3") == 1000


def test_damaged_database_is_not_moved(older: Path) -> None:
    for log in older.glob("strake.sqlite3-*"):
        log.unlink()
    (older / "strake.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(
        ImproperlyConfigured, match=r"home/strake\.sqlite3 cannot be used: .*Restore it from your backup"
    ):
        DataDir(older).prepare(new_keyring_is_a_loss)
    assert files_in(older) == OLDER_FILES


@pytest.mark.parametrize("arguments", [["check"], ["makemigrations", "--check", "--dry-run"]], ids=" ".join)
def test_read_only_command_reads_an_older_folder(older: Path, arguments: list[str]) -> None:
    before = contents(older)
    done = run(older, "manage.py", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(older) == before


def test_lost_keyring_of_an_older_folder_is_reported(older: Path) -> None:
    (older / "master-keys.json").unlink()
    done = run(older, "manage.py", "check")
    assert done.returncode != 0
    assert "credentials.E001" in done.stderr
    DataDir(older).prepare(new_keyring_is_a_loss)
    assert files_in(older) == NEWER_FILES[:-1]


def test_older_folder_of_a_served_installation_is_moved(tmp_path: Path) -> None:
    """With `manage.py`, in the order in which an operator upgrades: the stored rows are still there."""
    home = tmp_path / "home"
    assert run(home, "manage.py", "migrate", "-v0").returncode == 0
    assert run(home, "manage.py", "signin_link", "alice@example.org", "--staff").returncode == 0
    for path in sorted((*home.glob("data/*"), *home.glob("vault/*"))):
        path.rename(home / path.name)
    for folder in ("data", "vault", "run"):
        (home / folder).rmdir()
    done = run(home, "manage.py", "shell", "-c", "from accounts.models import User; print(User.objects.get().email)")
    assert (done.stdout.strip().splitlines()[-1:], done.returncode) == (["alice@example.org"], 0), done.stderr
    assert files_in(home) == NEWER_FILES


# --- The database --------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_sqlite_commits_are_durable_and_spill_nowhere() -> None:
    names = ("journal_mode", "synchronous", "temp_store")
    with connection.cursor() as cursor:
        values = {name: cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in names}
    assert values == {"journal_mode": "wal", "synchronous": 2, "temp_store": 2}  # https://sqlite.org/pragma.html
