"""Signs checkpoints of the audit log: every hour in one proxy process of all, or with `manage.py checkpoint_audit`.

Before it signs, it recomputes every link since the last checkpoint. So whoever can write the database, but not read the
signing key, gets no signature under a chain that contradicts a stored checkpoint, or one that this process has seen.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.db import Error as DatabaseError
from django.db import connections, transaction
from django.utils import timezone

from accounts import audit_chain
from accounts.audit_chain import Checkpoint, NotACheckpoint
from accounts.models import AuditCheckpoint, AuditLink
from accounts.transactions import advisory_lock
from proxy import audit_key
from proxy.audit_key import AuditKey, AuditKeyError

logger = logging.getLogger(__name__)

INTERVAL = timedelta(hours=1)
POLL_SECONDS = 300.0  # how often a process looks whether a checkpoint is due
FIRST_SECONDS = 10.0
_BATCH = 500
_PAUSE_SECONDS = 0.05  # after a batch, since forwarding shares the interpreter
_seen: dict[str, Checkpoint] = {}  # the longest one by key, in case they disappear from the database


class ChainBroken(Exception):
    """The chain does not continue the last checkpoint. Nothing has been signed. The message names the event."""


def sign(*, only_if_due: bool = False, pause: float = 0.0) -> AuditCheckpoint | None:
    """Sign a checkpoint of all events committed so far. Returns None if `only_if_due` and none is due.

    Sleeps for `pause` seconds after each batch of links. Raises `AuditKeyError` or `ChainBroken`.
    """
    if only_if_due and not is_due():
        return None
    key = audit_key.load()
    verified = _verify(_trusted(key), pause)  # most links, without holding the lock
    with transaction.atomic():
        advisory_lock("audit checkpoint")
        if only_if_due and not is_due():
            return None
        size, last_hash = _verify(verified)
        checkpoint = Checkpoint(key.public.name, size, last_hash, audit_chain.timestamp(timezone.now()))
        note = audit_chain.write_note(checkpoint, key.public, key.private.sign)
        transaction.on_commit(lambda: _seen.update({str(key.public): checkpoint}))
        return AuditCheckpoint.objects.create(size=size, note=note, key=str(key.public))


def is_due() -> bool:
    """Return whether the newest checkpoint is an hour old, or there is none."""
    newest = AuditCheckpoint.objects.order_by("-id").values_list("created_at", flat=True).first()
    return newest is None or newest < timezone.now() - INTERVAL


def look() -> None:
    """Remember the newest checkpoint, in case somebody removes it. Raises as `sign` does."""
    _trusted(audit_key.load())


def _trusted(key: AuditKey) -> tuple[int, str]:
    """Return size and hash of the longest checkpoint that this key signed. Raises `ChainBroken`."""
    name = str(key.public)
    # Not the newest, which may be a copy of an earlier one.
    recorded = AuditCheckpoint.objects.filter(key=name).order_by("-size", "-id").first()
    known = [_seen[name]] if name in _seen else []
    if recorded is not None:
        try:
            checkpoint = audit_chain.read_note(recorded.note, key.public, _verifier(key))
        except NotACheckpoint as error:
            raise ChainBroken(f"The longest checkpoint in the database has been changed: {error}") from None
        if checkpoint.size != recorded.size:
            raise ChainBroken("The longest checkpoint in the database has been changed: it counts other events.")
        known.append(checkpoint)
    for checkpoint in known:
        if checkpoint.size:
            stored = AuditLink.objects.filter(sequence=checkpoint.size).values_list("hash", flat=True).first()
            if stored != checkpoint.hash:
                what = "is missing" if stored is None else "has another hash"
                raise ChainBroken(f"Event {checkpoint.size} {what}, unlike in the checkpoint of {checkpoint.at}.")
    longest = max(known, key=lambda checkpoint: checkpoint.size, default=None)
    if longest is None or not longest.size:
        return 0, audit_chain.GENESIS
    _seen[name] = longest
    return longest.size, longest.hash


def _verifier(key: AuditKey) -> audit_chain.Verify:
    public = Ed25519PublicKey.from_public_bytes(key.public.public_key)

    def verify(signature: bytes, text: bytes) -> bool:
        try:
            public.verify(signature, text)
        except InvalidSignature:
            return False
        return True

    return verify


def _verify(start: tuple[int, str], pause: float = 0.0) -> tuple[int, str]:
    """Recompute the links after `start`. Returns the number and the hash of the last one. Raises `ChainBroken`."""
    sequence, previous_hash = start
    while links := list(AuditLink.objects.filter(sequence__gt=sequence).order_by("sequence")[:_BATCH]):
        for link in links:
            sequence += 1
            computed = audit_chain.link_hash(
                sequence=sequence,
                at=audit_chain.timestamp(link.at),
                content_hash=link.content_hash,
                previous_hash=previous_hash,
            )
            if link.sequence != sequence or link.hash != computed:
                raise ChainBroken(f"Event {sequence} is missing, or it has been changed.")
            previous_hash = computed
        time.sleep(pause)
    return sequence, previous_hash


# --- The thread ----------------------------------------------------------------------------------------------------


def start() -> None:
    """Sign every hour from now on. A process may end at any time."""
    threading.Thread(target=_run, name="audit-checkpoints", daemon=True).start()


def _run() -> None:
    waiting = threading.Event()
    seconds = FIRST_SECONDS
    reported = ""  # each message about the key once
    while not waiting.wait(seconds):
        seconds = POLL_SECONDS
        try:
            if sign(only_if_due=True, pause=_PAUSE_SECONDS) is None:
                look()
        except ChainBroken as error:
            logger.log(logging.ERROR, "audit_chain_broken %s Nothing has been signed.", error)
        except AuditKeyError as error:
            if str(error) != reported:
                reported = str(error)
                logger.warning("audit_checkpoint_not_signed %s", reported)
        except (DatabaseError, OSError) as error:  # an outage, which passes; the message may hold an address
            logger.warning("audit_checkpoint_failed kind=%s", type(error).__name__)
        finally:
            connections.close_all()
