"""The keyring document, its file, and how a running process follows changes."""

from __future__ import annotations

import base64
import codecs
import copy
import grp
import json
import logging
import os
import pickle
import pwd
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from accounts import secret_files
from credentials.errors import KeyringError, UnknownMasterKey
from credentials.vault import keyring, keyring_document, keyring_file
from credentials.vault.keyring import Keyring
from tests.support.vault import KNOWN, MASTER_KEY, OTHER_MASTER_KEY, document, ring

KEY_TEXT = base64.b64encode(MASTER_KEY).decode()
OTHER_TEXT = base64.b64encode(OTHER_MASTER_KEY).decode()


@pytest.fixture(autouse=True)
def _forget_keyring() -> Iterator[None]:
    yield
    keyring.forget()


@pytest.fixture
def file(tmp_path: Path, settings: Settings) -> Path:
    """A configured keyring file with one key."""
    path = tmp_path / "master-keys.json"
    write(path, document())
    settings.STRAKE_MASTER_KEYS = ""
    settings.STRAKE_MASTER_KEYS_FILE = str(path)
    keyring.forget()
    return path


def write(path: Path, text: str) -> None:
    """Replace the file by a new one, as an editor does."""
    draft = path.with_name("draft")
    draft.write_text(text)
    draft.chmod(0o600)
    draft.replace(path)


# --- The document --------------------------------------------------------------------------------------------------


def test_document_gives_keys_by_id() -> None:
    loaded = ring("new", new=OTHER_MASTER_KEY, old=MASTER_KEY)
    assert loaded.primary_id == "new"
    assert loaded.ids == ("new", "old")
    assert loaded.key("old") == MASTER_KEY
    for read in (loaded.key, loaded.check_value):
        with pytest.raises(UnknownMasterKey):
            read("older")


def keys(**values: object) -> str:
    return json.dumps({"primary": next(iter(values)), "keys": values})


BAD_DOCUMENTS = {
    "empty": ("", "not valid JSON"),
    "words": ("hello", "not valid JSON"),
    "cut off": (document()[:-5], "not valid JSON"),
    "deeper than any document": ("[" * 100_000, "not valid JSON"),
    "a bare key": (KEY_TEXT, "not valid JSON"),
    "a bare key as JSON": (json.dumps(KEY_TEXT), "must look like"),
    "a list": ("[]", "must look like"),
    "null": ("null", "must look like"),
    "no primary": (json.dumps({"keys": {"a": KEY_TEXT}}), "must look like"),
    "no keys": (json.dumps({"primary": "a"}), "must look like"),
    "a misspelt name beside": (json.dumps({"primary": "a", "keys": {"a": KEY_TEXT}, "Primary": "b"}), "must look like"),
    "keys is a list": (json.dumps({"primary": "a", "keys": [KEY_TEXT]}), "holds no key"),
    "keys is empty": (json.dumps({"primary": "a", "keys": {}}), "holds no key"),
    "primary is unknown": (json.dumps({"primary": "b", "keys": {"a": KEY_TEXT}}), "'b' is not among the keys"),
    "primary is a number": (json.dumps({"primary": 1, "keys": {"a": KEY_TEXT}}), "id must be"),
    "primary is the key": (json.dumps({"primary": KEY_TEXT, "keys": {"a": KEY_TEXT}}), "id must be"),
    "id and key swapped": (json.dumps({"primary": "a", "keys": {KEY_TEXT: "a"}}), "id must be"),
    "a key in hex for an id": (json.dumps({"primary": "a", "keys": {MASTER_KEY.hex(): "a"}}), "id must be"),
    "an empty id": (json.dumps({"primary": "", "keys": {"": KEY_TEXT}}), "id must be"),
    "an id with a space": (keys(**{"a b": KEY_TEXT}), "id must be"),
    "an id with a line break": (keys(**{"a\n": KEY_TEXT}), "id must be"),
    "an id beyond ASCII": (keys(**{"é": KEY_TEXT}), "id must be"),
    "the key is hex": (keys(a=MASTER_KEY.hex()), "has 48 bytes. It must have 32"),
    "the key is short": (keys(a=base64.b64encode(MASTER_KEY[:31]).decode()), "has 31 bytes"),
    "the key is long": (keys(a=base64.b64encode(MASTER_KEY + b"x").decode()), "has 33 bytes"),
    "the key is empty": (keys(a=""), "has 0 bytes"),
    "the key is a number": (keys(a=1), "is not base64"),
    "the key is null": (keys(a=None), "is not base64"),
    "the key has no padding": (keys(a=KEY_TEXT.rstrip("=")), "is not base64"),
    "the key has a line break": (keys(a=KEY_TEXT + "\n"), "is not base64"),
    "the key is beyond ASCII": (keys(a="é" * 44), "is not base64"),
    "the key is zeros": (keys(a=base64.b64encode(bytes(32)).decode()), "is not random"),
    "the key is a word": (keys(a=base64.b64encode(b"password" * 4).decode()), "is not random"),
    "two ids, one key": (keys(a=KEY_TEXT, b=KEY_TEXT), "hold the same key"),
    "one id twice": (
        f'{{"primary": "a", "keys": {{"a": "{KEY_TEXT}", "a": "{OTHER_TEXT}"}}}}',
        "contains a name twice",
    ),
    "two primaries": (f'{{"primary": "a", "primary": "b", "keys": {{"a": "{KEY_TEXT}"}}}}', "contains a name twice"),
}


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_invalid_document_error_hides_the_key(name: str) -> None:
    text, says = BAD_DOCUMENTS[name]
    with pytest.raises(KeyringError, match=says) as refused:
        keyring.parse(text)
    message = str(refused.value)
    assert refused.value.__cause__ is None
    for spelling in (KEY_TEXT, KEY_TEXT.rstrip("="), MASTER_KEY.hex(), OTHER_TEXT):
        assert spelling not in message


