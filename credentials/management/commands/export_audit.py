"""`manage.py export_audit`: write the audit log with its hash chain to a file, a pipe or a receiver."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import Error as DatabaseError
from django.db import close_old_connections

from accounts import audit_export
from accounts.commands import OperatorCommand
from credentials.audit_receivers import FORMS, NotDelivered, Receiver, Stream, UnknownReceiver, receiver_of

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
MAX_PAUSE_SECONDS = 60.0


class Command(OperatorCommand):
    help = (
        "Write the audit log as lines of JSON with the hash chain, which verify_audit checks: to standard output, to a "
        "file, or to a receiver. Every event is delivered at least once. Exit code 0, 1 if events were not delivered "
        "and --follow is not set, or 2 if the database holds events that are not in the chain."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--since", type=int, metavar="SEQ", help="only events after this number")
        parser.add_argument("--follow", action="store_true", help="wait for further events, and try again if need be")
        to = parser.add_mutually_exclusive_group()
        to.add_argument("--file", metavar="PATH", help="append to a file")
        to.add_argument("--to", metavar="URL", help=FORMS)
        parser.add_argument("--position", metavar="PATH", help="keep the last delivered number here, and go on from it")
        parser.add_argument("--authorization-file", metavar="PATH", help="the header for an HTTPS receiver")

    def handle(self, *args: Any, since: int | None, follow: bool, position: str | None, **options: Any) -> None:
        kept = _Position(Path(position)) if position else None
        start = since if since is not None else kept.read() if kept else 0
        with ExitStack() as stack:
            receiver = self._receiver(stack, **options)
            try:
                self._export(receiver, start, kept, follow=follow)
            except NotDelivered as error:
                raise CommandError(str(error)) from None
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes standard output once more
                raise CommandError("The pipe was closed.") from None
            except KeyboardInterrupt:
                return
        if unchained := audit_export.unchained():
            numbers = ", ".join(map(str, unchained))
            raise CommandError(
                f"The database holds events that are not in the chain, so somebody wrote to it: rows {numbers} of "
                "accounts_auditevent.",
                returncode=2,
            )

    def _receiver(
        self, stack: ExitStack, *, file: str | None, to: str | None, authorization_file: str | None, **_: Any
    ) -> Receiver:
        try:
            if to:
                secret = Path(authorization_file).read_text(encoding="ascii").strip() if authorization_file else ""
                receiver = receiver_of(to, secret)
                stack.callback(receiver.close)
                return receiver
            if file:
                return Stream(stack.enter_context(Path(file).open("a", encoding="utf-8")), is_file=True)
        except UnknownReceiver as error:
            raise CommandError(str(error), returncode=2) from None
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"A file cannot be used: {error}") from None
        return Stream(self.stdout)  # type: ignore[arg-type]  # it has the methods of a stream

    def _export(self, receiver: Receiver, sequence: int, kept: _Position | None, *, follow: bool) -> None:
        pause = POLL_SECONDS
        while True:
            try:
                for batch in _batches(sequence):
                    receiver.deliver(batch)
                    sequence = batch[-1]["sequence"]
                    pause = POLL_SECONDS
                    if kept:
                        kept.write(sequence)
            except (NotDelivered, DatabaseError) as error:
                if not follow:
                    raise
                reason = error if isinstance(error, NotDelivered) else "The database does not respond."
                logger.warning("audit_not_delivered %s Trying again in %.0f seconds.", reason, pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
            if not follow:
                return
            close_old_connections()
            time.sleep(pause)


class _Position:
    """A file with the number of the last event that was delivered."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> int:
        try:
            return int(self._path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0
        except (OSError, ValueError):
            raise CommandError(f"{self._path} holds no number of an event. Pass --since SEQ.") from None

    def write(self, sequence: int) -> None:
        draft = self._path.with_name(f".{self._path.name}.new")
        with draft.open("w", encoding="ascii") as file:
            file.write(f"{sequence}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)


def _batches(sequence: int) -> Iterator[list[dict[str, Any]]]:
    events = audit_export.events_after(sequence)
    while batch := list(itertools.islice(events, audit_export.BATCH)):
        yield batch
