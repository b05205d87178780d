"""Sessions of signed-in people: starting, finding and ending them."""

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

from accounts import audit
from accounts.actors import Actor, Person
from accounts.errors import NotFound, SessionStoreUnavailable
from accounts.models import BrowserSession, User
from accounts.sessions.store import session_digest
from accounts.sign_in import user_agents

logger = logging.getLogger(__name__)

LIFETIME = timedelta(days=30)
RECENT_SIGN_IN = timedelta(minutes=15)
FORM_TIME = timedelta(minutes=5)
_LAST_SEEN_INTERVAL = timedelta(minutes=1)
_SIGNED_IN_AT = "signed_in_at"


# --- Starting ------------------------------------------------------------------------------------------------------


def start(request: HttpRequest, user: User) -> BrowserSession | None:
    """Sign `user` in with a new session and a new session key. Ends the browser's previous session.

    Saves immediately, so that an outage raises `SessionStoreUnavailable` here, inside the caller's transaction.
    """
    _delete_sessions(BrowserSession.objects.filter(key_digest=_current_digest(request)))
    request.session.flush()
    auth.login(request, user, backend="accounts.backends.LinkBackend")
    request.session.save()
    return current_session(request)


@receiver(user_logged_in)
def _on_logged_in(sender: object, request: HttpRequest, user: User, **_: Any) -> None:
    """Set the absolute lifetime and create the session's row, whatever code signs the user in."""
    now = timezone.now()
    request.session.set_expiry(now + LIFETIME)
    request.session[_SIGNED_IN_AT] = now.timestamp()
    BrowserSession.objects.create(
        user=user,
        key_digest=_current_digest(request),
        browser=user_agents.describe(request.headers.get("User-Agent", "")),
        ip=audit.request_ip(request),
        created_at=now,
        last_seen_at=now,
        expires_at=now + LIFETIME,
    )


# --- Finding -------------------------------------------------------------------------------------------------------


def current_user(request: HttpRequest) -> User | AnonymousUser:
    """Return the user of the request's session, or `AnonymousUser` if the session has ended or has no row."""
    user = auth.get_user(request)
    if not isinstance(user, User):
        return AnonymousUser()
    if user.suspended_at is not None:
        request.session.flush()
        return AnonymousUser()
    now = timezone.now()
    row = BrowserSession.objects.live().filter(key_digest=_current_digest(request), user=user).first()
    if row is None:
        request.session.flush()
        return AnonymousUser()
    if row.last_seen_at < now - _LAST_SEEN_INTERVAL:
        BrowserSession.objects.filter(pk=row.pk).update(last_seen_at=now, ip=audit.request_ip(request))
    request.META[audit.SESSION_KEY] = row
    return user


def is_recent(request: HttpRequest) -> bool:
    """Return whether the person signed in within the last 15 minutes.

    GETs require a sign-in within the last 10 minutes, so that the form can still be submitted within 15.
    """
    signed_in_at = request.session.get(_SIGNED_IN_AT, 0)
    age: float = timezone.now().timestamp() - signed_in_at
    max_age = RECENT_SIGN_IN - FORM_TIME if request.method in {"GET", "HEAD"} else RECENT_SIGN_IN
    return 0 <= age <= max_age.total_seconds()


def list_sessions(user: User) -> QuerySet[BrowserSession]:
    """The sessions of `user`, last seen first."""
    return BrowserSession.objects.live().filter(user=user).order_by("-last_seen_at", "pk")


def current_session(request: HttpRequest) -> BrowserSession | None:
    """The row of the request's session."""
    return BrowserSession.objects.filter(key_digest=_current_digest(request)).first()


# --- Ending --------------------------------------------------------------------------------------------------------


def sign_out(request: HttpRequest) -> None:
    """End the request's session. Does nothing if nobody is signed in."""
    auth.logout(request)


@receiver(user_logged_out)
def _on_logged_out(sender: object, request: HttpRequest, user: User | None, **_: Any) -> None:
    """Delete the session's row and record the event, whatever code signs the user out."""
    if isinstance(user, User):
        with transaction.atomic():
            _delete_sessions(BrowserSession.objects.filter(key_digest=_current_digest(request)))
            _audit(audit.actor_of(request), "session.signed_out", user)


def end_session(*, actor: Person, session_id: str) -> None:
    """End one of the actor's sessions. Raises `NotFound`."""
    with transaction.atomic():
        rows = BrowserSession.objects.filter(pk=session_id, user=actor.user)
        row = rows.select_related("user").first()
        if row is None:
            raise NotFound("There is no such session. It may have ended already.")
        _delete_sessions(rows)
        _audit(actor, "session.ended", row.user, row.browser, **audit.session_details(row))


def end_other_sessions(*, actor: Person, keep: BrowserSession | None) -> int:
    """End all sessions of the actor except `keep`. Returns how many ended."""
    with transaction.atomic():
        ended = _delete_sessions(BrowserSession.objects.filter(user=actor.user).exclude(pk=keep.pk if keep else None))
        _audit(actor, "session.others_ended", actor.user, sessions=ended)
    return ended


def revoke_sessions(*, actor: Actor, user: User) -> int:
    """End all sessions of `user`. Returns how many ended.

    Raising the epoch also ends sessions that the store later restores, for example after a Redis failover.
    """
    with transaction.atomic():
        User.objects.filter(pk=user.pk).update(session_epoch=F("session_epoch") + 1)
        ended = _delete_sessions(BrowserSession.objects.filter(user=user))
        _audit(actor, "session.all_revoked", user, sessions=ended)
    user.refresh_from_db(fields=["session_epoch"])
    return ended


def _current_digest(request: HttpRequest) -> str:
    return session_digest(request.session.session_key or "")


def _delete_sessions(rows: QuerySet[BrowserSession]) -> int:
    """Delete rows, which ends their sessions. On commit, deletes the store's entries too. Returns the row count."""
    digests = list(rows.values_list("key_digest", flat=True))
    rows.delete()
    transaction.on_commit(lambda: _delete_store_entries(digests))
    return len(digests)


def _delete_store_entries(digests: list[str]) -> None:
    store = import_module(settings.SESSION_ENGINE).SessionStore
    try:
        for digest in digests:
            store.delete_digest(digest)
    except SessionStoreUnavailable:
        logger.warning("session store unavailable: entries of ended sessions remain in it")


def _audit(actor: Actor, action: str, user: User, label: str = "", **details: Any) -> None:
    audit.record(
        actor,
        action,
        account=user,
        subject_type="user",
        subject_id=user.pk,
        subject_label=label or user.email,
        details=details,
    )
