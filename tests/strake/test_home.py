"""The data folder of the embedded default: made once, private, and never quietly made anew."""

from __future__ import annotations

import json
import multiprocessing
import stat
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from credentials import keyring
from strake.home import Home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_everything_in_it_is_private_to_its_user(tmp_path: Path):
    home = Home(str(tmp_path / "deep" / "home"))
    home.prepare()
    assert mode(home.path) == 0o700
    made = sorted(path.name for path in home.path.iterdir())
    assert made == ["demo-port", "master-keys.json", "secret-key"]
    assert {mode(path) for path in home.path.iterdir()} == {0o600}


def test_an_existing_folder_that_others_may_read_is_closed(tmp_path: Path):
    (tmp_path / "home").mkdir(mode=0o755)
    Home(str(tmp_path / "home")).prepare()
    assert mode(tmp_path / "home") == 0o700


def test_secrets_are_made_once(tmp_path: Path):
    home = Home(str(tmp_path))
    home.prepare()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    Home(str(tmp_path)).prepare()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_master_key_made_is_a_usable_keyring(tmp_path: Path):
    home = Home(str(tmp_path))
    home.prepare()
    ring = keyring.read_file(home.master_keys)
    assert ring.ids == (ring.primary_id,)
    assert json.loads(home.read(home.master_keys))["primary"] == ring.primary_id
    assert len(home.read(home.secret_key)) >= 50


def test_no_new_master_key_is_made_beside_an_existing_database(tmp_path: Path):
    home = Home(str(tmp_path))
    home.prepare()
    home.database.touch()
    home.master_keys.unlink()
    Home(str(tmp_path)).prepare()
    assert not home.master_keys.exists()


def test_processes_that_start_together_agree_on_the_secrets(tmp_path: Path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        seen = pool.map(_secrets_of, [str(tmp_path / "home")] * 8)
        pool.close()  # and join: leaving the block would kill the workers while they write their coverage
        pool.join()
    assert len(set(seen)) == 1
    assert not list((tmp_path / "home").glob(".*"))


def _secrets_of(path: str) -> str:
    home = Home(path)
    home.prepare()
    return home.read(home.secret_key) + home.read(home.master_keys) + home.read(home.demo_port)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(
        ImproperlyConfigured, match=r"STRAKE_HOME is .*/file/home, which cannot be used: Not a directory"
    ):
        Home(str(tmp_path / "file" / "home")).prepare()


def test_making_the_object_touches_nothing(tmp_path: Path):
    Home(str(tmp_path / "home"))
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_damaged_secret_is_a_clear_error_that_does_not_repeat_it(tmp_path: Path, content: bytes):
    home = Home(str(tmp_path))
    home.secret_key.write_bytes(content)
    with pytest.raises(ImproperlyConfigured, match=r"secret-key is damaged\. Restore it from your backup"):
        home.read(home.secret_key)


def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path: Path):
    home = Home(str(tmp_path))
    home.secret_key.mkdir()
    with pytest.raises(ImproperlyConfigured, match="secret-key cannot be read: Is a directory"):
        home.read(home.secret_key)


@pytest.mark.django_db
def test_what_has_been_committed_is_on_the_disk_and_nothing_in_other_files():
    names = ("journal_mode", "synchronous", "temp_store")
    with connection.cursor() as cursor:
        settings = {name: cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in names}
    assert settings == {"journal_mode": "wal", "synchronous": 2, "temp_store": 2}  # https://sqlite.org/pragma.html
