"""Rotation of the master key: it is complete, resumes after a kill, and disturbs neither writers nor servers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone
from pytest_django import Settings

from accounts.actors import OPERATOR
from accounts.models import AuditEvent, User
from credentials import vault
from credentials.errors import (
    KeyringError,
    MasterKeyInUse,
    MasterKeyNotEverywhere,
    RetiredMasterKey,
    RotationRunning,
    UnknownMasterKey,
    WrongMasterKey,
)
from credentials.models import Credential, DerivedToken, SealedKey
from credentials.vault import heartbeats, key_registry, keyring, keyring_file, master_keys, rotation, unwrapping
from credentials.vault.envelope import WrappedKey, derived_binding
from credentials.vault.heartbeats import Vitals
from credentials.vault.keyring import Keyring
from credentials.vault.master_keys import KeyringPlace
from credentials.vault.models import MasterKeyCheck, ServerProcess
from credentials.vault.provider_key import ProviderKey
from proxy.unsealing import open_key
from tests.support import factories
from tests.support.factories import Connected
from tests.support.vault import MASTER_KEY, OTHER_MASTER_KEY, document

WRAP_COLUMNS = {"master_key_id", "wrapped_dek", "wrapped_dek_iv"}
BOTH = {"old": MASTER_KEY, "new": OTHER_MASTER_KEY}


@pytest.fixture
def keys_file(tmp_path: Path, settings: Settings) -> Iterator[Path]:
    """A keyring with the one key `old`, under which the rows below are sealed."""
    path = tmp_path / "master-keys.json"
    path.write_text(document("old", old=MASTER_KEY))
    path.chmod(0o600)
    settings.STRAKE_MASTER_KEYS, settings.STRAKE_MASTER_KEYS_FILE = "", str(path)
    keyring.forget()
    yield path
    keyring.forget()


@pytest.fixture
def rows(keys_file: Path, alice: User) -> list[Connected]:
    return [factories.make_endpoint(owner=alice, key=f"sk-row-{n}") for n in range(23)]


def change_keys(path: Path, primary: str, **keys: bytes) -> None:
    draft = path.with_name("draft")
    draft.write_text(document(primary, **keys))
    draft.chmod(0o600)
    draft.replace(path)


def add_primary(path: Path) -> str:
    place = KeyringPlace(path)
    key_id, _ = master_keys.create(actor=OPERATOR, place=place)
    master_keys.promote(actor=OPERATOR, place=place, key_id=key_id, no_server=True)
    return key_id


def opened() -> list[str]:
    ring = keyring.current()
    return [
        open_key(row.sealed(), row.binding(), ring).decode()
        for row in Credential.objects.select_related("endpoint").order_by("endpoint__created_at", "pk")
    ]


def snapshot() -> dict[uuid.UUID, dict[str, object]]:
    return {row["credential_id"]: dict(row) for row in SealedKey.objects.values()}


# --- The walk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5, 23, 200])
def test_rotation_changes_only_the_wrap_of_every_row(rows: list[Connected], keys_file: Path, batch: int) -> None:
    before, keys = snapshot(), sorted(opened())
    change_keys(keys_file, "new", **BOTH)
    done: list[int] = []
    outcome = rotation.rotate(actor=OPERATOR, no_server=True, batch=batch, on_progress=done.append)
    after = snapshot()
    assert (outcome.rewrapped, outcome.stuck, sum(done)) == (23, set(), 23)
    for pk, row in before.items():
        assert {name for name in row if row[name] != after[pk][name]} == WRAP_COLUMNS
        assert after[pk]["master_key_id"] == "new"
    change_keys(keys_file, "new", new=OTHER_MASTER_KEY)
    assert sorted(opened()) == keys


def test_rotation_without_work_changes_nothing(rows: list[Connected]) -> None:
    before = snapshot()
    assert rotation.rotate(actor=OPERATOR, no_server=True).rewrapped == 0
    assert snapshot() == before
    assert not AuditEvent.objects.filter(action="master_key.rotated").exists()


def test_rotation_is_audited_and_registers_its_key(rows: list[Connected], keys_file: Path) -> None:
    change_keys(keys_file, "new", **BOTH)
    rotation.rotate(actor=OPERATOR, no_server=True)
    event = AuditEvent.objects.get(action="master_key.rotated")
    assert (event.subject_id, event.subject_label) == ("new", "23 data keys rewrapped")
    assert MasterKeyCheck.objects.filter(pk="new", retired_at=None).exists()


def test_rotation_to_wrong_key_changes_nothing(rows: list[Connected], keys_file: Path) -> None:
    MasterKeyCheck.objects.create(pk="new", check_value=b"x" * 16)
    before = snapshot()
    change_keys(keys_file, "new", **BOTH)
    with pytest.raises(WrongMasterKey):
        rotation.rotate(actor=OPERATOR, no_server=True)
    assert snapshot() == before


def test_unreadable_rows_are_listed_and_others_rotate(
    rows: list[Connected], keys_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SealedKey.objects.filter(pk=rows[3].credential.pk).update(wrapped_dek=b"x" * 48)
    SealedKey.objects.filter(pk=rows[4].credential.pk).update(master_key_id="unknown")
    with connection.cursor() as cursor:  # SQLite accepts text in a binary column.
        cursor.execute(
            "UPDATE credentials_sealedkey SET wrapped_dek = 'text' WHERE credential_id = %s",
            [rows[5].credential.pk.hex],
        )
    change_keys(keys_file, "new", **BOTH)
    with pytest.raises(CommandError, match="3 rows could not be rewrapped"):
        call_command("rotate_master_key", "--no-server", "--dry-run")
    assert "Nothing was changed" in capsys.readouterr().out
    with pytest.raises(CommandError, match="3 rows could not be rewrapped"):
        call_command("rotate_master_key", "--no-server")
    shown = capsys.readouterr().out
    assert "20 data keys rewrapped" in shown
    for row, key_id in ((rows[3], "old"), (rows[4], "unknown"), (rows[5], "old")):
        assert f"{row.endpoint.subdomain} (alice@example.org): does not open under {key_id}." in shown
    assert SealedKey.objects.filter(master_key_id="new").count() == 20


def test_dry_run_counts_and_changes_nothing(
    rows: list[Connected], keys_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_keys(keys_file, "new", **BOTH)
    before = snapshot()
    call_command("rotate_master_key", "--no-server", "--dry-run")
    assert "23 data keys under old would be rewrapped under new." in capsys.readouterr().out
    assert snapshot() == before
    assert not MasterKeyCheck.objects.filter(pk="new").exists()


def test_key_replaced_during_rotation_is_kept(
    rows: list[Connected], keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_keys(keys_file, "new", **BOTH)
    victim = rows[7].credential
    rewrap = unwrapping.rewrap
    replaced: list[uuid.UUID] = []

    def replace_meanwhile(wrapped: WrappedKey, format: int, credential_id: uuid.UUID, ring: Keyring) -> WrappedKey:
        renewed = rewrap(wrapped, format, credential_id, ring)
        if credential_id == victim.pk and not replaced:
            replaced.append(credential_id)
            victim.secret = "sk-replaced"
            victim.save()
        return renewed

    monkeypatch.setattr(unwrapping, "rewrap", replace_meanwhile)
    outcome = rotation.rotate(actor=OPERATOR, no_server=True)
    assert replaced
    assert outcome.rewrapped == 22
    assert "sk-replaced" in opened()


def test_rows_sealed_behind_the_rotation_are_found(
    rows: list[Connected], keys_file: Path, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_keys(keys_file, "new", **BOTH)
    late: list[Connected] = []
    ring_of_another_process = keyring.parse(document("old", **BOTH))

    def seal_behind(_: int) -> None:
        if not late:
            with monkeypatch.context() as patch:
                patch.setattr(keyring, "current", lambda: ring_of_another_process)
                late.append(factories.make_endpoint(owner=alice, key="sk-late"))
                # Its id lies before the cursor, so the first pass does not see it.
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

    rotation.rotate(actor=OPERATOR, no_server=True, batch=5, on_progress=seal_behind)
    assert set(SealedKey.objects.values_list("master_key_id", flat=True)) == {"new"}
    assert "sk-late" in opened()


def test_rotations_exclude_each_other(rows: list[Connected], keys_file: Path) -> None:
    change_keys(keys_file, "new", **BOTH)

    def run_another(_: int) -> None:
        with pytest.raises(RotationRunning):
            rotation.rotate(actor=OPERATOR, no_server=True)

    assert rotation.rotate(actor=OPERATOR, no_server=True, batch=10, on_progress=run_another).rewrapped == 23
    rotation.rotate(actor=OPERATOR, no_server=True)  # The first run has released its lock.


# --- Running servers -----------------------------------------------------------------------------------------------


def load(process_id: uuid.UUID, ring: Keyring) -> None:
    """Record that a proxy process has loaded this keyring."""
    key_ids = {key_id: ring.check_value(key_id).hex() for key_id in ring.ids}
    heartbeats.record(process_id, "proxy", Vitals(ring.primary_id, key_ids), timezone.now())


def serve(ring: Keyring, *, seconds_ago: float = 0) -> uuid.UUID:
    process_id = uuid.uuid4()
    load(process_id, ring)
    ServerProcess.objects.filter(pk=process_id).update(seen_at=Now() - timedelta(seconds=seconds_ago))
    return process_id


def test_rotation_waits_for_servers_without_new_key(rows: list[Connected], keys_file: Path) -> None:
    before = snapshot()
    process_id = serve(keyring.current())
    change_keys(keys_file, "new", **BOTH)
    with pytest.raises(MasterKeyNotEverywhere, match="restart it"):
        rotation.rotate(actor=OPERATOR, no_server=True, wait_seconds=0)
    assert snapshot() == before
    load(process_id, keyring.current())
    assert rotation.rotate(actor=OPERATOR, no_server=True, wait_seconds=0).rewrapped == 23


def test_rotation_waits_for_servers_with_wrong_key(rows: list[Connected], keys_file: Path) -> None:
    """Two hosts have a copy of the keyring each, and `create_master_key` was run on both."""
    before = snapshot()
    process_id = serve(keyring.parse(document("new", old=MASTER_KEY, new=bytes(range(50, 82)))))
    change_keys(keys_file, "new", **BOTH)
    with pytest.raises(MasterKeyNotEverywhere, match="another key under this id"):
        rotation.rotate(actor=OPERATOR, no_server=True, wait_seconds=0)
    assert snapshot() == before
    load(process_id, keyring.current())
    assert rotation.rotate(actor=OPERATOR, no_server=True, wait_seconds=0).rewrapped == 23


def test_rotation_and_retiring_do_not_wait_for_web_processes(rows: list[Connected], keys_file: Path) -> None:
    heartbeats.record(uuid.uuid4(), "web", Vitals(), timezone.now())
    change_keys(keys_file, "new", **BOTH)
    assert rotation.rotate(actor=OPERATOR, no_server=True, wait_seconds=0).rewrapped == 23
    master_keys.retire(actor=OPERATOR, key_id="old", wait_seconds=0)


def test_killed_server_does_not_delay_rotation(rows: list[Connected], keys_file: Path) -> None:
    serve(keyring.current(), seconds_ago=heartbeats.EXPIRY_SECONDS + 1)
    change_keys(keys_file, "new", **BOTH)
    assert rotation.rotate(actor=OPERATOR, no_server=True, wait_seconds=0).rewrapped == 23


# --- Retiring ------------------------------------------------------------------------------------------------------


def test_retired_key_leaves_keyring_and_rows_open(
    rows: list[Connected], keys_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = sorted(opened())
    change_keys(keys_file, "new", **BOTH)
    call_command("rotate_master_key", "--no-server")
    call_command("retire_master_key", "old")
    assert keyring_file.read_file(keys_file).ids == ("new",)
    assert sorted(opened()) == keys
    assert AuditEvent.objects.filter(action="master_key.retired", subject_id="old").count() == 1
    shown = capsys.readouterr().out
    for key in (MASTER_KEY, OTHER_MASTER_KEY):
        assert key.hex() not in shown


def test_key_that_rows_need_is_not_retired(rows: list[Connected], keys_file: Path) -> None:
    change_keys(keys_file, "new", **BOTH)
    rotation.rotate(actor=OPERATOR, no_server=True)
    row = rows[5].credential
    SealedKey.objects.filter(pk=row.pk).update(master_key_id="old")
    with pytest.raises(CommandError, match=r"1 sealed key still needs old.*rotate_master_key"):
        call_command("retire_master_key", "old")
    assert keyring_file.read_file(keys_file).ids == ("old", "new")
    assert not MasterKeyCheck.objects.filter(retired_at__isnull=False).exists()


def test_key_that_a_server_seals_under_is_not_retired(rows: list[Connected], keys_file: Path) -> None:
    process_id = serve(keyring.current())
    change_keys(keys_file, "new", **BOTH)
    load(process_id, keyring.parse(document("old", **BOTH)))  # It has the new key but seals under the old one.
    rotation.rotate(actor=OPERATOR, no_server=True)
    with pytest.raises(CommandError, match="still seal under old"):
        call_command("retire_master_key", "old", "--wait", "0")
    load(process_id, keyring.current())
    call_command("retire_master_key", "old", "--wait", "0")


def test_rotation_names_servers_that_seal_under_the_old_key(
    rows: list[Connected], keys_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 0.1)
    process_id = serve(keyring.current())
    change_keys(keys_file, "new", **BOTH)
    load(process_id, keyring.parse(document("old", **BOTH)))  # it has the new key but seals under the old one
    call_command("rotate_master_key")
    shown = capsys.readouterr().out
    assert "These servers still seal under an older key: " in shown
    assert "keyring in which new is the primary, and run this again" in shown
    assert "retire_master_key" not in shown
    load(process_id, keyring.current())
    call_command("rotate_master_key")
    assert "Next: manage.py verify_vault, then manage.py retire_master_key old" in capsys.readouterr().out


def test_primary_and_unknown_keys_are_not_retired(rows: list[Connected], keys_file: Path) -> None:
    with pytest.raises(MasterKeyInUse, match="is the primary"):
        master_keys.retire(actor=OPERATOR, key_id="old")
    with pytest.raises(UnknownMasterKey):
        master_keys.retire(actor=OPERATOR, key_id="older")
    with pytest.raises(MasterKeyInUse, match="has not been retired"):
        master_keys.remove(actor=OPERATOR, place=KeyringPlace(keys_file), key_id="old")


def test_outdated_keyring_cannot_use_retired_key(
    rows: list[Connected], keys_file: Path, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = keyring.current()
    change_keys(keys_file, "new", **BOTH)
    rotation.rotate(actor=OPERATOR, no_server=True)
    master_keys.retire(actor=OPERATOR, key_id="old")
    master_keys.remove(actor=OPERATOR, place=KeyringPlace(keys_file), key_id="old")
    monkeypatch.setattr(keyring, "current", lambda: stale)
    with pytest.raises(RetiredMasterKey), transaction.atomic():
        factories.make_endpoint(owner=alice)
    assert not SealedKey.objects.filter(master_key_id="old").exists()


def test_unused_key_can_be_retired(rows: list[Connected], keys_file: Path) -> None:
    change_keys(keys_file, "old", **BOTH)
    call_command("retire_master_key", "new")
    change_keys(keys_file, "new", **BOTH)
    with pytest.raises(RetiredMasterKey), transaction.atomic():
        key_registry.confirm("new", keyring.current().check_value("new"))


def test_interrupted_retirement_continues(rows: list[Connected], keys_file: Path) -> None:
    change_keys(keys_file, "new", **BOTH)
    rotation.rotate(actor=OPERATOR, no_server=True)
    master_keys.retire(actor=OPERATOR, key_id="old")  # The command is killed here.
    call_command("retire_master_key", "old")
    assert keyring_file.read_file(keys_file).ids == ("new",)
    assert AuditEvent.objects.filter(action="master_key.retired").count() == 1


def test_retiring_a_key_from_the_environment(
    rows: list[Connected], settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.STRAKE_MASTER_KEYS, settings.STRAKE_MASTER_KEYS_FILE = document("new", **BOTH), ""
    rotation.rotate(actor=OPERATOR, no_server=True)
    call_command("retire_master_key", "old")
    assert "Now remove it from where the keyring comes from" in capsys.readouterr().out
    assert MasterKeyCheck.objects.filter(pk="old", retired_at__isnull=False).exists()


def test_key_ids_are_never_reused(rows: list[Connected], keys_file: Path) -> None:
    made = [add_primary(keys_file)]
    rotation.rotate(actor=OPERATOR, no_server=True)
    made.append(add_primary(keys_file))
    rotation.rotate(actor=OPERATOR, no_server=True)
    call_command("retire_master_key", made[0])
    made.append(add_primary(keys_file))
    assert len(set(made)) == 3
    rotation.rotate(actor=OPERATOR, no_server=True)


def test_every_command_reports_a_damaged_keyring(rows: list[Connected], keys_file: Path) -> None:
    keys_file.write_text("{")
    for command in (["rotate_master_key"], ["rotate_master_key", "--dry-run"], ["retire_master_key", "old"]):
        with pytest.raises(CommandError, match="not valid JSON"):
            call_command(*command)
    with pytest.raises(KeyringError):
        rotation.rotate(actor=OPERATOR, no_server=True)


# --- A compromised key ---------------------------------------------------------------------------------------------


def test_compromised_lists_exactly_the_exposed_keys(
    rows: list[Connected], keys_file: Path, alice: User, capsys: pytest.CaptureFixture[str]
) -> None:
    change_keys(keys_file, "new", **BOTH)
    safe = factories.make_endpoint(owner=alice, label="Sealed under the new key alone")
    rows[0].credential.secret = "sk-replaced-since"
    rows[0].credential.save()
    for _ in range(2):  # The second run finds every row rewrapped already.
        call_command("rotate_master_key", "--no-server", "--compromised")
        shown = capsys.readouterr().out
        assert "Only the providers can end those keys" in shown
        assert "22 endpoints." in shown
        for row in rows[1:]:
            assert row.endpoint.subdomain in shown
        assert rows[0].endpoint.subdomain not in shown
        assert safe.endpoint.subdomain not in shown


def test_no_command_prints_a_master_key(
    rows: list[Connected], keys_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("create_master_key", "--no-server")
    call_command("rotate_master_key", "--no-server", "--compromised")
    call_command("verify_vault")
    call_command("retire_master_key", "old")
    shown = capsys.readouterr()
    for key in json.loads(keys_file.read_text())["keys"].values():
        assert key not in shown.out + shown.err


# --- Access tokens of clouds ---------------------------------------------------------------------------------------


def derive(made: Connected, master_key_id: str) -> None:
    fields = {"format": 2, "wrapped_dek": b"w" * 48, "wrapped_dek_iv": b"i" * 12, "ciphertext": b"c" * 40}
    DerivedToken.objects.create(credential=made.credential, master_key_id=master_key_id, iv=b"v" * 12, **fields)


def test_rotation_deletes_derived_tokens(rows: list[Connected], keys_file: Path) -> None:
    for made, master_key_id in zip(rows, ("old", "new", ""), strict=False):
        derive(made, master_key_id)
    change_keys(keys_file, "new", **BOTH)
    rotation.rotate(actor=OPERATOR, no_server=True)
    assert sorted(DerivedToken.objects.values_list("master_key_id", flat=True)) == ["", "new"]
    derive(rows[0], "old")
    assert rotation.rotate(actor=OPERATOR, no_server=True).rewrapped == 0
    assert not DerivedToken.objects.filter(master_key_id="old").exists()


def test_retirement_deletes_late_derived_tokens(rows: list[Connected], keys_file: Path) -> None:
    change_keys(keys_file, "new", **BOTH)
    rotation.rotate(actor=OPERATOR, no_server=True)
    derive(rows[0], "old")  # by a process that had not loaded the new primary key
    master_keys.retire(actor=OPERATOR, key_id="old")
    assert not DerivedToken.objects.exists()


def test_verification_ignores_derived_tokens(rows: list[Connected], capsys: pytest.CaptureFixture[str]) -> None:
    derive(rows[0], "lost")
    call_command("verify_vault")
    assert "all open" in capsys.readouterr().out


def test_derived_token_is_not_stored_under_a_retired_key(rows: list[Connected]) -> None:
    sealed = vault.seal(ProviderKey("ya29.x"), derived_binding(rows[0].credential.binding(), b"i" * 12))
    assert sealed.check().wrap.master_key_id == "old"
    MasterKeyCheck.objects.update(retired_at=Now())
    with pytest.raises(RetiredMasterKey):
        sealed.check()
    MasterKeyCheck.objects.update(retired_at=None, check_value=b"x" * 16)
    with pytest.raises(WrongMasterKey):
        sealed.check()
