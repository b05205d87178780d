"""Signing in by a link in a mail: asking for one, sending it, redeeming it.

Asking does the same work for everybody. Whether the address is known, allowed or over its limit is found out on another
thread, so neither the answer nor its timing can tell.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone

from accounts import audit, background, browsers, limits, tokens
from accounts.addresses import normalise_email
from accounts.audit import Actor
from accounts.errors import LinkNotValid
from accounts.locks import serialise
from accounts.mail import SignInMail
from accounts.models import LINK_TOKEN_PREFIX, SignInLink, User
from accounts.paths import own_path
from accounts.signup import may_sign_up

logger = logging.getLogger(__name__)

LIVE_LINKS = 3


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """Who asked for a link, from where. An operator asks from no browser."""

    email: str
    browser_digest: bytes = b""
    next_path: str = ""
    ip: str | None = None
    asked_from: str = ""


@dataclass(frozen=True, slots=True)
class Redeemed:
    """A person who just proved to read an address, and where they wanted to go."""

    user: User
    next_path: str


@dataclass(frozen=True, slots=True)
class OpenLink:
    """A link that could be redeemed now."""

    email: str
    other_browser: bool
    token: str = field(repr=False)


# --- Asking --------------------------------------------------------------------------------------------------------


def request_link(*, email: str, nonce: str, next_path: str = "", ip: str | None = None, user_agent: str = "") -> None:
    """Have a link mailed to `email` if it may sign in and is within its limits. Raises `InvalidEmail`, nothing else.

    `nonce` marks the browser that asks. Returns before anything is looked up, so that it takes the same time for all.
    """
    request = LinkRequest(
        email=normalise_email(email),
        browser_digest=browsers.digest(nonce),
        next_path=own_path(next_path),
        ip=ip,
        asked_from=browsers.describe(user_agent),
    )
    background.queue.submit("sign-in link", partial(_answer, request))


def _answer(request: LinkRequest) -> None:
    # Everything is done for everybody, and undone where no link is due: this thread shares its processor with requests,
    # and somebody who sends the next one at once could otherwise feel which address kept it busy.
    known = User.objects.filter(email=request.email).exists()
    allowed = may_sign_up(request.email)
    limited = limits.count(limits.LINKS_PER_EMAIL, request.email).exceeded
    with transaction.atomic():
        serialise(f"sign-in links of {request.email}")
        # Whoever floods an address with requests locks nobody out: links already sent are left alone, and over the
        # limit one still goes out where none is live. So the mailbox holds a link that works, or asking brings one.
        enough = 1 if limited else LIVE_LINKS
        due = (known or allowed) and _live(timezone.now()).filter(email=request.email).count() < enough
        token = _create(request, Actor(None, request.ip))
        if not due or _budget_is_spent(known=known):
            due = False
            transaction.set_rollback(True)
    mail = SignInMail(
        email=request.email,
        link=link_address(token),
        minutes=settings.STRAKE_LINK_MINUTES,
        asked_from=request.asked_from,
        ip=request.ip,
    )
    if not due:
        return
    if not background.queue.submit("sign-in mail", partial(_send, mail), partial(_record_unsent, request)):
        _record_unsent(request)


def _budget_is_spent(*, known: bool) -> bool:
    """Count a mail that is due. People with an account have a budget of their own: other addresses are endless."""
    whose = "known" if known else "new"
    if not limits.count(limits.MAIL_BUDGET, whose).exceeded:
        return False
    logger.error("mail budget of %d an hour for %s addresses is spent; not sent", limits.MAIL_BUDGET.count, whose)
    return True


def _send(mail: SignInMail) -> None:
    mail.send(fail_silently=False)


def _record_unsent(request: LinkRequest) -> None:
    audit.record(
        Actor(None, request.ip),
        "signin.mail_failed",
        account=User.objects.filter(email=request.email).first(),
        subject_type="email",
        subject_id="",
        subject_label=request.email,
    )


def operator_link(*, email: str, staff: bool = False) -> str:
    """A link made at the command line, for any browser; creates the user, and makes it staff where asked.

    Raises `InvalidEmail`.
    """
    email = normalise_email(email)
    with transaction.atomic():
        user = _find_or_create(email, by=audit.OPERATOR)
        if staff and not user.is_staff:
            user.is_staff = True
            user.save(update_fields=["is_staff"])
            _audit(audit.OPERATOR, "user.made_staff", user)
        token = _create(LinkRequest(email), audit.OPERATOR)
    return link_address(token)


def link_address(token: str) -> str:
    """The link for a token, on the configured origin: never on the one a request claims to be for."""
    return settings.STRAKE_BASE_URL + reverse("accounts:open_link", args=[token])


# --- Redeeming -----------------------------------------------------------------------------------------------------


def find_open_link(*, token: str, nonce: str) -> OpenLink:
    """The link behind a token, changing nothing. Raises `LinkNotValid`."""
    link = None
    if tokens.is_well_formed(token, LINK_TOKEN_PREFIX):
        link = _live(timezone.now()).filter(token_digest=tokens.digest(token)).first()
    if link is None:
        raise _not_valid()
    return OpenLink(link.email, is_other_browser(link, nonce), token)


def is_other_browser(link: SignInLink, nonce: str) -> bool:
    """Whether a link was asked for elsewhere. Operators' links belong to no browser."""
    asked_in = bytes(link.browser_digest)
    return bool(asked_in) and asked_in != browsers.digest(nonce)


