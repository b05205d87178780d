"""The outbox: emails that wait in the database until a thread sends them, so that a restart loses none.

`submit` inserts a row, which takes the same time for every email. Each web process has a thread that sends due rows, at
least once each. A row holds no link and no token: its kind makes them when it composes the email.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import connection, connections, transaction
from django.db.models import Case, Count, Exists, OuterRef, Q, QuerySet, When
from django.db.models.expressions import Combinable
from django.db.models.functions import Now

from accounts.models import OutboxMail, User
from accounts.transactions import without_connection

logger = logging.getLogger(__name__)

CAPACITY = 1000  # of emails to addresses without an account
MAX_PER_EMAIL = 10
RETRY_SECONDS = (2, 10, 60, 300)
# Older emails are not sent: nobody waits for a sign-in link any more.
MAX_AGE = timedelta(minutes=15, seconds=sum(RETRY_SECONDS))
# An attempt that takes longer is made twice if there are several processes. If its process dies, it is made again then.
LEASE_SECONDS = 120
POLL_SECONDS = 1.0
_EXIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of email.

    `compose` runs before every attempt, outside of transactions. It returns the email, or None if none is to be sent.
    `give_up` runs once if every attempt failed.
    """

    name: str
    compose: Callable[[OutboxMail], EmailMessage | None]
    give_up: Callable[[OutboxMail], None]


