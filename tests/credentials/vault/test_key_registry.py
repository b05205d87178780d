"""Master keys are checked against the database at every seal, before every command, and at startup."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from accounts.actors import OPERATOR, Person
from accounts.models import AuditEvent, User
from credentials import checks, services
from credentials.errors import KeyringError, RetiredMasterKey, WrongMasterKey
from credentials.models import Endpoint, SealedKey
from credentials.vault import keyring, keyring_file, master_keys
from credentials.vault.master_keys import KeyringPlace
from credentials.vault.models import MasterKeyCheck
from strake.processes import serve
from tests.support import factories
from tests.support.running import Strake, prepare_home
from tests.support.vault import KNOWN, MASTER_KEY, OTHER_MASTER_KEY, document

KEY_ID = "2026-11-a"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _keyring(settings: Settings) -> Iterator[None]:
    settings.STRAKE_MASTER_KEYS = document()
    keyring.forget()
    yield
    keyring.forget()


def with_another_key(settings: Settings) -> None:
    settings.STRAKE_MASTER_KEYS = document(KEY_ID, **{"2026_11_a": OTHER_MASTER_KEY})


# --- At every seal -------------------------------------------------------------------------------------------------


def connect(alice: User) -> services.Connected:
    return services.connect(
        actor=Person(alice),
        owner=alice,
        provider="custom",
        api_key=factories.PROVIDER_KEY,
        destination_url="https://api.example.com",
        unchecked=True,
    )


def test_first_seal_stores_only_a_check_value(alice: User) -> None:
    connect(alice)
    check = MasterKeyCheck.objects.get()
    assert (check.key_id, bytes(check.check_value)) == (KEY_ID, KNOWN.check_value)
    assert not any(MASTER_KEY[i : i + 4] in bytes(check.check_value) for i in range(29))


def test_seal_under_wrong_key_saves_nothing(alice: User, settings: Settings) -> None:
    connected = connect(alice)
    before = SealedKey.objects.values().get()
    with_another_key(settings)
    with pytest.raises(WrongMasterKey):
        connect(alice)
    with pytest.raises(WrongMasterKey):
        services.replace_key(
            actor=Person(alice), subdomain=connected.endpoint.subdomain, api_key="sk-another", unchecked=True
        )
    assert Endpoint.objects.count() == 1
    assert SealedKey.objects.values().get() == before


def test_retired_key_cannot_seal(alice: User) -> None:
    connected = connect(alice)
    MasterKeyCheck.objects.update(retired_at=timezone.now())
    with pytest.raises(RetiredMasterKey):
        connect(alice)
    with pytest.raises(RetiredMasterKey):
        services.replace_key(
            actor=Person(alice), subdomain=connected.endpoint.subdomain, api_key="sk-another", unchecked=True
        )
    assert Endpoint.objects.count() == 1


# --- System checks -------------------------------------------------------------------------------------------------


def found() -> dict[str, str]:
    return {str(message.id): f"{message.msg} {message.hint or ''}" for message in checks.check_master_keys()}


def test_valid_keys_pass(alice: User) -> None:
    factories.make_endpoint(owner=alice)
    assert found() == {}


def test_unusable_keys_are_E001(db: None, settings: Settings) -> None:
    settings.STRAKE_MASTER_KEYS = "{}"
    assert found().keys() == {"credentials.E001"}
    settings.STRAKE_MASTER_KEYS = ""
    settings.STRAKE_MASTER_KEYS_FILE = "/nonexistent/master-keys.json"
    assert "Restore it from your backup" in found()["credentials.E001"]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Path:
    """The data folder of an installation that has sealed one key. Tests copy it."""
    strake = Strake(prepare_home(tmp_path_factory.mktemp("installation") / "home", migrated_database))
    strake.python(
        "from accounts.models import User; from tests.support import factories\n"
        "factories.make_endpoint(owner=User.objects.create(email='alice@example.org'))\n"
    )
    return strake.home


def unusable(good: str) -> dict[str, tuple[str, int, str, str]]:
    """Invalid keyring files: the text and mode of each, the check that fails, and the remedy it names."""
    keys = {KEY_ID: base64.b64encode(MASTER_KEY).decode()}
    short = {KEY_ID: base64.b64encode(MASTER_KEY[:16]).decode()}
    return {
        "wrong": (document(KEY_ID, **{"2026_11_a": OTHER_MASTER_KEY}), 0o600, "E002", "create_master_key --keys-lost"),
        "short": (json.dumps({"primary": KEY_ID, "keys": short}), 0o600, "E001", "It must have 32"),
        "duplicate": (
            json.dumps({"primary": KEY_ID, "keys": keys | {"b": keys[KEY_ID]}}),
            0o600,
            "E001",
            "needs a different key",
        ),
        "malformed": (good[:-1], 0o600, "E001", "restore it from your backup"),
        "missing": ("", 0, "E001", "Restore the keyring"),
        "world-readable": (good, 0o604, "E001", "chmod 600"),
        "group-writable": (good, 0o660, "E001", "chmod 600"),
    }


@pytest.mark.parametrize("mistake", unusable(""))
def test_server_refuses_invalid_keyring_with_remedy(installation: Path, tmp_path: Path, mistake: str) -> None:
    strake = Strake(shutil.copytree(installation, tmp_path / "home"))
    path = strake.home / "vault/master-keys.json"
    text, mode, check, remedy = unusable(document())[mistake]
    path.unlink()
    if mode:
        path.write_text(text)
        path.chmod(mode)
    served = strake.manage("serve", "--no-link")
    assert served.returncode == 78
    said = served.stderr
    assert f"credentials.{check}" in said
    assert remedy in said
    assert str(path) in said or check == "E002"
    assert "Traceback" not in said


def test_remedy_for_a_lost_key_works(installation: Path, tmp_path: Path) -> None:
    strake = Strake(shutil.copytree(installation, tmp_path / "home"))
    path = strake.home / "vault/master-keys.json"
    lost = json.loads(path.read_text())["primary"]
    path.write_text(document(lost, **{lost.replace("-", "_"): OTHER_MASTER_KEY}))
    assert "E002" in strake.manage("verify_vault").stderr
    path.rename(path.with_name("moved-away"))
    strake.manage("create_master_key", "--keys-lost", check=True)
    assert json.loads(path.read_text())["primary"] != lost
    assert strake.manage("check").returncode == 0
    with strake:
        pass


def test_file_exposed_while_running_is_E001(db: None, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(document())
    path.chmod(0o600)
    settings.STRAKE_MASTER_KEYS, settings.STRAKE_MASTER_KEYS_FILE = "", str(path)
    assert found() == {}
    path.chmod(0o644)
    assert f"chmod 600 {path}" in found()["credentials.E001"]


def test_wrong_key_under_known_id_is_E002(alice: User, settings: Settings) -> None:
    factories.make_endpoint(owner=alice)
    with_another_key(settings)
    assert "Restore the keyring" in found()["credentials.E002"]


def test_retired_primary_is_E003(alice: User) -> None:
    factories.make_endpoint(owner=alice)
    MasterKeyCheck.objects.update(retired_at=timezone.now())
    assert "create_master_key" in found()["credentials.E003"]


def test_rows_of_missing_key_are_only_a_warning(alice: User, settings: Settings) -> None:
    factories.make_endpoint(owner=alice)
    factories.make_endpoint(owner=alice)
    settings.STRAKE_MASTER_KEYS = document("b", b=OTHER_MASTER_KEY)
    messages = checks.check_master_keys()
    assert [message.id for message in messages] == ["credentials.W002"]
    assert messages[0].msg.startswith("This keyring opens none of the 2 stored keys")
    assert KEY_ID in messages[0].msg
    factories.make_endpoint(owner=alice)
    messages = checks.check_master_keys()
    assert [message.id for message in messages] == ["credentials.W001"]
    assert not messages[0].is_serious()
    assert messages[0].msg.startswith("2 endpoints")
    assert KEY_ID in messages[0].msg


def test_checks_pass_before_migrations(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection.introspection, "table_names", lambda *a, **k: [])
    assert found() == {}


def test_server_refuses_to_start_with_wrong_key(db: None, settings: Settings) -> None:
    factories.make_endpoint(owner=factories.make_user("alice@example.org"))
    settings.STRAKE_PROCESS = "proxy"
    serve.check_configuration()
    with_another_key(settings)
    with pytest.raises(ImproperlyConfigured, match="E002"):
        serve.check_configuration()
    settings.STRAKE_MASTER_KEYS = "{}"
    with pytest.raises(ImproperlyConfigured, match="E001"):
        serve.check_configuration()


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
def test_commands_run_the_checks(tmp_path: Path, arguments: list[str]) -> None:
    result = run(*arguments, STRAKE_HOME=str(tmp_path / "home"), STRAKE_MASTER_KEYS='{"primary": "a", "keys": {}}')
    assert result.returncode != 0
    assert "credentials.E001" in result.stderr
    assert "Traceback" not in result.stderr


# --- create_master_key ---------------------------------------------------------------------------------------------


def test_first_key_needs_no_keyring_and_is_not_printed(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    result = run("create_master_key", "--file", str(path), STRAKE_HOME=str(tmp_path / "home"))
    assert result.returncode == 0, result.stderr
    assert f"STRAKE_MASTER_KEYS_FILE={path}" in result.stdout
    assert path.stat().st_mode & 0o777 == 0o600
    (key,) = json.loads(path.read_text())["keys"].values()
    assert key not in result.stdout + result.stderr


def test_second_key_becomes_primary_by_default(tmp_path: Path) -> None:
    home = {"STRAKE_HOME": str(tmp_path / "home")}
    assert run("migrate", "-v0", **home).returncode == 0
    path = tmp_path / "home/vault/master-keys.json"
    first = keyring_file.read_file(path).primary_id
    result = run("create_master_key", "--no-promote", **home)
    assert "promote_master_key" in result.stdout
    assert "rotate_master_key" not in result.stdout
    assert keyring_file.read_file(path).primary_id == first
    assert "--no-server" in run("create_master_key", **home).stderr
    assert len(keyring_file.read_file(path).ids) == 2, "nothing was added"
    result = run("create_master_key", "--no-server", **home)
    assert "rotate_master_key" in result.stdout
    assert keyring_file.read_file(path).primary_id not in {first, keyring_file.read_file(path).ids[1]}
    assert len(keyring_file.read_file(path).ids) == 3


def test_keys_from_environment_are_not_changed(tmp_path: Path) -> None:
    for extra in ([], ["--file", str(tmp_path / "keys.json")]):
        result = run("create_master_key", *extra, STRAKE_HOME=str(tmp_path / "home"), STRAKE_MASTER_KEYS=document())
        assert result.returncode != 0
        assert "STRAKE_MASTER_KEYS_FILE" in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "keys.json").exists()


def test_lost_keyring_is_not_silently_replaced(alice: User, tmp_path: Path, settings: Settings) -> None:
    factories.make_endpoint(owner=alice)
    settings.STRAKE_MASTER_KEYS = ""
    path = tmp_path / "keys.json"
    with pytest.raises(KeyringError, match=r"Restore the file.*--keys-lost"):
        master_keys.create(actor=OPERATOR, place=KeyringPlace(path))
    assert not path.exists()
    master_keys.create(actor=OPERATOR, place=KeyringPlace(path), keys_lost=True)
    assert len(keyring_file.read_file(path).ids) == 1


def test_migrated_database_without_sealed_keys_is_new(db: None, tmp_path: Path, settings: Settings) -> None:
    """`migrate` may run before the first key exists. Nothing is lost then, so the key needs no --keys-lost."""
    settings.STRAKE_MASTER_KEYS = ""
    path = tmp_path / "keys.json"
    key_id, ring = master_keys.create(actor=OPERATOR, place=KeyringPlace(path))
    assert (ring.primary_id, ring.ids) == (key_id, (key_id,))
    assert keyring_file.read_file(path).key(key_id) == ring.key(key_id)
    assert AuditEvent.objects.get(action="master_key.created").subject_id == key_id


def test_unwritable_folder_is_explained(tmp_path: Path) -> None:
    result = run(
        "create_master_key", "--file", str(tmp_path / "missing" / "keys.json"), STRAKE_HOME=str(tmp_path / "home")
    )
    assert result.returncode != 0
    assert "cannot be used: No such file or directory" in result.stderr
    assert "Traceback" not in result.stderr