@given(
    st.recursive(st.none() | st.booleans() | st.text(max_size=50), lambda x: st.dictionaries(st.text(max_size=9), x))
)
def test_arbitrary_json_raises_keyring_error(data: object) -> None:
    for text in (
        json.dumps(data),
        json.dumps({"primary": "a", "keys": data}),
        json.dumps({"primary": data, "keys": {}}),
    ):
        with pytest.raises(KeyringError):
            keyring.parse(text)


# --- The object ----------------------------------------------------------------------------------------------------


def test_keyring_shows_only_ids() -> None:
    loaded = ring()
    for shown in (repr(loaded), str(loaded), f"{loaded}", repr([loaded])):
        assert "2026-11-a" in shown
        assert "\\x" not in shown
        assert KEY_TEXT not in shown


@pytest.mark.parametrize(
    "spread", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps], ids=["pickle", "copy", "deepcopy", "json"]
)
def test_keyring_cannot_be_pickled_or_copied(spread: Callable[[Keyring], object]) -> None:
    with pytest.raises(TypeError):
        spread(ring())


def test_keyring_is_immutable() -> None:
    loaded = ring()
    with pytest.raises(AttributeError):
        loaded.primary_id = "b"  # type: ignore[misc]
    with pytest.raises(TypeError):
        loaded._keys["b"] = OTHER_MASTER_KEY  # type: ignore[index]


def test_check_value_depends_on_key_and_id() -> None:
    value = ring().check_value("2026-11-a")
    assert value == KNOWN.check_value
    assert ring("b", b=MASTER_KEY).check_value("b") != value
    assert ring(**{"2026_11_a": OTHER_MASTER_KEY}).check_value("2026-11-a") != value


