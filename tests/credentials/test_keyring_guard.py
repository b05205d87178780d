"""Master keys against the database: at every seal, before every command, and before a server starts."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.utils import timezone

from accounts.audit import Actor
from credentials import checks, keyring, keyring_guard, master_keys, services
from credentials.errors import KeyringError, RetiredMasterKey, UnknownMasterKey, WrongMasterKey
from credentials.models import Credential, Endpoint, MasterKeyCheck
from tests import factories
from tests.credentials.vault import KNOWN, MASTER_KEY, OTHER_MASTER_KEY, document
from tests.running import Strake

KEY_ID = "2026-11-a"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _keyring(settings):
    settings.STRAKE_MASTER_KEYS = document()
    keyring.forget()
    yield
    keyring.forget()


def with_another_key(settings) -> None:
    settings.STRAKE_MASTER_KEYS = document(KEY_ID, **{"2026_11_a": OTHER_MASTER_KEY})


# --- At every seal -------------------------------------------------------------------------------------------------


def connect(alice):
    return services.connect(
        actor=Actor(alice),
        owner=alice,
        provider="custom",
        api_key=factories.PROVIDER_KEY,
        destination_url="https://api.example.com",
        unchecked=True,
    )


def test_the_first_seal_under_an_id_stores_its_check_value_and_nothing_of_the_key(alice):
    connect(alice)
    check = MasterKeyCheck.objects.get()
    assert (check.key_id, bytes(check.check_value)) == (KEY_ID, KNOWN.check_value)
    assert not any(MASTER_KEY[i : i + 4] in bytes(check.check_value) for i in range(29))


def test_a_seal_under_another_key_of_the_same_id_is_refused_and_nothing_is_saved(alice, settings):
    connected = connect(alice)
    before = Credential.objects.values().get()
    with_another_key(settings)
    with pytest.raises(WrongMasterKey):
        connect(alice)
    with pytest.raises(WrongMasterKey):
        services.replace_key(
            actor=Actor(alice), subdomain=connected.endpoint.subdomain, api_key="sk-another", unchecked=True
        )
    assert Endpoint.objects.count() == 1
    assert Credential.objects.values().get() == before


def test_a_retired_key_seals_no_more(alice):
    connected = connect(alice)
    MasterKeyCheck.objects.update(retired_at=timezone.now())
    with pytest.raises(RetiredMasterKey):
        connect(alice)
    with pytest.raises(RetiredMasterKey):
        services.replace_key(
            actor=Actor(alice), subdomain=connected.endpoint.subdomain, api_key="sk-another", unchecked=True
        )
    assert Endpoint.objects.count() == 1


def test_an_id_that_is_not_in_the_keyring_is_not_confirmed(db):
    with pytest.raises(UnknownMasterKey), transaction.atomic():
        keyring_guard.confirm("older")
    assert not MasterKeyCheck.objects.exists()


# --- System checks -------------------------------------------------------------------------------------------------


def found() -> dict[str, str]:
    return {message.id: f"{message.msg} {message.hint or ''}" for message in checks.check_master_keys()}


def test_good_keys_pass(alice):
    factories.make_endpoint(owner=alice)
    assert found() == {}


def test_unusable_keys_are_E001(db, settings):
    settings.STRAKE_MASTER_KEYS = "{}"
    assert found().keys() == {"credentials.E001"}
    settings.STRAKE_MASTER_KEYS = ""
    settings.STRAKE_MASTER_KEYS_FILE = "/nonexistent/master-keys.json"
    assert "Restore it from your backup" in found()["credentials.E001"]


@pytest.fixture(scope="module")
def installation(tmp_path_factory) -> Path:
    """The data folder of a Strake that has sealed one key, to be copied."""
    strake = Strake(tmp_path_factory.mktemp("installation") / "home")
    strake.home.mkdir()
    (strake.home / "master-keys.json").write_text(document())
    (strake.home / "master-keys.json").chmod(0o600)
    strake.manage("migrate", "-v0", check=True)
    strake.python(
        "from accounts.models import User; from tests import factories\n"
        "factories.make_endpoint(owner=User.objects.create(email='alice@example.org'))\n"
    )
    return strake.home


def unusable(good: str) -> dict[str, tuple[str, int, str, str]]:
    """What can be wrong with a keyring file: its text and mode, the check that says so, and what to do about it."""
    keys = {KEY_ID: base64.b64encode(MASTER_KEY).decode()}
    short = {KEY_ID: base64.b64encode(MASTER_KEY[:16]).decode()}
    return {
        "wrong": (document(KEY_ID, **{"2026_11_a": OTHER_MASTER_KEY}), 0o600, "E002", "create_master_key --keys-lost"),
        "short": (json.dumps({"primary": KEY_ID, "keys": short}), 0o600, "E001", "it must have 32"),
        "duplicate": (json.dumps({"primary": KEY_ID, "keys": keys | {"b": keys[KEY_ID]}}), 0o600, "E001", "of its own"),
        "malformed": (good[:-1], 0o600, "E001", "restore it from your backup"),
        "missing": ("", 0, "E001", "Restore it from your backup"),
        "world-readable": (good, 0o604, "E001", "chmod 600"),
        "group-readable": (good, 0o640, "E001", "chmod 600"),
    }


@pytest.mark.parametrize("mistake", unusable(""))
def test_a_server_does_not_start_with_such_a_keyring_and_says_what_to_do(installation, tmp_path, mistake):
    """Both ways to start one: `manage.py serve`, and gunicorn, which runs no checks of Django's by itself."""
    strake = Strake(shutil.copytree(installation, tmp_path / "home"))
    path = strake.home / "master-keys.json"
    text, mode, check, remedy = unusable(document())[mistake]
    path.unlink()
    if mode:
        path.write_text(text)
        path.chmod(mode)
    served = strake.manage("serve", "--no-link")
    assert served.returncode == 78
    gunicorn = ["-m", "gunicorn", "-c", "python:strake.gunicorn_config", "strake.asgi:application"]
    started = strake._run(gunicorn, stdin="", check=False)
    assert started.returncode != 0
    for said in (served.stderr, started.stderr):
        assert f"credentials.{check}" in said
        assert remedy in said
        assert str(path) in said or check == "E002"
        assert "Traceback" not in said


