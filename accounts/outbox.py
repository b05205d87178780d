"""The outbox: emails and webhook messages that wait in the database until they are sent, so that a restart loses none.

`submit` inserts a row, which takes the same time for every email. Each web process has a thread for each lane that
sends due rows, at least once each, so that a slow webhook delays no email. A row holds no link and no token: its kind
makes them when it composes the message. Below, "email" means both.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from django.conf import settings
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
MAIL, BACKGROUND = "mail", "background"  # the lanes
# An attempt that takes longer is made twice if there are several processes. If its process dies, it is made again then.
LEASE_SECONDS = 120
POLL_SECONDS = 1.0
_EXIT_SECONDS = 5.0


class Message(Protocol):
    """What a kind composes, such as Django's `EmailMessage`. `send` raises if it was not taken."""

    def send(self, fail_silently: bool = False) -> Any: ...


def _ignore(mail: OutboxMail, failure: Exception | None) -> None:
    """For kinds that need not know how an attempt went."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of email.

    `compose` runs before every attempt, outside of transactions. It returns the email, or None if none is to be sent.
    `note` runs after every attempt, with what it raised. `give_up` runs once if every attempt failed. At most
    `max_waiting` emails to one address wait. In the lane of emails, those that are not `urgent` are sent last.
    """

    name: str
    compose: Callable[[OutboxMail], Message | None]
    give_up: Callable[[OutboxMail], None]
    note: Callable[[OutboxMail, Exception | None], None] = _ignore
    retry_seconds: tuple[int, ...] = RETRY_SECONDS
    max_age: timedelta = MAX_AGE
    max_waiting: int = MAX_PER_EMAIL
    lane: str = MAIL
    urgent: bool = True