# --- The file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o660, 0o601, 0o610, 0o777])
def test_file_readable_by_others_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(KeyringError, match=f"chmod 600 {file}"):
        keyring_file.read_file(file)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_file_readable_only_by_owner_is_read(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert keyring_file.read_file(file).ids == ("2026-11-a",)


def test_file_for_a_group_of_its_own_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Secret of Kubernetes belongs to root and `fsGroup`, which has no name in the container."""
    group = 54_321
    if os.geteuid() == 0:
        os.chown(file, 0, group)
    else:
        group = os.getegid()
    file.chmod(0o440)
    monkeypatch.setattr(os, "getgroups", lambda: [group])
    monkeypatch.setattr(secret_files, "_others_in", lambda gid: [])
    assert keyring_file.read_file(file).ids == ("2026-11-a",)
    for groups, others, says in ([[], [], "its group is none of this process"], [[group], ["ann", "bob"], "ann, bob"]):
        monkeypatch.setattr(os, "getgroups", lambda groups=groups: groups)
        monkeypatch.setattr(os, "getegid", lambda: 1)
        monkeypatch.setattr(secret_files, "_others_in", lambda gid, others=others: others)
        with pytest.raises(KeyringError, match=f"{says}.*chmod 600 {file}"):
            keyring_file.read_file(file)


def test_others_in_a_group_are_its_members_and_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    def account(name: str, uid: int, gid: int) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", uid, gid, "", "/", "/bin/sh"))

    accounts = [account("root", 0, 7), account("me", 1000, 7), account("ann", 1001, 7), account("bob", 1002, 8)]
    monkeypatch.setattr(pwd, "getpwall", lambda: [*accounts, account("eve", 1003, 9)])
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("g", "x", gid, ["bob"])))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert secret_files._others_in(7) == ["ann", "bob"]


def test_byte_order_mark_is_skipped(file: Path) -> None:
    file.write_bytes(codecs.BOM_UTF8 + document().encode() + b"\r\n")
    assert keyring_file.read_file(file).key("2026-11-a") == MASTER_KEY
    assert keyring.parse("\ufeff" + document()).ids == ("2026-11-a",)


def test_file_of_another_user_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(KeyringError, match="Run: chown 12345"):
        keyring_file.read_file(file)


def test_path_without_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, says in [
        (tmp_path / "missing.json", "does not exist"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / "pipe" / "below", "cannot be read"),
    ]:
        with pytest.raises(KeyringError, match=says):
            keyring_file.read_file(path)


def test_file_with_other_content_is_refused(file: Path) -> None:
    for content, says in [(b"\xff\xfe", "not UTF-8"), (b" " * 70_000, "too large"), (b"", "not valid JSON")]:
        file.write_bytes(content)
        with pytest.raises(KeyringError, match=says):
            keyring_file.read_file(file)


# --- Changing the file ---------------------------------------------------------------------------------------------


def test_changed_file_is_private_and_leaves_no_draft(file: Path) -> None:
    changed = keyring_file.change_file(file, lambda ring: keyring.new_document(ring, key_id="second"))
    assert changed.ids == ("2026-11-a", "second")
    assert keyring_file.read_file(file).primary_id == "second"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(file.parent) == [file.name]


def test_changing_a_symlink_changes_its_target(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(file)
    keyring_file.change_file(link, lambda ring: keyring.new_document(ring, key_id="second"))
    assert link.is_symlink()
    assert keyring_file.read_file(file).ids == ("2026-11-a", "second")


def test_failed_change_leaves_the_file_unchanged(file: Path) -> None:
    before = file.read_bytes()
    for change in (lambda ring: "{}", lambda ring: keyring.new_document(ring, key_id="2026-11-a")):
        with pytest.raises(KeyringError):
            keyring_file.change_file(file, change)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_change_by_root_keeps_the_owner(file: Path) -> None:
    os.chown(file, 65534, 65533)
    keyring_file.change_file(file, lambda ring: keyring.new_document(ring, key_id="second"))
    assert (file.stat().st_uid, file.stat().st_gid) == (65534, 65533)


def test_concurrent_changes_lose_no_key(file: Path) -> None:
    threads = [
        threading.Thread(
            target=keyring_file.change_file,
            args=(file, lambda ring, n=n: keyring.new_document(ring, key_id=f"key-{n}")),
        )
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keyring_file.read_file(file).ids) == 13


def test_new_key_ids_are_unique() -> None:
    taken: tuple[str, ...] = ()
    for _ in range(30):
        taken += (keyring_document.new_key_id(taken),)
    assert len(set(taken)) == 30
    assert taken[0].endswith("-a")


def test_primary_key_cannot_be_removed() -> None:
    both = ring("new", new=OTHER_MASTER_KEY, old=MASTER_KEY)
    assert keyring.parse(keyring_document.document_without(both, "old")).ids == ("new",)
    with pytest.raises(KeyringError, match="is the primary"):
        keyring_document.document_without(both, "new")
    with pytest.raises(UnknownMasterKey):
        keyring_document.document_without(both, "older")


# --- A running process ---------------------------------------------------------------------------------------------


def test_running_process_reads_a_changed_file(file: Path) -> None:
    first = keyring.current()
    assert keyring.current() is first
    write(file, document("second", second=OTHER_MASTER_KEY, **{"2026_11_a": MASTER_KEY}))
    assert keyring.current().primary_id == "second"


class Clock:
    """Stands in for `time.monotonic`."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of a process that looks for a change every 50 ms."""
    monkeypatch.setattr(keyring, "LOOK_SECONDS", 0.05)
    clock = Clock()
    monkeypatch.setattr(keyring, "monotonic", clock)
    return clock


def test_change_is_looked_for_now_and_then(file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    look = Mock(wraps=keyring._configured_version)
    monkeypatch.setattr(keyring, "_configured_version", look)
    first = keyring.current()
    write(file, document("second", second=OTHER_MASTER_KEY, **{"2026_11_a": MASTER_KEY}))
    for _ in range(100):
        assert keyring.recent("2026-11-a") is first
    assert look.call_count == 1
    clock.now += 0.051
    assert keyring.recent("2026-11-a").primary_id == "second"
    for _ in range(100):
        clock.now += 0.01
        keyring.recent("second")
    assert 18 <= look.call_count <= 23


def test_missing_key_is_looked_for_at_once(file: Path, clock: Clock) -> None:
    """A request whose key was wrapped a moment ago does not fail."""
    keyring.current()
    write(file, document("second", second=OTHER_MASTER_KEY))
    assert keyring.recent("second").ids == ("second",)
    assert keyring.recent("of no file").ids == ("second",)


def test_forgotten_keyring_is_looked_for_at_once(file: Path, clock: Clock) -> None:
    keyring.current()
    write(file, document("second", second=OTHER_MASTER_KEY))
    keyring.forget()
    assert keyring.recent("2026-11-a").ids == ("second",)


@pytest.mark.parametrize("damage", ["missing", "malformed", "exposed"])
def test_damaged_file_is_logged_once_and_keys_stay(file: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    good = keyring.current()
    if damage == "missing":
        file.unlink()
    elif damage == "malformed":
        write(file, document()[:-1])
    else:
        file.chmod(0o644)
    with caplog.at_level(logging.ERROR, "credentials.vault.keyring"):
        assert keyring.current() is good
        assert keyring.current() is good
    assert len(caplog.records) == 1
    assert KEY_TEXT not in caplog.text
    write(file, document("second", second=OTHER_MASTER_KEY))
    assert keyring.current().primary_id == "second"


def test_starting_process_refuses_a_damaged_file(file: Path) -> None:
    keyring.current()
    file.unlink()
    with pytest.raises(KeyringError, match="does not exist"):
        keyring.reload()


def test_keys_of_another_file_are_not_kept(file: Path, settings: Settings) -> None:
    keyring.current()
    settings.STRAKE_MASTER_KEYS_FILE = str(file.with_name("other.json"))
    with pytest.raises(KeyringError, match="does not exist"):
        keyring.current()


def test_environment_holds_the_same_document(settings: Settings) -> None:
    settings.STRAKE_MASTER_KEYS = document("b", b=OTHER_MASTER_KEY)
    assert keyring.current().ids == ("b",)
    settings.STRAKE_MASTER_KEYS = document()
    assert keyring.current().ids == ("2026-11-a",)


def test_missing_keyring_error_has_a_remedy(settings: Settings) -> None:
    settings.STRAKE_MASTER_KEYS = settings.STRAKE_MASTER_KEYS_FILE = ""
    with pytest.raises(KeyringError, match="create_master_key --file"):
        keyring.current()


# --- Credentials of systemd ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "is_accepted"), [(0o400, True), (0o440, True), (0o444, False), (0o460, False)])
def test_credential_of_systemd_is_accepted(
    mode: int, is_accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd gives the unit's user the right to read by an ACL, which the mode shows as a right of the group."""
    path = tmp_path / "master-keys.json"
    path.write_text(document())
    path.chmod(mode)
    monkeypatch.setattr(os, "getegid", lambda: -1)
    monkeypatch.setattr(os, "getgroups", list)
    monkeypatch.setattr(secret_files, "CREDENTIALS", tmp_path)
    if is_accepted:
        assert keyring_file.read_file(path).key("2026-11-a") == MASTER_KEY
    else:
        with pytest.raises(KeyringError, match="Other users"):
            keyring_file.read_file(path)
    monkeypatch.setattr(secret_files, "CREDENTIALS", tmp_path / "other")
    if mode != 0o400:
        with pytest.raises(KeyringError, match="chmod 600"):
            keyring_file.read_file(path)


# --- Keys that have left ---------------------------------------------------------------------------------------------


def test_key_that_left_the_file_is_overwritten(file: Path) -> None:
    write(file, document("new", old=MASTER_KEY, new=OTHER_MASTER_KEY))
    held = keyring.reload()
    retired, kept = held.key("old"), held.key("new")
    write(file, document("new", new=OTHER_MASTER_KEY))
    assert keyring.current().ids == ("new",)
    assert retired == bytes(32)
    assert kept == OTHER_MASTER_KEY
    with pytest.raises(UnknownMasterKey):
        held.key("old")
    assert held.key("new") is keyring.current().key("new"), "who still holds the old keyring can use it"


def test_other_key_with_the_same_id_takes_the_place(file: Path) -> None:
    write(file, document("a", a=MASTER_KEY))
    before = keyring.reload().key("a")
    write(file, document("a", a=OTHER_MASTER_KEY) + "\n")
    assert keyring.current().key("a") == OTHER_MASTER_KEY
    assert before == bytes(32)


def test_keys_in_unusual_spellings_are_read() -> None:
    text = document("a", a=MASTER_KEY, b=bytes(range(200, 232)))
    spelled = text.replace("/", "\\/").replace("A", "\\u0041", 1)
    assert keyring.parse(spelled).key("a") == MASTER_KEY
    assert keyring.parse(text).key("b") == bytes(range(200, 232))


def test_name_of_a_redacted_key_is_no_key() -> None:
    with pytest.raises(KeyringError, match="not base64"):
        keyring.parse('{"primary": "a", "keys": {"a": "#0"}}')