def redeem_link(*, token: str, ip: str | None, start_session: Callable[[User], None]) -> Redeemed:
    """Use a link up and sign its person in, creating the account the first time. Raises `LinkNotValid`.

    `start_session` runs in the same transaction: if it fails, the link was not used. All other links of the address
    are used up as well.
    """
    try:
        if not tokens.is_well_formed(token, LINK_TOKEN_PREFIX):
            raise _not_valid()
        with transaction.atomic():
            redeemed = _redeem(tokens.digest(token), ip)
            start_session(redeemed.user)
    except LinkNotValid:
        _record_failure(token, ip)
        raise
    return redeemed


def _redeem(digest: bytes, ip: str | None) -> Redeemed:
    now = timezone.now()
    link = SignInLink.objects.filter(token_digest=digest).first()
    if link is None:
        raise _not_valid()
    # Two links of one address redeemed at once would otherwise wait for each other's rows.
    serialise(f"sign-in links of {link.email}")
    # The one decision: of any number of attempts at once, the database lets a single one change this row.
    if _live(now).filter(pk=link.pk).update(used_at=now) != 1:
        raise _not_valid()
    user = User.objects.filter(email=link.email).first()
    if user is None:
        if not may_sign_up(link.email):
            raise _not_valid()
        user = _find_or_create(link.email, ip=ip)
    SignInLink.objects.filter(email=link.email, used_at=None).update(used_at=now)
    _audit(Actor(user, ip), "signin.succeeded", user)
    return Redeemed(user, link.next_path)


def _record_failure(token: str, ip: str | None) -> None:
    link = SignInLink.objects.filter(token_digest=tokens.digest(token)).first()
    email = link.email if link else ""
    audit.record(
        Actor(None, ip),
        "signin.failed",
        account=User.objects.filter(email=email).first() if email else None,
        subject_type="email" if email else "link",
        subject_id="",
        subject_label=email or "unknown link",
    )


# --- Inside --------------------------------------------------------------------------------------------------------


def _create(request: LinkRequest, actor: Actor) -> str:
    """Store a new link and return its token."""
    now = timezone.now()
    token = tokens.mint(LINK_TOKEN_PREFIX)
    link = SignInLink.objects.create(
        email=request.email,
        token_digest=tokens.digest(token),
        browser_digest=request.browser_digest,
        next_path=request.next_path,
        created_at=now,
        expires_at=now + timedelta(minutes=settings.STRAKE_LINK_MINUTES),
    )
    audit.record(
        actor,
        "signin.link_made",
        account=User.objects.filter(email=request.email).first(),
        subject_type="link",
        subject_id=link.pk,
        subject_label=request.email,
    )
    return token


def _live(now: datetime) -> QuerySet[SignInLink]:
    return SignInLink.objects.filter(used_at=None, expires_at__gt=now)


def _find_or_create(email: str, *, by: Actor | None = None, ip: str | None = None) -> User:
    """The user of an address. Without `by` a new one made their account themselves, from `ip`."""
    user, created = User.objects.get_or_create(email=email)
    if created:
        _audit(by or Actor(user, ip), "user.created", user)
    return user


def _audit(actor: Actor, action: str, user: User) -> None:
    audit.record(actor, action, account=user, subject_type="user", subject_id=user.pk, subject_label=user.email)


def _not_valid() -> LinkNotValid:
    return LinkNotValid("This sign-in link does not work any more. Links work once and only for a short time.")
