"""Master keys on many hosts: a key is promoted once every server holds it, also if the keyring is a mounted Secret."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import Error as DatabaseError
from django.db.models.functions import Now
from django.utils import timezone
from pytest_django import Settings

from accounts.actors import OPERATOR
from accounts.models import AuditEvent, User
from credentials.errors import NoServerSeen, RetiredMasterKey
from credentials.vault import (
    heartbeats,
    key_holders,
    key_registry,
    keyring,
    keyring_command,
    keyring_document,
    master_keys,
    rotation,
)
from credentials.vault.heartbeats import Vitals
from credentials.vault.keyring_document import Keyring
from credentials.vault.master_keys import KeyringPlace
from credentials.vault.models import MasterKeyCheck, ServerProcess
from tests.support import factories
from tests.support.vault import MASTER_KEY, OTHER_MASTER_KEY, document

BOTH = {"old": MASTER_KEY, "new": OTHER_MASTER_KEY}


@pytest.fixture(autouse=True)
def keys_file(tmp_path: Path, settings: Settings, db: None) -> Iterator[Path]:
    """A keyring with the one key `old`."""
    path = tmp_path / "master-keys.json"
    path.touch(mode=0o600)
    path.write_text(document("old", old=MASTER_KEY))
    settings.STRAKE_MASTER_KEYS, settings.STRAKE_MASTER_KEYS_FILE = "", str(path)
    keyring.forget()
    yield path
    keyring.forget()


def server(name: str, ring: Keyring, *, seconds_ago: float = 0) -> uuid.UUID:
    """Record that a proxy process of the host `name` has loaded this keyring."""
    key_ids = {key_id: ring.check_value(key_id).hex() for key_id in ring.ids}
    process_id = uuid.uuid4()
    heartbeats.record(process_id, "proxy", Vitals(ring.primary_id, key_ids), timezone.now())
    seen_at = Now() - timedelta(seconds=seconds_ago)
    ServerProcess.objects.filter(pk=process_id).update(name=name, seen_at=seen_at)
    return process_id


def primary(path: Path) -> str:
    return str(json.loads(path.read_text())["primary"])


def ids(path: Path) -> list[str]:
    return list(json.loads(path.read_text())["keys"])


# --- One file --------------------------------------------------------------------------------------------------------


def test_new_key_waits_for_hosts_that_lack_it(keys_file: Path) -> None:
    server("web-1:11", keyring.current())
    server("web-2:21", keyring.current())
    server("web-2:22", keyring.current())
    with pytest.raises(
        CommandError, match=r"was added, but is not the primary.*web-1 \(11\), web-2 \(21, 22\)"
    ) as error:
        call_command("create_master_key", "--wait", "0")
    new_id = ids(keys_file)[1]
    assert f"manage.py promote_master_key {new_id}" in str(error.value)
    assert primary(keys_file) == "old"
    with pytest.raises(CommandError, match=f"have not loaded the master key {new_id}"):
        call_command("promote_master_key", new_id, "--wait", "0")
    ServerProcess.objects.all().delete()
    server("web-1:11", keyring.reload())
    call_command("promote_master_key", new_id, "--wait", "0")
    assert primary(keys_file) == new_id
    assert AuditEvent.objects.get(action="master_key.promoted").subject_id == new_id


def test_new_key_is_promoted_once_servers_have_read_it(
    keys_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = server("web-1:11", keyring.current())

    def read_the_file(_: float) -> None:
        ServerProcess.objects.filter(pk=row).delete()
        server("web-1:11", keyring.current())

    monkeypatch.setattr("credentials.vault.key_holders.time.sleep", read_the_file)
    call_command("create_master_key")
    assert primary(keys_file) == ids(keys_file)[1]
    assert "Every running server holds" in capsys.readouterr().out


def test_wait_names_the_servers_at_once_and_again(
    keys_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("credentials.vault.key_holders._REPORT_SECONDS", 0.5)
    waiting = "Waiting for these servers to load the changed keyring: web-1 (11), web-2 (21, 22)."
    for name in ("web-1:11", "web-2:21", "web-2:22"):
        server(name, keyring.current())
    with pytest.raises(CommandError, match="was added, but is not the primary"):
        call_command("create_master_key", "--wait", "0.1")
    new_id = ids(keys_file)[1]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"Created master key {new_id}")
    assert said[1:] == [waiting]
    with pytest.raises(CommandError, match="have not loaded"):
        call_command("promote_master_key", new_id, "--wait", "1.3")
    assert capsys.readouterr().out.splitlines().count(waiting) in (2, 3)

    keys_file.write_text(keyring_document.document_with_primary(keyring.reload(), new_id))
    keyring.reload()
    for command in (["rotate_master_key"], ["retire_master_key", "old"]):
        with pytest.raises(CommandError, match=r"web-1 \(11\), web-2 \(21, 22\)"):
            call_command(*command, "--wait", "0.1")
        assert waiting in capsys.readouterr().out.splitlines()


def test_other_key_under_the_same_id_does_not_count(keys_file: Path) -> None:
    keys_file.write_text(document("old", **BOTH))
    server("web-1:11", keyring.parse(document("old", old=MASTER_KEY, new=bytes(range(50, 82)))))
    with pytest.raises(CommandError, match="another key under this id"):
        call_command("promote_master_key", "new", "--wait", "0")


@pytest.mark.parametrize("seconds_ago", [None, heartbeats.EXPIRY_SECONDS + 1], ids=["nobody", "only a silent one"])
def test_no_server_seen_never_means_that_all_are_ready(keys_file: Path, seconds_ago: float | None) -> None:
    if seconds_ago is not None:
        server("web-1:11", keyring.current(), seconds_ago=seconds_ago)
    heartbeats.record(uuid.uuid4(), "web", Vitals(), timezone.now())
    with pytest.raises(CommandError, match="--no-server"):
        call_command("create_master_key")
    assert ids(keys_file) == ["old"]
    with pytest.raises(NoServerSeen):
        rotation.rotate(actor=OPERATOR)
    with pytest.raises(CommandError, match="--no-server"):
        call_command("rotate_master_key")
    call_command("create_master_key", "--no-server")
    assert primary(keys_file) == ids(keys_file)[1]
    call_command("rotate_master_key", "--no-server")


def test_retired_and_unknown_keys_are_not_promoted(keys_file: Path) -> None:
    keys_file.write_text(document("new", **BOTH))
    value = keyring.reload().check_value("old")
    MasterKeyCheck.objects.create(pk="old", check_value=value, retired_at=timezone.now())
    with pytest.raises(RetiredMasterKey):
        master_keys.promote(actor=OPERATOR, place=KeyringPlace(keys_file), key_id="old", no_server=True)
    with pytest.raises(CommandError, match="is not in the keyring"):
        call_command("promote_master_key", "other", "--no-server")


def test_retiring_names_hosts_that_still_hold_the_key(
    keys_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credentials.management.commands.retire_master_key.DROP_SECONDS", 0)
    keys_file.write_text(document("new", **BOTH))
    server("web-2:21", keyring.reload())
    call_command("retire_master_key", "old")
    assert "These servers still hold old: web-2 (21)" in capsys.readouterr().out
    assert ids(keys_file) == ["new"]


# --- A mounted Secret, or a command ----------------------------------------------------------------------------------


def test_secret_is_changed_in_a_copy(keys_file: Path, tmp_path: Path, alice: User) -> None:
    """What an operator does whose keyring is a Secret that the command cannot write."""
    factories.make_endpoint(owner=alice)
    copy = tmp_path / "next.json"
    with pytest.raises(CommandError, match="also use --no-promote"):
        call_command("create_master_key", "--output", str(copy))
    call_command("create_master_key", "--no-promote", "--output", str(copy))
    assert copy.stat().st_mode & 0o777 == 0o600
    assert ids(keys_file) == ["old"]
    assert primary(copy) == "old"
    new_id = ids(copy)[1]
    with pytest.raises(CommandError, match="exists"):
        call_command("create_master_key", "--no-promote", "--output", str(copy))

    copy.replace(keys_file)  # the Secret is updated
    server("pod-1:1", keyring.reload())
    call_command("promote_master_key", new_id, "--output", str(copy))
    assert primary(keys_file) == "old"
    assert primary(copy) == new_id
    copy.replace(keys_file)
    server("pod-1:1", keyring.reload())
    call_command("rotate_master_key")


def test_document_goes_to_a_program_and_messages_to_standard_error(
    keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = io.StringIO(), io.StringIO()
    call_command("create_master_key", "--no-promote", "--output", "-", stdout=out, stderr=err)
    assert keyring.parse(out.getvalue()).primary_id == "old"
    assert "Created master key" in err.getvalue()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(CommandError, match="not shown on a terminal"):
        call_command("create_master_key", "--no-promote", "--output", "-")


def test_keyring_of_a_command_is_changed_in_a_copy(keys_file: Path, tmp_path: Path, settings: Settings) -> None:
    settings.STRAKE_MASTER_KEYS_FILE, settings.STRAKE_MASTER_KEYS_COMMAND = "", f"cat {keys_file}"
    keyring.forget()
    with pytest.raises(CommandError, match=r"come from STRAKE_MASTER_KEYS_COMMAND.*--output"):
        call_command("create_master_key")
    copy = tmp_path / "next.json"
    call_command("create_master_key", "--no-promote", "--output", str(copy))
    assert ids(copy)[0] == "old"
    assert key_holders.default_wait_seconds() > keyring_command.RERUN_SECONDS


def test_first_keyring_can_go_to_a_secret(tmp_path: Path, settings: Settings) -> None:
    settings.STRAKE_MASTER_KEYS_FILE = ""
    copy = tmp_path / "first.json"
    call_command("create_master_key", "--no-promote", "--output", str(copy))
    assert primary(copy) == ids(copy)[0]


def test_no_new_keyring_while_the_database_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable() -> bool:
        raise DatabaseError("connection refused")

    monkeypatch.setattr(key_registry, "tables_exist", unreachable)
    path = tmp_path / "lost.json"
    with pytest.raises(CommandError, match=r"cannot be asked.*connection refused.*Restore the file"):
        call_command("create_master_key", "--file", str(path))
    assert not path.exists()


# --- Which server opens what -----------------------------------------------------------------------------------------


def test_verify_vault_names_servers_that_lack_keys(
    keys_file: Path, alice: User, capsys: pytest.CaptureFixture[str]
) -> None:
    factories.make_endpoint(owner=alice)
    call_command("verify_vault")
    server("web-1:11", keyring.current())
    call_command("verify_vault")
    assert "Running servers that hold the master keys: web-1 (11)." in capsys.readouterr().out
    server("web-2:21", keyring.parse(document("new", new=OTHER_MASTER_KEY)))
    server("web-3:31", keyring.parse(document("old", old=OTHER_MASTER_KEY)))
    with pytest.raises(CommandError, match=r"web-2 \(21\), web-3 \(31\)"):
        call_command("verify_vault")
    shown = capsys.readouterr().out
    assert "web-2:21 opens 0 of 1: it lacks old" in shown
    assert "web-1:11 opens" not in shown
