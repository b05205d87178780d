"""Running a program as if the shell had started it, and doing something when it ends, however it ends.

The program stays in the process group of this command line, so the terminal's signals reach it and it may read the
keyboard. This process passes on what only it gets, stops when the program stops, and ends as the program ended.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from strake_cli.errors import CannotRun

_PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
_WAITED_FOR = _PASSED_ON | {signal.SIGCHLD}
_FROM_A_PROCESS = 0  # si_code SI_USER: kill(2). The terminal's signals have SI_KERNEL.


@contextlib.contextmanager
def held_signals() -> Iterator[set[signal.Signals]]:
    """Hold back every signal that `run` waits for, so that none ends this process before `run` takes over.

    Yields the mask from before, which the program gets.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whatever started this process may ignore it
    before = {signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)}
    try:
        yield before
    finally:
        while signal.sigpending() & _WAITED_FOR:
            signal.sigwait(_WAITED_FOR)  # they were for the program
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def interruption() -> int:
    """The signal that has arrived before the program was started and means to end, or 0."""
    return min(signal.sigpending() & {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}, default=0)


def run(command: Sequence[str], environment: Mapping[str, str], mask: set[signal.Signals]) -> int:
    """Run a program until it ends, within `held_signals`. Returns its exit code, or minus the signal that ended it.

    Raises `CannotRun`.
    """

    def unmask() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    try:
        process = subprocess.Popen(command, env=dict(environment), preexec_fn=unmask)
    except FileNotFoundError:
        raise CannotRun(f"There is no program {command[0]}.", 127) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "invalid argument"
        raise CannotRun(f"{command[0]} cannot be started: {reason}.", 126) from None
    while process.returncode is None:
        _handle(process)
    return process.returncode


def _handle(process: subprocess.Popen[bytes]) -> None:
    """Wait for one signal."""
    number, is_for_us = _next_signal()
    if number != signal.SIGCHLD:
        if is_for_us:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
        return
    pid, status = os.waitpid(process.pid, os.WNOHANG | os.WUNTRACED)
    if pid and os.WIFSTOPPED(status):
        os.kill(os.getpid(), signal.SIGSTOP)  # goes on when the shell continues the whole group
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
    elif pid:
        process.returncode = os.waitstatus_to_exitcode(status)


def _next_signal() -> tuple[int, bool]:
    """The next signal, and whether the program has not got it."""
    if hasattr(signal, "sigwaitinfo"):
        info = signal.sigwaitinfo(_WAITED_FOR)
        return info.si_signo, info.si_code <= _FROM_A_PROCESS
    number = signal.sigwait(_WAITED_FOR)  # macOS does not say who sent it
    at_terminal = sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    return number, not (at_terminal and number in {signal.SIGINT, signal.SIGQUIT})


def end_as(code: int) -> None:
    """End this process as a program ended: with its exit code, or by the same signal, as a shell expects."""
    if code >= 0:
        sys.exit(code)
    number = -code
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    sys.exit(128 + number)


class Watcher:
    """A process that does something if this one is killed: by SIGKILL, or for want of memory.

    It waits for the other end of a pipe, which only this process holds. `dismiss` ends it.
    """

    def __init__(self, act: Callable[[], None]) -> None:
        reader, self._writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._writer)
                self._watch(reader, act)
            finally:
                os._exit(0)
        os.close(reader)

    @staticmethod
    def _watch(reader: int, act: Callable[[], None]) -> None:
        os.setsid()  # the terminal's signals, and its end, are not for it
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        if not os.read(reader, 1):
            act()

    def dismiss(self) -> None:
        os.write(self._writer, b"x")
        os.close(self._writer)
        os.waitpid(self._pid, 0)
