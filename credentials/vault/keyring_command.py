"""The keyring that a command prints: `STRAKE_MASTER_KEYS_COMMAND`, for sops, age, Vault or a cloud's secret manager.

The command runs without a shell, and without Strake's own variables. It gets ten seconds. Nobody tells a server that
the keyring has changed, so its heartbeat's thread runs the command again on a `Schedule`.
"""

from __future__ import annotations

import os
import re
import selectors
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic

from accounts.plain_text import escape_unsafe
from credentials.errors import KeyringError
from credentials.vault import keyring_document
from credentials.vault.keyring_document import Keyring
from credentials.vault.sealing import wipe

VARIABLE = "STRAKE_MASTER_KEYS_COMMAND"
# Below the 20 seconds after which a server without a heartbeat counts as dead: its thread runs the command.
TIMEOUT_SECONDS = 10.0
RERUN_SECONDS = 300.0
RETRY_SECONDS = 10.0
_MAX_SAID = 4096  # bytes of standard error that are read
_MAX_SHOWN = 300  # characters of it in a message
_OWN = ("STRAKE_", "DJANGO_", "LISTEN_")
_OWN_NAMES = frozenset({"DATABASE_URL", "REDIS_URL", "EMAIL_URL", "NOTIFY_SOCKET"})
_LIKE_A_KEY = re.compile(r"[A-Za-z0-9+/=_-]{32,}")


def read(command: str) -> Keyring:
    """Run the command and parse what it prints. Raises `KeyringError`, which has what it said to standard error."""
    content, said = bytearray(keyring_document.MAX_BYTES + 1), bytearray()
    try:
        with _running(_arguments(command)) as process:
            size, code = _collect(process, content, said)
        if code:
            raise KeyringError(f"{VARIABLE} failed with {_describe(code)}.{_quote(said)}")
        try:
            return keyring_document.parse_bytes(memoryview(content)[:size])
        except UnicodeDecodeError:
            raise KeyringError(f"{VARIABLE} printed something that is not UTF-8 text.") from None
        except KeyringError as error:
            raise KeyringError(f"{VARIABLE} must print the keyring. {error}{_quote(said)}") from None
    finally:
        wipe(content)


def _arguments(command: str) -> list[str]:
    try:
        arguments = shlex.split(command)
    except ValueError:
        raise KeyringError(f"{VARIABLE} has a quote without its end.") from None
    if not arguments:
        raise KeyringError(f"{VARIABLE} names no program.")
    return arguments


@contextmanager
def _running(arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The command, in a session of its own, so that all of its processes end if the block fails."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OWN) and name.removesuffix("_FILE") not in _OWN_NAMES
    }
    try:
        process = subprocess.Popen(  # noqa: S603  (the operator's own command)
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        raise KeyringError(
            f"{VARIABLE}: {arguments[0]} cannot be run: {error.strerror}. The value is one command line without a "
            "shell. For a pipe, name a script."
        ) from None
    with process:
        try:
            yield process
        except BaseException:
            with suppress(ProcessLookupError, PermissionError):  # on macOS a zombie cannot be signalled
                os.killpg(process.pid, signal.SIGKILL)
            raise


def _collect(process: subprocess.Popen[bytes], content: bytearray, said: bytearray) -> tuple[int, int]:
    """Read both outputs into the arguments. Returns the size of the first and the exit code. Raises `KeyringError`."""
    outputs = (process.stdout, process.stderr)
    late = KeyringError(f"{VARIABLE} did not end within {TIMEOUT_SECONDS:g} seconds.")
    size, end = 0, monotonic() + TIMEOUT_SECONDS
    with selectors.DefaultSelector() as selector:
        for output in filter(None, outputs):
            selector.register(output, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(end - monotonic()) if monotonic() < end else []
            if not ready:
                raise late
            for key, _ in ready:
                if key.fileobj is process.stdout:
                    size += (count := os.readv(key.fd, [memoryview(content)[size:]]))
                    if size > keyring_document.MAX_BYTES:
                        raise KeyringError(f"{VARIABLE} printed more than {keyring_document.MAX_BYTES // 1024} KiB.")
                else:
                    count = len(part := os.read(key.fd, _MAX_SAID))
                    said += part[: _MAX_SAID - len(said)]
                if not count:
                    selector.unregister(key.fileobj)
    try:
        return size, process.wait(max(0.0, end - monotonic()))
    except subprocess.TimeoutExpired:
        raise late from None


def _describe(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"signal {-code}"


def _quote(said: bytearray) -> str:
    """What the command said, for a message: on one line, short, and without anything that could be a key."""
    text = " ".join(said.decode("utf-8", "replace").split())
    if not text:
        return ""
    shown = escape_unsafe(_LIKE_A_KEY.sub("…", text))
    return f" It said: {shown[:_MAX_SHOWN]}{'…' if len(shown) > _MAX_SHOWN else ''}"


class Schedule:
    """When a server runs the command again: regularly, soon after a failure, and once for each unknown master key."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._ran_at = self._due_at = float("-inf")
        self._sought: set[str] = set()
        self._is_wanted = False

    def want(self, key_id: str) -> None:
        """Note that a record needs a master key which is not in the keyring."""
        if key_id not in self._sought:
            self._sought.add(key_id)
            self._is_wanted = True

    def is_due(self) -> bool:
        now = self._clock()
        return now >= self._due_at or (self._is_wanted and now >= self._ran_at + RETRY_SECONDS)

    def ran(self, *, ok: bool) -> None:
        now = self._clock()
        if now >= self._due_at:
            self._sought.clear()  # a key that was missing may be there later
        self._ran_at, self._due_at = now, now + (RERUN_SECONDS if ok else RETRY_SECONDS)
        self._is_wanted = False
