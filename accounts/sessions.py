"""Sessions of signed-in people: starting, recognising, listing and ending them."""

from __future__ import annotations

import logging
from datetime import timedelta
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib import auth
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db import transaction
from django.db.models import F, QuerySet
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils import timezone

from accounts import audit, browsers
from accounts.audit import Actor
from accounts.errors import NotFound, StoreUnavailable
from accounts.models import BrowserSession, User
from accounts.stores import session_digest

logger = logging.getLogger(__name__)

LIFETIME = timedelta(days=30)
RECENT = timedelta(minutes=15)
TO_FILL_IN = timedelta(minutes=5)
_SEEN_EVERY = timedelta(minutes=1)
_SIGNED_IN_AT = "signed_in_at"


# --- Starting ------------------------------------------------------------------------------------------------------


def start(request: HttpRequest, user: User) -> None:
    """Sign `user` in, in a new session under a new key. What the browser had before is over.

    Saves at once, so that a store which does not answer raises `StoreUnavailable` here, inside the transaction.
    """
    _forget(BrowserSession.objects.filter(key_digest=_current_digest(request)))
    request.session.flush()
    auth.login(request, user, backend="accounts.backends.LinkBackend")
    request.session.save()


@receiver(user_logged_in)
def _remember(sender: object, request: HttpRequest, user: User, **_: Any) -> None:
    """Whoever signs somebody in, the session ends after 30 days, used or not, and stands in the list."""
    now = timezone.now()
    request.session.set_expiry(now + LIFETIME)
    request.session[_SIGNED_IN_AT] = now.timestamp()
    BrowserSession.objects.create(
        user=user,
        key_digest=_current_digest(request),
        browser=browsers.describe(request.headers.get("User-Agent", "")),
        ip=audit.request_ip(request),
        created_at=now,
        last_seen_at=now,
        expires_at=now + LIFETIME,
    )


# --- Recognising ---------------------------------------------------------------------------------------------------


def current_user(request: HttpRequest) -> User | AnonymousUser:
    """The person of the request's session. Nobody where the session was ended, here or anywhere else."""
    user = auth.get_user(request)
    if not isinstance(user, User):
        return AnonymousUser()
    now = timezone.now()
    row = BrowserSession.objects.filter(key_digest=_current_digest(request), user=user, expires_at__gt=now).first()
    if row is None:
        request.session.flush()
        return AnonymousUser()
    if row.last_seen_at < now - _SEEN_EVERY:
        BrowserSession.objects.filter(pk=row.pk).update(last_seen_at=now, ip=audit.request_ip(request))
    return user


def is_recent(request: HttpRequest) -> bool:
    """Whether the person proved to read their mail in the last 15 minutes.

    To open a form that needs it, in the last ten: so that what is typed then is not lost to another sign-in.
    """
    signed_in_at = request.session.get(_SIGNED_IN_AT, 0)
    age: float = timezone.now().timestamp() - signed_in_at
    most = RECENT - TO_FILL_IN if request.method in {"GET", "HEAD"} else RECENT
    return 0 <= age <= most.total_seconds()


def list_sessions(user: User) -> QuerySet[BrowserSession]:
    """Where `user` is signed in, last seen first."""
    return user.browser_sessions.filter(expires_at__gt=timezone.now()).order_by("-last_seen_at", "pk")


def current_session(request: HttpRequest) -> BrowserSession | None:
    """The request's own row in the list."""
    return BrowserSession.objects.filter(key_digest=_current_digest(request)).first()


# --- Ending --------------------------------------------------------------------------------------------------------


def sign_out(request: HttpRequest) -> None:
    """End the request's session, at once. Nothing happens to somebody who is not signed in."""
    auth.logout(request)


@receiver(user_logged_out)
def _forget_current(sender: object, request: HttpRequest, user: User | None, **_: Any) -> None:
    """Wherever somebody signs out, on the operators' pages too, the session leaves the list and the trail says so."""
    if isinstance(user, User):
        with transaction.atomic():
            _forget(BrowserSession.objects.filter(key_digest=_current_digest(request)))
            _audit(audit.actor_of(request), "session.signed_out", user)


def end_session(*, actor: Actor, session_id: str) -> None:
    """End one session of the actor's own. Raises `NotFound`."""
    with transaction.atomic():
        rows = BrowserSession.objects.filter(pk=session_id, user=actor.user)
        row = rows.select_related("user").first()
        if row is None:
            raise NotFound("There is no such session; it may have ended already.")
        _forget(rows)
        _audit(actor, "session.ended", row.user, row.browser)


def end_other_sessions(*, actor: Actor, keep: BrowserSession | None) -> int:
    """End every session of the actor but `keep`; returns how many ended."""
    if actor.user is None:
        raise TypeError("An operator has no sessions; use revoke_sessions.")
    with transaction.atomic():
        ended = _forget(BrowserSession.objects.filter(user=actor.user).exclude(pk=keep.pk if keep else None))
        _audit(actor, "session.others_ended", actor.user, f"{ended} sessions")
    return ended


def revoke_sessions(*, actor: Actor, user: User) -> int:
    """End every session of `user`, by raising their epoch: also those a store should bring back. Returns how many."""
    with transaction.atomic():
        User.objects.filter(pk=user.pk).update(session_epoch=F("session_epoch") + 1)
        ended = _forget(BrowserSession.objects.filter(user=user))
        _audit(actor, "session.all_revoked", user, f"{ended} sessions")
    user.refresh_from_db(fields=["session_epoch"])
    return ended


# --- Inside --------------------------------------------------------------------------------------------------------


def _current_digest(request: HttpRequest) -> str:
    return session_digest(request.session.session_key or "")


def _forget(rows: QuerySet[BrowserSession]) -> int:
    """Delete rows, which ends their sessions; the store is tidied once that is committed."""
    digests = list(rows.values_list("key_digest", flat=True))
    rows.delete()
    transaction.on_commit(lambda: _tidy(digests))
    return len(digests)


def _tidy(digests: list[str]) -> None:
    store = import_module(settings.SESSION_ENGINE).SessionStore
    try:
        for digest in digests:
            store.forget(digest)
    except StoreUnavailable:
        logger.warning("sessions ended while their store did not answer; it still holds their entries")


def _audit(actor: Actor, action: str, user: User, label: str = "") -> None:
    audit.record(
        actor, action, account=user, subject_type="user", subject_id=user.pk, subject_label=label or user.email
    )
