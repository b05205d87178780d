"""The parent of both halves: `manage.py serve` starts the proxy half and the web half, and watches them.

It holds no keyring, and does not load Django or much else, because it keeps its memory for as long as Strake runs. The
proxy half leads: its report that the database is ready starts the web half, and its end is the end of all. A web half
that ends is started again, which costs pages a moment and proxy traffic nothing.

This is not gunicorn's arbiter, which reaps every child that it finds and keeps the master keys that it has read.
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from accounts.plain_text import escape_unsafe
from strake import log_lines
from strake.processes.hardening import end_with_parent, environment_of, harden

ROOT = os.path.realpath(f"{__file__}/../../..")
EX_CONFIG = 78  # sysexits.h: a half cannot start with this configuration
WEB_STOP_SECONDS = 40.0  # what the web half gets to finish its responses
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.2, 30.0
STABLE_SECONDS = 10.0  # a web half that has lived this long did not fail at its start

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SIGNALS = (*_STOP_SIGNALS, signal.SIGHUP, signal.SIGCHLD)


class Supervisor:
    """Runs both halves with these arguments of `manage.py serve`, and the demo provider.

    Each child has a session of its own, so that Ctrl+C in a terminal reaches this process only.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = list(arguments)
        self._web_environment = environment_of("web")
        self._web: subprocess.Popen[bytes] | None = None
        self._demo: subprocess.Popen[bytes] | None = None
        self._demo_listener: socket.socket | None = None
        self._web_starts = 0
        self._web_started_at = 0.0
        self._web_due: float | None = None  # when to start the web half
        self._pause = 0.0
        self._is_stopping = False
        self._is_reloading = False
        self._exit_code: int | None = None

    def run(self) -> int:
        """Return when both halves have ended, with the exit code of the one that failed."""
        with _signals() as signals, selectors.DefaultSelector() as selector:
            ready, announce = os.pipe()
            environment = environment_of("proxy")
            try:
                self._proxy = self._start_half(
                    "proxy", environment, [f"--ready-fd={announce}"], [announce, *_passed_descriptors(environment)]
                )
            except PermissionError:
                sys.stderr.write(f"{_cannot_execute()}\n")
                return EX_CONFIG
            os.close(announce)
            harden()  # the environment has been copied
            selector.register(signals, selectors.EVENT_READ)
            selector.register(ready, selectors.EVENT_READ)
            while (code := self._proxy.poll()) is None:
                for key, _ in selector.select(self._seconds_to_wait()):
                    if key.fileobj is signals:
                        self._on_signals(signals.recv(64))
                        continue
                    selector.unregister(key.fileobj)
                    if key.fileobj is self._demo_listener:
                        self._start_demo(self._demo_listener)
                        continue
                    self._on_report(os.read(ready, 1024))
                    if self._demo_listener is not None:
                        selector.register(self._demo_listener, selectors.EVENT_READ)
                self._start_web_if_due()
            os.close(ready)
            self._stop_others()
        if self._exit_code is not None:
            return self._exit_code
        if self._is_stopping and -code in _STOP_SIGNALS:
            return 0  # it was asked to end, before it could handle signals or after it had finished
        return code if code >= 0 else 128 - code  # as a shell reports a signal

    # --- Events ------------------------------------------------------------------------------------------------------

    def _seconds_to_wait(self) -> float | None:
        return None if self._web_due is None else max(0.0, self._web_due - time.monotonic())

    def _on_report(self, report: bytes) -> None:
        """The proxy half has prepared the database. Without a report, it has ended before that."""
        if not report:
            return
        self._web_due = time.monotonic()
        if port := int(report):
            self._listen_for_demo(port)

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGCHLD:
                self._on_web_end()
            elif number == signal.SIGHUP:
                self._proxy.send_signal(number)  # gunicorn replaces its workers gracefully
                if self._web is not None:
                    self._is_reloading = True
                    self._web.terminate()
            else:
                # The web half stays until the proxy half has ended, so that pages work until then.
                self._is_stopping = True
                self._proxy.send_signal(number)

    def _on_web_end(self) -> None:
        """Start the web half again if it has ended."""
        if self._web is None or self._is_stopping or (code := self._web.poll()) is None:
            return
        self._web = None
        if self._is_reloading:
            self._pause = 0.0
        elif code == EX_CONFIG and self._web_starts == 1:
            self._exit_code = code  # it has said why
            self._is_stopping = True
            self._proxy.terminate()
            return
        else:
            failed_again = time.monotonic() - self._web_started_at < STABLE_SECONDS
            self._pause = min(max(FIRST_PAUSE_SECONDS, self._pause * 2 if failed_again else 0), MAX_PAUSE_SECONDS)
            self._say(f"The web half ended with code {code}. It starts again in {self._pause:g} seconds.")
        self._is_reloading = False
        self._web_due = time.monotonic() + self._pause

    def _say(self, text: str) -> None:
        log_lines.say(text, name=__name__, environment=self._web_environment)

    # --- Children ----------------------------------------------------------------------------------------------------

    def _start_half(
        self, half: str, environment: dict[str, str], more: Sequence[str] = (), descriptors: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  (our own command line)
            [sys.executable, "manage.py", "serve", f"--only={half}", *more, *self._arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )

    def _start_web_if_due(self) -> None:
        if self._web_due is None or self._is_stopping or time.monotonic() < self._web_due:
            return
        self._web_due = None
        self._web_starts += 1
        self._web_started_at = time.monotonic()
        self._web = self._start_half("web", self._web_environment)

    def _listen_for_demo(self, port: int) -> None:
        try:
            self._demo_listener = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            advice = (
                "To choose another port, delete the file demo-port in the data folder and create your demo endpoints "
                "again, unless another Strake runs with this folder."
            )
            is_taken = error.errno == errno.EADDRINUSE
            self._say(
                f"The demo provider is not running: 127.0.0.1:{port} cannot be listened on ({error.strerror})."
                f"{f' {advice}' if is_taken else ''}"
            )

    def _start_demo(self, listener: socket.socket) -> None:
        """Start the demo provider at its first connection, since most people never need its memory."""
        self._demo = subprocess.Popen(  # noqa: S603  (a fixed command line)
            [sys.executable, "-m", "strake.demo_provider", str(listener.fileno())],
            stdin=subprocess.PIPE,
            cwd=ROOT,
            pass_fds=[listener.fileno()],
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        listener.close()
        self._demo_listener = None

    def _stop_others(self) -> None:
        """End the web half and the demo provider, after the proxy half."""
        if self._demo_listener is not None:
            self._demo_listener.close()
        if self._demo is not None and self._demo.stdin is not None:
            self._demo.stdin.close()  # it ends by itself
        if self._web is not None:
            self._web.terminate()
            try:
                self._web.wait(WEB_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._web.kill()
                self._web.wait()
        if self._demo is not None:
            self._demo.wait(10)


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Receive `_SIGNALS` as bytes from a socket, so that one loop waits for everything."""
    receiver, sender = socket.socketpair()
    receiver.setblocking(False)
    sender.setblocking(False)
    before = signal.set_wakeup_fd(sender.fileno())
    handlers = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    try:
        yield receiver
    finally:
        for number, handler in handlers.items():
            # The process ends now. A second signal, at the default, would change its exit code.
            signal.signal(number, handler if number == signal.SIGCHLD else signal.SIG_IGN)
        signal.set_wakeup_fd(before)
        receiver.close()
        sender.close()


def _cannot_execute() -> str:
    """Why it happens: `setpriv` gives up the rights of root only after it has found the interpreter."""
    python, target = sys.executable, os.path.realpath(sys.executable)
    return escape_unsafe(
        f"strake: This user cannot execute {python}{f', which is {target}' if target != python else ''}. Make the "
        "folder .venv with a Python that every user can execute: /usr/bin/python3 -m venv --clear .venv"
    )


def _passed_descriptors(environment: Mapping[str, str]) -> Sequence[int]:
    """The sockets of systemd, as in listen.py, whose imports are too many. The proxy half reports a wrong number."""
    number = environment.get("LISTEN_FDS", "").strip()
    is_for_us = environment.get("LISTEN_PID", "").strip() == str(os.getpid())
    return range(3, 3 + int(number)) if is_for_us and number.isdecimal() and len(number) < 3 else ()
