"""Rotation of the master key: complete, resumable, careful with what others write, and nobody's outage."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.models.functions import Now

from accounts.audit import OPERATOR
from accounts.models import AuditEvent
from credentials import keyring, keyring_guard, master_keys, presence, rotation, sealing
from credentials.errors import (
    KeyringError,
    MasterKeyInUse,
    ProcessesBehind,
    RetiredMasterKey,
    RotationRunning,
    UnknownMasterKey,
    WrongMasterKey,
)
from credentials.models import Credential, MasterKeyCheck, ServerProcess
from proxy.unsealing import open_key
from tests import factories
from tests.credentials.vault import MASTER_KEY, OTHER_MASTER_KEY, document

WRAP_COLUMNS = {"master_key_id", "wrapped_dek", "wrapped_dek_iv"}
BOTH = {"old": MASTER_KEY, "new": OTHER_MASTER_KEY}


@pytest.fixture
def keys_file(tmp_path, settings):
    """A keyring with the one key `old`; the rows below are sealed under it."""
    path = tmp_path / "master-keys.json"
    path.write_text(document("old", old=MASTER_KEY))
    path.chmod(0o600)
    settings.STRAKE_MASTER_KEYS, settings.STRAKE_MASTER_KEYS_FILE = "", str(path)
    keyring.forget()
    yield path
    keyring.forget()


@pytest.fixture
def rows(keys_file, alice) -> list[factories.Connected]:
    return [factories.make_endpoint(owner=alice, key=f"sk-row-{n}") for n in range(23)]


def change_keys(path, primary, **keys) -> None:
    draft = path.with_name("draft")
    draft.write_text(document(primary, **keys))
    draft.chmod(0o600)
    draft.replace(path)


def opened() -> list[str]:
    ring = keyring.current()
    return [
        open_key(row.sealed(), row.binding(), ring).decode()
        for row in Credential.objects.select_related("endpoint").order_by("endpoint__created_at", "pk")
    ]


def snapshot() -> dict[uuid.UUID, dict[str, object]]:
    return {row["id"]: row for row in Credential.objects.values()}


# --- The walk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5, 23, 200])
def test_a_rotation_rewraps_every_row_and_changes_nothing_but_the_wrap(rows, keys_file, batch):
    before, keys = snapshot(), sorted(opened())
    change_keys(keys_file, "new", **BOTH)
    done: list[int] = []
    outcome = rotation.rotate(actor=OPERATOR, batch=batch, on_progress=done.append)
    after = snapshot()
    assert (outcome.rewrapped, outcome.stuck, sum(done)) == (23, set(), 23)
    for pk, row in before.items():
        assert {name for name in row if row[name] != after[pk][name]} == WRAP_COLUMNS
        assert after[pk]["master_key_id"] == "new"
    change_keys(keys_file, "new", new=OTHER_MASTER_KEY)
    assert sorted(opened()) == keys


def test_a_rotation_that_has_nothing_to_do_changes_nothing(rows):
    before = snapshot()
    assert rotation.rotate(actor=OPERATOR).rewrapped == 0
    assert snapshot() == before
    assert not AuditEvent.objects.filter(action="master_key.rotated").exists()


def test_a_rotation_is_in_the_audit_trail_and_its_key_is_confirmed(rows, keys_file):
    change_keys(keys_file, "new", **BOTH)
    rotation.rotate(actor=OPERATOR)
    event = AuditEvent.objects.get(action="master_key.rotated")
    assert (event.subject_id, event.subject_label) == ("new", "23 data keys rewrapped")
    assert MasterKeyCheck.objects.filter(pk="new", retired_at=None).exists()


def test_a_rotation_to_a_wrong_key_changes_nothing(rows, keys_file):
    MasterKeyCheck.objects.create(pk="new", check_value=b"x" * 16)
    before = snapshot()
    change_keys(keys_file, "new", **BOTH)
    with pytest.raises(WrongMasterKey):
        rotation.rotate(actor=OPERATOR)
    assert snapshot() == before


def test_a_row_that_does_not_open_is_named_and_left_and_the_others_are_done(rows, keys_file, capsys):
    Credential.objects.filter(pk=rows[3].credential.pk).update(wrapped_dek=b"x" * 48)
    Credential.objects.filter(pk=rows[4].credential.pk).update(master_key_id="unknown")
    with connection.cursor() as cursor:  # SQLite takes text for bytes
        cursor.execute(
            "UPDATE credentials_credential SET wrapped_dek = 'text' WHERE id = %s", [rows[5].credential.pk.hex]
        )
    change_keys(keys_file, "new", **BOTH)
    with pytest.raises(CommandError, match="3 rows could not be rewrapped"):
        call_command("rotate_master_key", "--dry-run")
    assert "Nothing was changed" in capsys.readouterr().out
    with pytest.raises(CommandError, match="3 rows could not be rewrapped"):
        call_command("rotate_master_key")
    shown = capsys.readouterr().out
    assert "20 data keys rewrapped" in shown
    for row, key_id in ((rows[3], "old"), (rows[4], "unknown"), (rows[5], "old")):
        assert f"{row.endpoint.subdomain} (alice@example.org): does not open under {key_id}." in shown
    assert Credential.objects.filter(master_key_id="new").count() == 20


def test_a_dry_run_counts_and_changes_nothing(rows, keys_file, capsys):
    change_keys(keys_file, "new", **BOTH)
    before = snapshot()
    call_command("rotate_master_key", "--dry-run")
    assert "23 under old would be rewrapped under new." in capsys.readouterr().out
    assert snapshot() == before
    assert not MasterKeyCheck.objects.filter(pk="new").exists()


def test_a_key_replaced_while_the_walk_holds_its_row_is_not_overwritten(rows, keys_file, monkeypatch):
    change_keys(keys_file, "new", **BOTH)
    victim = rows[7].credential
    rewrap, replaced = sealing.rewrap, []

    def replace_meanwhile(wrap, format, credential_id, ring):
        renewed = rewrap(wrap, format, credential_id, ring)
        if credential_id == victim.pk and not replaced:
            replaced.append(credential_id)
            victim.secret = "sk-replaced"
            victim.save()
        return renewed

    monkeypatch.setattr(sealing, "rewrap", replace_meanwhile)
    outcome = rotation.rotate(actor=OPERATOR)
    assert replaced
    assert outcome.rewrapped == 22
    assert "sk-replaced" in opened()


def test_what_is_sealed_under_the_old_key_behind_the_walk_is_found(rows, keys_file, alice, monkeypatch):
    change_keys(keys_file, "new", **BOTH)
    late: list[factories.Connected] = []
    ring_of_another_process = keyring.parse(document("old", **BOTH))

    def seal_behind(_: int) -> None:
        if not late:
            with monkeypatch.context() as patch:
                patch.setattr(keyring, "current", lambda: ring_of_another_process)
                late.append(factories.make_endpoint(owner=alice, key="sk-late"))
                # With an id before the cursor, the first pass does not come by again.
                Credential.objects.filter(pk=late[0].credential.pk).delete()
                credential = Credential(
                    id=uuid.UUID(int=1),
                    endpoint=late[0].endpoint,
                    destination_url="https://api.example.com",
                    header_name="Authorization",
                    header_template="{{secret}}",
                )
                credential.secret = "sk-late"
                credential.save(force_insert=True)

    rotation.rotate(actor=OPERATOR, batch=5, on_progress=seal_behind)
    assert set(Credential.objects.values_list("master_key_id", flat=True)) == {"new"}
    assert "sk-late" in opened()


def test_two_rotations_do_not_run_at_once(rows, keys_file):
    change_keys(keys_file, "new", **BOTH)

    def run_another(_: int) -> None:
        with pytest.raises(RotationRunning):
            rotation.rotate(actor=OPERATOR)

    assert rotation.rotate(actor=OPERATOR, batch=10, on_progress=run_another).rewrapped == 23
    rotation.rotate(actor=OPERATOR)  # the lock ended with the run that held it


# --- Running servers -----------------------------------------------------------------------------------------------


def serve(ring, *, seconds_ago: float = 0) -> uuid.UUID:
    process_id = uuid.uuid4()
    presence.note(process_id, ring)
    ServerProcess.objects.filter(pk=process_id).update(seen_at=Now() - timedelta(seconds=seconds_ago))
    return process_id


def test_a_rotation_waits_for_servers_that_have_not_loaded_the_new_key(rows, keys_file):
    before = snapshot()
    process_id = serve(keyring.current())
    change_keys(keys_file, "new", **BOTH)
    with pytest.raises(ProcessesBehind, match="restart them"):
        rotation.rotate(actor=OPERATOR, wait_seconds=0)
    assert snapshot() == before
    presence.note(process_id, keyring.current())
    assert rotation.rotate(actor=OPERATOR, wait_seconds=0).rewrapped == 23


def test_a_rotation_waits_for_servers_that_have_another_key_under_the_id_of_the_new_one(rows, keys_file):
    """Two hosts, each with a copy of the keyring, and `create_master_key` was run on both."""
    before = snapshot()
    process_id = serve(keyring.parse(document("new", old=MASTER_KEY, new=bytes(range(50, 82)))))
    change_keys(keys_file, "new", **BOTH)
    with pytest.raises(ProcessesBehind, match="another key under the same id"):
        rotation.rotate(actor=OPERATOR, wait_seconds=0)
    assert snapshot() == before
    presence.note(process_id, keyring.current())
    assert rotation.rotate(actor=OPERATOR, wait_seconds=0).rewrapped == 23


def test_a_server_that_was_killed_holds_nothing_up(rows, keys_file):
    serve(keyring.current(), seconds_ago=presence.GONE_SECONDS + 1)
    change_keys(keys_file, "new", **BOTH)
    assert rotation.rotate(actor=OPERATOR, wait_seconds=0).rewrapped == 23


def test_a_server_notes_itself_its_keys_and_its_end(transactional_db, keys_file, monkeypatch):
    monkeypatch.setattr(presence, "LOOK_SECONDS", 0.02)

    async def live() -> None:
        process = presence.Presence()
        await process.start()
        noted = await ServerProcess.objects.aget()
        assert (noted.primary_key_id, list(noted.key_ids)) == ("old", ["old"])
        change_keys(keys_file, "new", **BOTH)
        for _ in range(200):
            await asyncio.sleep(0.02)
            if await ServerProcess.objects.filter(primary_key_id="new").aexists():
                break
        noted = await ServerProcess.objects.aget()
        assert sorted(noted.key_ids) == ["new", "old"]
        await process.stop()
        assert not await ServerProcess.objects.aexists()

    asyncio.run(live())


def test_a_database_that_is_down_for_a_while_does_not_end_the_noting(transactional_db, keys_file, monkeypatch, caplog):
    monkeypatch.setattr(presence, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.0)
    note, failures = presence.note, []

    def fail_twice(*arguments):
        if len(failures) < 2:
            failures.append(1)
            raise OSError("the password is sk-canary")
        note(*arguments)

    monkeypatch.setattr(presence, "note", fail_twice)

    async def live() -> None:
        process = presence.Presence()
        await process.start()
        for _ in range(200):
            await asyncio.sleep(0.02)
            if await ServerProcess.objects.aexists():
                break
        assert await ServerProcess.objects.aexists()
        await process.stop()

    asyncio.run(live())
    assert "presence_not_noted kind=OSError" in caplog.text
    assert "sk-canary" not in caplog.text


# --- Retiring ------------------------------------------------------------------------------------------------------


def test_a_retired_key_leaves_the_keyring_and_everything_still_opens(rows, keys_file, capsys):
    keys = sorted(opened())
    change_keys(keys_file, "new", **BOTH)
    call_command("rotate_master_key")
    call_command("retire_master_key", "old")
    assert keyring.read_file(keys_file).ids == ("new",)
    assert sorted(opened()) == keys
    assert AuditEvent.objects.filter(action="master_key.retired", subject_id="old").count() == 1
    shown = capsys.readouterr().out
    for key in (MASTER_KEY, OTHER_MASTER_KEY):
        assert key.hex() not in shown


def test_a_key_that_rows_need_is_not_retired(rows, keys_file):
    change_keys(keys_file, "new", **BOTH)
    rotation.rotate(actor=OPERATOR)
    row = rows[5].credential
    Credential.objects.filter(pk=row.pk).update(master_key_id="old")
    with pytest.raises(CommandError, match=r"1 sealed key still needs old.*rotate_master_key"):
        call_command("retire_master_key", "old")
    assert keyring.read_file(keys_file).ids == ("old", "new")
    assert not MasterKeyCheck.objects.filter(retired_at__isnull=False).exists()


def test_a_key_that_a_running_server_seals_under_is_not_retired(rows, keys_file):
    process_id = serve(keyring.current())
    change_keys(keys_file, "new", **BOTH)
    presence.note(process_id, keyring.parse(document("old", **BOTH)))  # knows the new key, seals under the old one
    rotation.rotate(actor=OPERATOR)
    with pytest.raises(CommandError, match="still seal under old"):
        call_command("retire_master_key", "old", "--wait", "0")
    presence.note(process_id, keyring.current())
    call_command("retire_master_key", "old", "--wait", "0")


def test_the_primary_and_unknown_keys_are_not_retired(rows, keys_file):
    with pytest.raises(MasterKeyInUse, match="is the primary"):
        master_keys.retire(actor=OPERATOR, key_id="old")
    with pytest.raises(UnknownMasterKey):
        master_keys.retire(actor=OPERATOR, key_id="older")
    with pytest.raises(MasterKeyInUse, match="has not been retired"):
        master_keys.remove(actor=OPERATOR, path=keys_file, key_id="old")


def test_no_process_seals_under_a_retired_key_however_old_its_keyring_is(rows, keys_file, alice, monkeypatch):
    stale = keyring.current()
    change_keys(keys_file, "new", **BOTH)
    rotation.rotate(actor=OPERATOR)
    master_keys.retire(actor=OPERATOR, key_id="old")
    master_keys.remove(actor=OPERATOR, path=keys_file, key_id="old")
    monkeypatch.setattr(keyring, "current", lambda: stale)
    with pytest.raises(RetiredMasterKey), transaction.atomic():
        factories.make_endpoint(owner=alice)
    assert not Credential.objects.filter(master_key_id="old").exists()


def test_a_key_that_never_sealed_can_be_retired_and_never_seals(rows, keys_file):
    change_keys(keys_file, "old", **BOTH)
    call_command("retire_master_key", "new")
    change_keys(keys_file, "new", **BOTH)
    with pytest.raises(RetiredMasterKey), transaction.atomic():
        keyring_guard.confirm("new")


def test_retiring_killed_before_the_file_is_changed_goes_on_when_run_again(rows, keys_file, monkeypatch):
    change_keys(keys_file, "new", **BOTH)
    rotation.rotate(actor=OPERATOR)
    master_keys.retire(actor=OPERATOR, key_id="old")  # killed here
    call_command("retire_master_key", "old")
    assert keyring.read_file(keys_file).ids == ("new",)
    assert AuditEvent.objects.filter(action="master_key.retired").count() == 1


def test_keys_from_the_environment_are_retired_and_the_rest_is_said(rows, settings, capsys):
    settings.STRAKE_MASTER_KEYS = document("new", **BOTH)
    rotation.rotate(actor=OPERATOR)
    call_command("retire_master_key", "old")
    assert "take it out of STRAKE_MASTER_KEYS and restart" in capsys.readouterr().out
    assert MasterKeyCheck.objects.filter(pk="old", retired_at__isnull=False).exists()


def test_a_new_key_never_gets_an_id_that_was_used_before(rows, keys_file):
    made = [master_keys.create(actor=OPERATOR, path=keys_file, primary=True)[0]]
    rotation.rotate(actor=OPERATOR)
    made.append(master_keys.create(actor=OPERATOR, path=keys_file, primary=True)[0])
    rotation.rotate(actor=OPERATOR)
    call_command("retire_master_key", made[0])
    made.append(master_keys.create(actor=OPERATOR, path=keys_file, primary=True)[0])
    assert len(set(made)) == 3
    rotation.rotate(actor=OPERATOR)


def test_a_damaged_keyring_is_a_message_for_every_command(rows, keys_file):
    keys_file.write_text("{")
    for command in (["rotate_master_key"], ["rotate_master_key", "--dry-run"], ["retire_master_key", "old"]):
        with pytest.raises(CommandError, match="not valid JSON"):
            call_command(*command)
    with pytest.raises(KeyringError):
        rotation.rotate(actor=OPERATOR)


# --- A compromised key ---------------------------------------------------------------------------------------------


def test_after_a_compromise_exactly_the_keys_that_the_old_one_could_open_are_listed(rows, keys_file, alice, capsys):
    change_keys(keys_file, "new", **BOTH)
    safe = factories.make_endpoint(owner=alice, label="Sealed under the new key alone")
    rows[0].credential.secret = "sk-replaced-since"
    rows[0].credential.save()
    for _ in range(2):  # also when the rows have been rewrapped long since
        call_command("rotate_master_key", "--compromised")
        shown = capsys.readouterr().out
        assert "Only the providers can end those keys" in shown
        assert "22 endpoints." in shown
        for row in rows[1:]:
            assert row.endpoint.subdomain in shown
        assert rows[0].endpoint.subdomain not in shown
        assert safe.endpoint.subdomain not in shown


def test_no_command_prints_a_master_key(rows, keys_file, capsys):
    call_command("create_master_key")
    call_command("rotate_master_key", "--compromised")
    call_command("verify_vault")
    call_command("retire_master_key", "old")
    shown = capsys.readouterr()
    for key in json.loads(keys_file.read_text())["keys"].values():
        assert key not in shown.out + shown.err