def test_what_the_check_says_of_a_lost_key_works(installation, tmp_path):
    strake = Strake(shutil.copytree(installation, tmp_path / "home"))
    path = strake.home / "master-keys.json"
    lost = json.loads(path.read_text())["primary"]
    path.write_text(document(lost, **{lost.replace("-", "_"): OTHER_MASTER_KEY}))
    assert "E002" in strake.manage("verify_vault").stderr
    path.rename(path.with_name("moved-away"))
    strake.manage("create_master_key", "--keys-lost", check=True)
    assert json.loads(path.read_text())["primary"] != lost
    assert strake.manage("check").returncode == 0
    with strake:
        pass


def test_a_file_that_was_opened_to_others_while_a_process_held_its_keys_is_E001(db, settings, tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(document())
    path.chmod(0o600)
    settings.STRAKE_MASTER_KEYS, settings.STRAKE_MASTER_KEYS_FILE = "", str(path)
    assert found() == {}
    path.chmod(0o644)
    assert f"chmod 600 {path}" in found()["credentials.E001"]


def test_another_key_under_a_known_id_is_E002(alice, settings):
    factories.make_endpoint(owner=alice)
    with_another_key(settings)
    assert "Restore the keyring" in found()["credentials.E002"]


def test_a_retired_primary_is_E003(alice):
    factories.make_endpoint(owner=alice)
    MasterKeyCheck.objects.update(retired_at=timezone.now())
    assert "create_master_key" in found()["credentials.E003"]


def test_rows_of_a_key_that_is_missing_are_W001_and_do_not_stop_the_others(alice, settings):
    factories.make_endpoint(owner=alice)
    factories.make_endpoint(owner=alice)
    settings.STRAKE_MASTER_KEYS = document("b", b=OTHER_MASTER_KEY)
    messages = checks.check_master_keys()
    assert [message.id for message in messages] == ["credentials.W001"]
    assert not messages[0].is_serious()
    assert messages[0].msg.startswith("2 endpoints")
    assert KEY_ID in messages[0].msg


def test_checks_pass_before_the_database_is_migrated(db, monkeypatch):
    monkeypatch.setattr(connection.introspection, "table_names", lambda *a, **k: [])
    assert found() == {}


@pytest.mark.parametrize("in_loop", [False, True])
def test_a_server_refuses_to_start_with_a_wrong_key(transactional_db, settings, in_loop):
    alice = factories.make_user("alice@example.org")
    factories.make_endpoint(owner=alice)

    def start() -> None:
        async def as_uvicorn_does() -> None:
            checks.ensure_keyring()

        asyncio.run(as_uvicorn_does()) if in_loop else checks.ensure_keyring()

    start()
    with_another_key(settings)
    with pytest.raises(ImproperlyConfigured, match="E002"):
        start()
    settings.STRAKE_MASTER_KEYS = "{}"
    with pytest.raises(ImproperlyConfigured, match="E001"):
        start()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["check"], ["verify_vault"], ["migrate"]])
