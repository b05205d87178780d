"""Looks host names up in a bounded number of threads, with a share for each owner.

Names come from people, and a DNS server that never answers holds a thread for up to half a minute. The event loop's
resolver and a thread pool have a handful of threads for everybody, so two silent names would stop every new connection.

This calls `getaddrinfo`, and not a DNS library such as pycares: operators expect /etc/hosts, nsswitch.conf,
systemd-resolved and search domains to work as they do for every other program, and no more code parses answers of
hostile servers in the process that holds the keys. The price is a thread for each look-up in progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from queue import Empty, SimpleQueue
from time import monotonic

from credentials.shares import Shares

MAX_LOOK_UPS = 32
MAX_LOOK_UPS_PER_OWNER = 2
MAX_RESERVED_LOOK_UPS = 8
MAX_WAITING_PER_OWNER = 32
MAX_NAMES = 4096
FRESH_SECONDS = 10.0
FAILED_SECONDS = 3.0
# RFC 8767 §5: how long to wait for an answer if an old one is known, and how long an old one may be used.
LATE_SECONDS = 1.8
LAST_GOOD_SECONDS = 24 * 3600.0

Addresses = tuple[str, ...]
# The addresses of a name. None if it has none. An empty tuple if there was no answer.
Outcome = Addresses | None
Deliver = Callable[[Outcome], None]

_NO_SUCH_NAME = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)


class NotResolved(OSError):
    """A name has no address, or nobody answered in time. An `OSError`, like any other failure to connect."""


class TooManyLookUps(NotResolved):
    """The look-ups of this owner are held up by other names of the same owner, which do not answer."""


@dataclass(slots=True)
class _Known:
    """What is known of a name. Times are readings of `time.monotonic`."""

    addresses: Addresses = ()  # the last good ones
    found_at: float = 0.0
    outcome: Outcome = ()
    until: float = 0.0  # when to look the name up again

    def last_good(self, now: float) -> Addresses:
        """Return the addresses to use if there is no answer."""
        return self.addresses if self.outcome is not None and now < self.found_at + LAST_GOOD_SECONDS else ()


@dataclass(slots=True, eq=False)
class _LookUp:
    host: str
    is_reserved: bool
    begun_at: float
    queued_by: set[Hashable] = field(default_factory=set)
    has_started: bool = False
    listeners: set[Deliver] = field(default_factory=set)


class Resolver:
    """Looks names up for one process. Thread-safe.

    Each owner has `MAX_LOOK_UPS_PER_OWNER` look-ups in progress, and more wait for their turn. The names in `reserved`
    have threads of their own and count for nobody, so no owner's names delay them. Look-ups of one name are joined.

    Answers are used for `fresh_seconds`, by default `FRESH_SECONDS`. If a look-up fails or is late, the last good
    addresses are used: the egress policy checks those like any others. A silent look-up goes on in its thread, and
    counts until it ends.
    """

    def __init__(self, *, reserved: Iterable[str] = (), fresh_seconds: float | None = None) -> None:
        self._reserved = frozenset(reserved)
        self._fresh_seconds = FRESH_SECONDS if fresh_seconds is None else fresh_seconds
        self._lock = threading.Lock()
        self._shares = Shares[_LookUp](total=MAX_LOOK_UPS, per_owner=MAX_LOOK_UPS_PER_OWNER)
        self._reserved_shares = Shares[_LookUp](total=MAX_RESERVED_LOOK_UPS, per_owner=MAX_RESERVED_LOOK_UPS)
        self._in_progress: dict[str, _LookUp] = {}
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._known_reserved: OrderedDict[str, _Known] = OrderedDict()

    def resolve(self, host: str, owner_id: Hashable, *, seconds: float) -> Addresses:
        """Return the addresses of a name, at least one. Blocks for up to `seconds`.

        `owner_id` is the person whose share counts, or None for an operator's command. Raises `TooManyLookUps`, or
        `NotResolved` for any other failure.
        """
        if (known := self._answer(host)) is not None:
            return known
        mailbox: SimpleQueue[Outcome] = SimpleQueue()
        with self._listening(host, owner_id, mailbox.put) as (look_up, last_good):
            if look_up is None:
                return last_good
            try:
                outcome = mailbox.get(timeout=self._patience(look_up, last_good, seconds))
            except Empty:
                return self._late(look_up, last_good)
        return self._usable(outcome, last_good)

    async def aresolve(self, host: str, owner_id: Hashable, *, seconds: float) -> Addresses:
        """Like `resolve`, on the event loop."""
        if (known := self._answer(host)) is not None:
            return known
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Outcome] = loop.create_future()

        def deliver(outcome: Outcome) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(_set_result, waiter, outcome)

        with self._listening(host, owner_id, deliver) as (look_up, last_good):
            if look_up is None:
                return last_good
            try:
                outcome = await asyncio.wait_for(waiter, self._patience(look_up, last_good, seconds))
            except TimeoutError:
                return self._late(look_up, last_good)
        return self._usable(outcome, last_good)

    # --- What is known -----------------------------------------------------------------------------------------------

    def _answer(self, host: str) -> Addresses | None:
        """Return addresses that need no look-up, or None. Raises `NotResolved` if a look-up has just failed."""
        try:
            return (str(ipaddress.ip_address(host)),)
        except ValueError:
            pass
        now = monotonic()
        with self._lock:
            known = self._names(host).get(host)
            if known is None or known.until <= now:
                return None
            addresses = known.outcome or known.last_good(now)
        if not addresses:
            raise NotResolved("the name has just been looked up without success")
        return addresses

    def _last_good(self, host: str) -> Addresses:
        known = self._names(host).get(host)
        return () if known is None else known.last_good(monotonic())

    def _patience(self, look_up: _LookUp, last_good: Addresses, seconds: float) -> float:
        """Return how long to wait. With a last good address, only until an answer is late."""
        if not last_good:
            return seconds
        with self._lock:
            known = self._names(look_up.host).get(look_up.host)
            if known is not None and not known.outcome:
                return 0.0  # the DNS server has not been answering lately
        return min(seconds, max(0.0, look_up.begun_at + LATE_SECONDS - monotonic()))

    @staticmethod
    def _late(look_up: _LookUp, last_good: Addresses) -> Addresses:
        if last_good:
            return last_good
        if not look_up.has_started:
            raise TooManyLookUps("other names of the same owner do not answer")
        raise NotResolved("no answer in time")

    @staticmethod
    def _usable(outcome: Outcome, last_good: Addresses) -> Addresses:
        addresses = outcome or (last_good if outcome is not None else ())
        if not addresses:
            raise NotResolved("the name has no address" if outcome is None else "no answer")
        return addresses

    def _names(self, host: str) -> OrderedDict[str, _Known]:
        return self._known_reserved if host in self._reserved else self._known

    def _remember(self, look_up: _LookUp, outcome: Outcome) -> None:
        names, now = self._names(look_up.host), monotonic()
        known = names.setdefault(look_up.host, _Known())
        names.move_to_end(look_up.host)
        known.outcome = outcome
        known.until = now + (self._fresh_seconds if outcome else FAILED_SECONDS)
        if outcome:
            known.addresses, known.found_at = outcome, now
        while len(names) > MAX_NAMES:
            names.popitem(last=False)

    # --- Look-ups in progress ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _listening(self, host: str, owner_id: Hashable, deliver: Deliver) -> Iterator[tuple[_LookUp | None, Addresses]]:
        """Begin or join the look-up of a name, and yield it with the last good addresses.

        Yields no look-up if the owner has too many, but there are last good addresses. Raises `TooManyLookUps`.
        """
        with self._lock:
            last_good = self._last_good(host)
            look_up = self._join(host, owner_id, deliver)
            if look_up is None and not last_good:
                raise TooManyLookUps("other names of the same owner do not answer")
        try:
            yield look_up, last_good
        finally:
            if look_up is not None:
                with self._lock:
                    self._leave(look_up, deliver)

    def _join(self, host: str, owner_id: Hashable, deliver: Deliver) -> _LookUp | None:
        """Return the look-up of a name, in progress or new. Returns None if the owner has too many that wait."""
        look_up = self._in_progress.get(host)
        if look_up is not None and (look_up.has_started or owner_id in look_up.queued_by):
            look_up.listeners.add(deliver)
            return look_up
        shares = self._reserved_shares if host in self._reserved else self._shares
        if shares.waiting(owner_id) >= MAX_WAITING_PER_OWNER:
            return None
        if look_up is None:
            look_up = self._in_progress[host] = _LookUp(host, host in self._reserved, monotonic())
        # It may wait in the queue of another owner already, whose share is used up.
        look_up.queued_by.add(owner_id)
        look_up.listeners.add(deliver)
        shares.add(owner_id, look_up)
        self._start_next(shares)
        return look_up

    def _leave(self, look_up: _LookUp, deliver: Deliver) -> None:
        """Stop waiting. A look-up that nobody waits for, and that has not started, ends."""
        look_up.listeners.discard(deliver)
        if look_up.listeners or look_up.has_started:
            return
        shares = self._reserved_shares if look_up.is_reserved else self._shares
        for owner_id in look_up.queued_by:
            shares.remove(owner_id, look_up)
        if self._in_progress.get(look_up.host) is look_up:
            del self._in_progress[look_up.host]

    def _start_next(self, shares: Shares[_LookUp]) -> None:
        while (taken := shares.next()) is not None:
            owner_id, look_up = taken
            for other in look_up.queued_by - {owner_id}:
                shares.remove(other, look_up)
            look_up.has_started = True
            thread = threading.Thread(
                target=self._run, args=(look_up, owner_id, shares), name="strake-resolver", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the system allows no more threads
                self._finish(look_up, owner_id, shares, ())

    def _run(self, look_up: _LookUp, owner_id: Hashable, shares: Shares[_LookUp]) -> None:
        outcome: Outcome = ()
        try:
            outcome = _getaddrinfo(look_up.host)
        finally:
            with self._lock:
                self._finish(look_up, owner_id, shares, outcome)
                self._start_next(shares)

    def _finish(self, look_up: _LookUp, owner_id: Hashable, shares: Shares[_LookUp], outcome: Outcome) -> None:
        shares.free(owner_id)
        del self._in_progress[look_up.host]
        self._remember(look_up, outcome)
        for deliver in look_up.listeners:
            deliver(outcome)


def _getaddrinfo(host: str) -> Outcome:
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return None if error.errno in _NO_SUCH_NAME else ()
    except OSError:
        return ()
    except ValueError:  # UnicodeError is one: no DNS server knows such a name
        return None
    return tuple(dict.fromkeys(str(info[4][0]).partition("%")[0] for info in infos)) or None


def _set_result(waiter: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not waiter.done():
        waiter.set_result(outcome)


@cache
def shared() -> Resolver:
    """The resolver of pages and commands, for the checks of destinations and keys. Every answer is used once."""
    return Resolver(fresh_seconds=0.0)


os.register_at_fork(after_in_child=shared.cache_clear)  # threads do not survive a fork