_kinds: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Let this process send emails of a kind. Call it when the app is ready, since rows may outlive a process."""
    _kinds[kind.name] = kind


# --- Submitting ----------------------------------------------------------------------------------------------------


def submit(kind: Kind, email: str, details: dict[str, Any], *, network: str = "") -> bool:
    """Queue an email to `email` that a client in `network` has caused, with the same work for every address.

    `details` is what the kind composes it from, as JSON and without secrets. Returns False if the email was dropped:
    too many to this address wait, or too many to strangers and most of them because of this network.
    """
    same_email = Q(email=email)
    queued = OutboxMail.objects.aggregate(
        same=Count("pk", filter=same_email),
        before=Count("pk", filter=same_email | Q(details__network=network)),
        strangers=Count("pk", filter=~_to_people()),
    )
    if queued["same"] >= MAX_PER_EMAIL:
        return False
    own = OutboxMail.objects.create(
        kind=kind.name, email=email, details={**details, "network": network, "turn": queued["before"]}
    )
    # Not counted again with the new one, which would tell whether it is to a stranger.
    is_dropped = queued["strangers"] >= CAPACITY and _drop_one() == own.pk
    transaction.on_commit(start)
    return not is_dropped


def _to_people(**fields: Any) -> Exists:
    """A condition: the email is to somebody with an account, with these `fields`."""
    return Exists(User.objects.filter(email=OuterRef("email"), **fields))


def _drop_one() -> int | None:
    """Delete the newest email to a stranger of the network that has caused most of them. Returns its primary key."""
    rows = OutboxMail.objects.filter(~_to_people(), attempts=0).order_by("pk").values_list("pk", "details")
    newest = {details.get("network"): pk for pk, details in rows}
    counts = Counter(details.get("network") for _, details in rows)
    if not counts:
        return None
    pk = newest[counts.most_common(1)[0][0]]
    OutboxMail.objects.filter(pk=pk).delete()
    logger.warning("the outbox is full, dropped an email to a stranger")
    return pk


def update(mail: OutboxMail, details: dict[str, Any]) -> None:
    """Store what a later attempt needs to know, in the transaction of the caller."""
    mail.details = mail.details | details
    _claimed(mail).update(details=mail.details)


def waiting() -> int:
    """The number of emails in the outbox, for all processes."""
    return OutboxMail.objects.count()


# --- Sending -------------------------------------------------------------------------------------------------------


def run_due() -> None:
    """Send all due emails in the calling thread."""
    while (mail := _claim()) is not None:
        _attempt(mail)


def has_due() -> bool:
    """Return whether an email is due now. Only reads."""
    return _due().exists()


def _due() -> QuerySet[OutboxMail]:
    """The emails to send now: to staff first, then to people, then to strangers. Networks and addresses take turns."""
    due = OutboxMail.objects.filter(kind__in=list(_kinds), due_at__lte=Now())
    standing = Case(When(_to_people(is_staff=True), then=0), When(_to_people(), then=1), default=2)
    return due.order_by(standing, "details__turn", "due_at", "pk")


def _claim() -> OutboxMail | None:
    """Take the next email, so that no other process sends it before the lease ends."""
    if not has_due():  # before the transaction, which on SQLite takes the write lock
        return None
    with transaction.atomic():
        # SQLite has no row locks and needs none: its transactions take the only write lock when they begin.
        mail = _due().select_for_update(skip_locked=True).first()
        if mail is not None:
            mail.attempts += 1
            OutboxMail.objects.filter(pk=mail.pk).update(
                attempts=mail.attempts, due_at=_seconds_from_now(LEASE_SECONDS)
            )
    return mail


def _claimed(mail: OutboxMail) -> QuerySet[OutboxMail]:
    """The row of a claimed email, or no row if the lease has ended and the email was claimed again."""
    return OutboxMail.objects.filter(pk=mail.pk, attempts=mail.attempts)


def _seconds_from_now(seconds: float) -> Combinable:
    return Now() + timedelta(seconds=seconds)


def _attempt(mail: OutboxMail) -> None:
    kind = _kinds[mail.kind]
    if mail.attempts > len(RETRY_SECONDS) + 1 or _claimed(mail).filter(created_at__lt=Now() - MAX_AGE).exists():
        # The processes that claimed it have died, or none was running.
        _give_up(kind, mail, "took too long")
        return
    try:
        message = kind.compose(mail)
        # Asked for every email, as `compose` does the same work for each.
        is_suspended = User.objects.filter(email=mail.email, suspended_at__isnull=False).exists()
        if message is not None and not is_suspended:
            with without_connection():
                message.send(fail_silently=False)
    except Exception as error:  # noqa: BLE001  (a failing email must not end the thread)
        # Only the type: error messages of mail servers contain email addresses.
        reason = f"failed with {type(error).__name__}"
        if mail.attempts > len(RETRY_SECONDS):
            _give_up(kind, mail, reason)
            return
        logger.warning("%s email %s on attempt %d and will be retried", kind.name, reason, mail.attempts)
        _claimed(mail).update(due_at=_seconds_from_now(RETRY_SECONDS[mail.attempts - 1]))
        return
    _claimed(mail).delete()


def _give_up(kind: Kind, mail: OutboxMail, reason: str) -> None:
    logger.error("%s email %s and was given up", kind.name, reason)
    with transaction.atomic():
        deleted, _ = _claimed(mail).delete()
        if deleted:
            kind.give_up(mail)


# --- The thread ----------------------------------------------------------------------------------------------------


class Sender:
    """A thread that sends what is due: at once if this process submits it, else within `POLL_SECONDS`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_failing = False

    def start(self) -> None:
        """Start the thread if it does not run, and let it look for due emails now."""
        with self._lock:
            # A thread does not survive a fork, so this may be the child of a process that had one.
            if self._thread is None or not self._thread.is_alive():
                self._stopping = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._stopping,), name="strake-outbox", daemon=True
                )
                self._thread.start()
                atexit.register(self.stop)
        self._wake.set()

    def stop(self, seconds: float = _EXIT_SECONDS) -> None:
        """Send what is due, for up to `seconds`, and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._stopping.set()
        self._wake.set()
        if thread is not None:
            thread.join(seconds)

    def _run(self, stopping: threading.Event) -> None:
        try:
            while True:
                self._wake.clear()
                is_last = stopping.is_set()
                self._send()
                if is_last:
                    return
                self._wake.wait(POLL_SECONDS)
        finally:
            connections.close_all()

    def _send(self) -> None:
        try:
            run_due()
            self._is_failing = False
        except Exception as error:  # noqa: BLE001  (the database may be down, and come back)
            if not self._is_failing:
                logger.warning("the outbox failed with %s and will be read again", type(error).__name__)
            self._is_failing = True
            connections.close_all()
        # PostgreSQL's connection goes back to the pool. SQLite's stays: opening it costs more than a look, and closing
        # the last connection to a database empties its write-ahead log.
        if connection.vendor != "sqlite":
            connection.close()


_sender = Sender()


def start() -> None:
    """Start this process's thread if it does not run, and wake it. A web process calls this after the fork.

    Other processes call it with their first email. The proxy half never sends email: it has no mail settings.
    """
    if settings.STRAKE_PROCESS != "proxy":
        _sender.start()


def stop(seconds: float = _EXIT_SECONDS) -> None:
    """Send what is due, for up to `seconds`, and end the thread. Runs at exit."""
    _sender.stop(seconds)