def test_commands_run_the_checks(tmp_path, arguments):
    result = run(*arguments, STRAKE_HOME=str(tmp_path / "home"), STRAKE_MASTER_KEYS='{"primary": "a", "keys": {}}')
    assert result.returncode != 0
    assert "credentials.E001" in result.stderr
    assert "Traceback" not in result.stderr


# --- create_master_key ---------------------------------------------------------------------------------------------


def test_the_first_key_is_made_without_a_keyring_and_never_printed(tmp_path):
    path = tmp_path / "keys.json"
    result = run("create_master_key", "--file", str(path), STRAKE_HOME=str(tmp_path / "home"))
    assert result.returncode == 0, result.stderr
    assert f"STRAKE_MASTER_KEYS_FILE={path}" in result.stdout
    assert path.stat().st_mode & 0o777 == 0o600
    (key,) = json.loads(path.read_text())["keys"].values()
    assert key not in result.stdout + result.stderr


def test_a_second_key_becomes_primary_unless_told_otherwise(tmp_path):
    home = {"STRAKE_HOME": str(tmp_path / "home")}
    assert run("migrate", "-v0", **home).returncode == 0
    path = tmp_path / "home" / "master-keys.json"
    first = keyring.read_file(path).primary_id
    result = run("create_master_key", "--no-primary", **home)
    assert "copy it to every host" in result.stdout
    assert "rotate_master_key" not in result.stdout
    assert keyring.read_file(path).primary_id == first
    result = run("create_master_key", **home)
    assert "rotate_master_key" in result.stdout
    assert keyring.read_file(path).primary_id not in {first, keyring.read_file(path).ids[1]}
    assert len(keyring.read_file(path).ids) == 3


def test_keys_from_the_environment_are_not_changed_and_the_way_out_is_shown(tmp_path):
    for extra in ([], ["--file", str(tmp_path / "keys.json")]):
        result = run("create_master_key", *extra, STRAKE_HOME=str(tmp_path / "home"), STRAKE_MASTER_KEYS=document())
        assert result.returncode != 0
        assert "STRAKE_MASTER_KEYS_FILE" in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "keys.json").exists()


def test_a_lost_keyring_is_not_silently_replaced_beside_sealed_keys(alice, tmp_path, settings):
    factories.make_endpoint(owner=alice)
    settings.STRAKE_MASTER_KEYS = ""
    path = tmp_path / "keys.json"
    operator = Actor(None)
    with pytest.raises(KeyringError, match="--keys-lost"):
        master_keys.create(actor=operator, path=path, primary=True)
    assert not path.exists()
    master_keys.create(actor=operator, path=path, primary=True, keys_lost=True)
    assert len(keyring.read_file(path).ids) == 1


def test_an_unwritable_place_is_explained(tmp_path):
    result = run(
        "create_master_key", "--file", str(tmp_path / "missing" / "keys.json"), STRAKE_HOME=str(tmp_path / "home")
    )
    assert result.returncode != 0
    assert "cannot be used: No such file or directory" in result.stderr
    assert "Traceback" not in result.stderr