_kinds: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Let this process send emails of a kind. Call it when the app is ready, since rows may outlive a process."""
    _kinds[kind.name] = kind


def registered(name: str) -> Kind:
    """The kind of this name."""
    return _kinds[name]


def max_age() -> timedelta:
    """The longest time that anything may wait."""
    return max(kind.max_age for kind in _kinds.values())


# --- Submitting ----------------------------------------------------------------------------------------------------


def submit(kind: Kind, email: str, details: dict[str, Any], *, network: str = "") -> bool:
    """Queue an email to `email` that a client in `network` has caused, with the same work for every address.

    `details` is what the kind composes it from, as JSON and without secrets. Returns False if the email was dropped:
    too many to this address wait, or too many to strangers and most of them because of this network.
    """
    same_email = Q(email=email)
    queued = OutboxMail.objects.aggregate(
        same=Count("pk", filter=same_email & Q(kind=kind.name)),
        before=Count("pk", filter=same_email | Q(details__network=network)),
        strangers=Count("pk", filter=~_to_people()),
    )
    if queued["same"] >= kind.max_waiting:
        return False
    own = OutboxMail.objects.create(
        kind=kind.name, email=email, details={**details, "network": network, "turn": queued["before"]}
    )
    # Not counted again with the new one, which would tell whether it is to a stranger.
    is_dropped = queued["strangers"] >= CAPACITY and _drop_one() == own.pk
    transaction.on_commit(start)
    return not is_dropped


def submit_all(kind: Kind, emails: Iterable[tuple[str, dict[str, Any]]]) -> int:
    """Queue emails to people, each with its details. Returns how many were dropped: too many wait for their person."""
    of_kind = OutboxMail.objects.filter(kind=kind.name)
    waiting = Counter(dict(of_kind.values_list("email").annotate(count=Count("pk"))))
    rows, dropped = [], 0
    for email, details in emails:
        if waiting[email] >= kind.max_waiting:
            dropped += 1
            continue
        rows.append(OutboxMail(kind=kind.name, email=email, details={**details, "network": "", "turn": waiting[email]}))
        waiting[email] += 1
    OutboxMail.objects.bulk_create(rows, batch_size=500)
    if rows and kind.lane == MAIL:
        transaction.on_commit(start)
    return dropped


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


def waiting(lane: str = "") -> int:
    """The number of emails in the outbox, or of those in one lane, for all processes."""
    rows = OutboxMail.objects.all()
    return (rows.filter(kind__in=_names(lane)) if lane else rows).count()


# --- Sending -------------------------------------------------------------------------------------------------------


def run_due(lane: str = MAIL) -> None:
    """Send all due emails of a lane in the calling thread."""
    while run_one(lane):
        pass


def run_one(lane: str = MAIL) -> bool:
    """Send the next due email of a lane. Returns False if there was none."""
    mail = _claim(lane)
    if mail is not None:
        _attempt(mail)
    return mail is not None


def has_due(lane: str = MAIL) -> bool:
    """Return whether an email of a lane is due now. Only reads."""
    return _due(lane).exists()


def _names(lane: str, *, urgent: bool = False) -> list[str]:
    return [kind.name for kind in _kinds.values() if kind.lane == lane and (kind.urgent or not urgent)]


def _due(lane: str) -> QuerySet[OutboxMail]:
    """The emails to send now: to staff first, then to people, then to strangers. Networks and addresses take turns.

    What is not urgent comes after all of that.
    """
    due = OutboxMail.objects.filter(kind__in=_names(lane), due_at__lte=Now())
    urgency = Case(When(kind__in=_names(lane, urgent=True), then=0), default=1)
    standing = Case(When(_to_people(is_staff=True), then=0), When(_to_people(), then=1), default=2)
    return due.order_by(urgency, standing, "details__turn", "due_at", "pk")


def _claim(lane: str = MAIL) -> OutboxMail | None:
    """Take the next email, so that no other process sends it before the lease ends."""
    if not has_due(lane):  # before the transaction, which on SQLite takes the write lock
        return None
    with transaction.atomic():
        # SQLite has no row locks and needs none: its transactions take the only write lock when they begin.
        mail = _due(lane).select_for_update(skip_locked=True).first()
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
    if (
        mail.attempts > len(kind.retry_seconds) + 1
        or _claimed(mail).filter(created_at__lt=Now() - kind.max_age).exists()
    ):
        # The processes that claimed it have died, or none was running.
        _give_up(kind, mail, "took too long")
        return
    failure = _try(kind, mail)
    if failure is None:
        _claimed(mail).delete()
        return
    # Only the type: error messages of mail servers contain email addresses.
    reason = f"failed with {type(failure).__name__}"
    if mail.attempts > len(kind.retry_seconds):
        _give_up(kind, mail, reason)
    else:
        logger.warning("%s email %s on attempt %d and will be retried", kind.name, reason, mail.attempts)
        _claimed(mail).update(due_at=_seconds_from_now(kind.retry_seconds[mail.attempts - 1]))
    kind.note(mail, failure)


def _try(kind: Kind, mail: OutboxMail) -> Exception | None:
    """Compose an email and send it if one is due. Returns what went wrong."""
    try:
        message = kind.compose(mail)
        # Asked for every email, as `compose` does the same work for each.
        is_suspended = User.objects.filter(email=mail.email, suspended_at__isnull=False).exists()
        if message is None or is_suspended:
            return None
        with without_connection():
            message.send(fail_silently=False)
        kind.note(mail, None)
    except Exception as error:  # noqa: BLE001  (a failing email must not end the thread)
        return error
    return None


def _give_up(kind: Kind, mail: OutboxMail, reason: str) -> None:
    logger.error("%s email %s and was given up", kind.name, reason)
    with transaction.atomic():
        deleted, _ = _claimed(mail).delete()
        if deleted:
            kind.give_up(mail)


# --- The thread ----------------------------------------------------------------------------------------------------


class Sender:
    """A thread that sends what is due: at once if this process submits it, else within `POLL_SECONDS`.

    `work` is what it does each time, by default to send the emails that are due.
    """

    def __init__(self, work: Callable[[], None] | None = None, name: str = "strake-outbox") -> None:
        self._work = work or (lambda: run_due())
        self._name = name
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
                self._thread = threading.Thread(target=self._run, args=(self._stopping,), name=self._name, daemon=True)
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
            self._work()
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
