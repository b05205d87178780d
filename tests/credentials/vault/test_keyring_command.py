"""STRAKE_MASTER_KEYS_COMMAND: what it is given, what it may print, and when a server runs it again."""

from __future__ import annotations

import base64
import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from credentials.errors import KeyringError
from credentials.vault import keyring, keyring_command
from tests.support.vault import MASTER_KEY, OTHER_MASTER_KEY, document


@pytest.fixture(autouse=True)
def _new_schedule(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(keyring, "_schedule", keyring_command.Schedule())
    keyring.forget()
    yield
    keyring.forget()


@pytest.fixture
def store(tmp_path: Path, settings: Settings) -> Path:
    """A file whose content the configured command prints. It counts its runs in the file `runs`."""
    path = tmp_path / "store.json"
    path.write_text(document())
    script = tmp_path / "print keys.sh"
    script.write_text(f"#!/bin/sh\necho run >>{tmp_path}/runs\nexec cat {path}\n")
    script.chmod(0o700)
    settings.STRAKE_MASTER_KEYS = settings.STRAKE_MASTER_KEYS_FILE = ""
    settings.STRAKE_MASTER_KEYS_COMMAND = shlex.quote(str(script))
    return path


def runs(store: Path) -> int:
    return (store.parent / "runs").read_text().count("run")


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


def both(primary: str) -> str:
    return document(primary, second=OTHER_MASTER_KEY, **{"2026_11_a": MASTER_KEY})


def test_command_prints_the_keyring(store: Path) -> None:
    assert keyring.current().key("2026-11-a") == MASTER_KEY
    for _ in range(20):
        keyring.current()
        keyring.recent("2026-11-a")
        keyring.poll()
    assert runs(store) == 1


def test_command_gets_no_secret_of_strake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STRAKE_SECRET_KEY", "DATABASE_URL", "REDIS_URL_FILE", "LISTEN_FDS"):
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("VAULT_ADDR", "https://vault.example.org")
    shown = tmp_path / "environment"
    with pytest.raises(KeyringError):
        keyring_command.read(f"sh -c 'printenv >{shown}; cat >>{shown}'")
    environment = shown.read_text()
    assert "VAULT_ADDR=https://vault.example.org" in environment
    assert "hidden" not in environment


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("/no/such/program", "/no/such/program cannot be run: No such file or directory"),
        ("cat 'keys", "a quote without its end"),
        ("   ", "names no program"),
        ("false", "failed with exit code 1."),
        ("sh -c 'kill -9 $$'", "failed with signal 9"),
        ("true", "must print the keyring. The master keys are not valid JSON"),
        ("printf '\\377\\376'", "not UTF-8"),
        ("yes", "printed more than 64 KiB"),
        ("sh -c 'echo no such vault >&2; exit 2'", "failed with exit code 2. It said: no such vault"),
        ("cat /etc/passwd | true", "failed with exit code 1"),
    ],
)
def test_failure_is_explained(command: str, says: str) -> None:
    with pytest.raises(KeyringError) as error:
        keyring_command.read(command)
    assert says in str(error.value)


def test_what_a_command_says_is_short_plain_and_without_keys() -> None:
    text = document().replace('"', " ")
    with pytest.raises(KeyringError) as error:
        keyring_command.read(python(f"import sys; sys.exit({text!r} + chr(27) + ' y' * 9999)"))
    message = str(error.value)
    assert len(message) < 400
    assert "\x1b" not in message
    assert "2026-11-a" in message
    assert base64.b64encode(MASTER_KEY).decode() not in message


def test_slow_command_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring_command, "TIMEOUT_SECONDS", 0.5)
    script = f"sleep 3600 & echo $! >{tmp_path}/pid; wait"
    with pytest.raises(KeyringError, match=r"did not end within 0\.5 seconds"):
        keyring_command.read(f"sh -c {shlex.quote(script)}")
    child = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)


# --- Again ---------------------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(keyring, "_schedule", keyring_command.Schedule(clock))
    return clock


def test_server_runs_it_again_every_five_minutes(store: Path, clock: Clock) -> None:
    keyring.poll()
    store.write_text(both("second"))
    clock.now += keyring_command.RERUN_SECONDS - 1
    assert keyring.poll().ids == ("2026-11-a",)
    clock.now += 1
    assert keyring.poll().primary_id == "second"
    assert runs(store) == 2


def test_unknown_key_is_looked_for_once(store: Path, clock: Clock) -> None:
    """A record is wrapped under a key that this server does not have: another host has sealed it."""
    keyring.poll()
    for _ in range(100):
        clock.now += 1
        keyring.recent("second")
        keyring.poll()
    assert runs(store) == 2
    store.write_text(both("2026-11-a"))
    clock.now += keyring_command.RERUN_SECONDS
    keyring.poll()
    assert keyring.recent("second").ids == ("second", "2026-11-a")


def test_requests_never_run_the_command(store: Path, clock: Clock) -> None:
    keyring.poll()
    clock.now += 10_000
    for _ in range(5):
        keyring.recent("second")
        keyring.current()
    assert runs(store) == 1


def test_failing_command_keeps_the_keys_and_is_logged_once(
    store: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ring = keyring.poll()
    store.unlink()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            clock.now += keyring_command.RERUN_SECONDS
            assert keyring.poll() is ring
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "No such file" in caplog.text
    store.write_text(both("second"))
    clock.now += keyring_command.RETRY_SECONDS
    assert keyring.poll().primary_id == "second"


def test_first_failure_is_not_repeated_by_every_request(store: Path, clock: Clock) -> None:
    document = store.read_text()
    store.unlink()
    for _ in range(5):
        with pytest.raises(KeyringError, match="failed with exit code 1"):
            keyring.current()
    assert runs(store) == 1
    store.write_text(document)
    clock.now += keyring_command.RETRY_SECONDS
    assert keyring.poll().ids == ("2026-11-a",)


def test_keys_stay_usable_while_the_command_runs(store: Path, clock: Clock, settings: Settings) -> None:
    ring = keyring.poll()
    gate = store.parent / "gate"
    os.mkfifo(gate)
    (store.parent / "print keys.sh").write_text(f"#!/bin/sh\nread line <{gate}\nexec cat {store}\n")
    clock.now += keyring_command.RERUN_SECONDS
    thread = threading.Thread(target=keyring.poll)
    thread.start()
    writer = os.open(gate, os.O_WRONLY)  # returns once the command waits
    assert keyring.current() is ring
    assert keyring.recent("2026-11-a") is ring
    os.write(writer, b"go\n")
    os.close(writer)
    thread.join(20)
    assert not thread.is_alive()
