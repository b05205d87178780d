"""Signing in with a link in an email: requesting, sending and redeeming it.

A request only puts a row into the outbox, for every email address. The thread that sends email finds out later whether
the address is known, allowed or over its limit, so neither the response nor its timing reveals that.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from accounts import audit, outbox, tokens
from accounts.actors import OPERATOR, Actor, Operator, Person, Visitor
from accounts.addresses import normalise_email
from accounts.errors import LinkNotValid, Suspended, TooManyRequests
from accounts.models import LINK_TOKEN_PREFIX, BrowserSession, OutboxMail, SignInLink, User
from accounts.sign_in import throttle, user_agents
from accounts.sign_in.mail import SignInMail
from accounts.sign_in.policy import may_sign_up, safe_next_path
from accounts.transactions import advisory_lock

logger = logging.getLogger(__name__)

MAX_LIVE_LINKS = 3


@dataclass(frozen=True, slots=True)
class RedeemedLink:
    """The user that a link signed in, and the path they wanted to open."""

    user: User
    next_path: str


@dataclass(frozen=True, slots=True)
class RedeemableLink:
    """A link that can be redeemed now. `other_browser` says that another browser requested it."""

    email: str
    other_browser: bool
    token: str = field(repr=False)


# --- Requesting ----------------------------------------------------------------------------------------------------


def request_link(
    *, email: str, browser_id: str, next_path: str = "", ip: str | None = None, user_agent: str = ""
) -> None:
    """Send a link to `email` if it may sign in and is within its limits. Raises only `InvalidEmail`.

    Returns before any look-up, so that it takes the same time for every address. `browser_id` identifies the browser
    that requests the link (`accounts.sign_in.cookies`).
    """
    details = {
        "browser": _browser_digest(browser_id).hex(),
        "next": safe_next_path(next_path),
        "ip": ip,
        "asked_from": user_agents.describe(user_agent),
    }
    outbox.submit(SIGN_IN, normalise_email(email), details, network=throttle.networks(ip)[1])


def _compose(mail: OutboxMail) -> SignInMail | None:
    """Make a link and the email that contains it, or None if no email is due.

    The first attempt decides. Later ones give the link another token, so the token of a failed email does not work.
    """
    token = _renew(mail) if "link" in mail.details else _decide(mail)
    if token is None:
        return None
    due = mail.details["link"] is not None
    message = SignInMail(
        email=mail.email,
        link=link_url(token),
        minutes=settings.STRAKE_LINK_MINUTES,
        asked_from=mail.details["asked_from"],
        ip=mail.details["ip"],
    )
    return message if due else None


def _decide(mail: OutboxMail) -> str:
    # Do all the work for every address, and roll the link back if none is due. This thread shares its processor and the
    # database with requests, so the timing of a second request would otherwise reveal how much the first one caused.
    user = User.objects.filter(email=mail.email).first()
    known = user is not None
    allowed = user.suspended_at is None if user else may_sign_up(mail.email)
    limited = throttle.count(throttle.LINKS_PER_EMAIL, mail.email).exceeded
    with transaction.atomic():
        advisory_lock(f"sign-in links of {mail.email}")
        # Flooding an address with requests must not lock its owner out. Links that were sent stay valid, and beyond the
        # limit one more is sent if none is live. So the mailbox has a valid link, or the next request sends one.
        max_live = 1 if limited else MAX_LIVE_LINKS
        live = SignInLink.objects.live().filter(email=mail.email).count()
        due = allowed and live < max_live
        due = _is_within_limits(mail, due=due, known=known)
        with transaction.atomic():
            link, token = _create(
                mail.email,
                Visitor(mail.details["ip"]),
                browser_digest=bytes.fromhex(mail.details["browser"]),
                next_path=mail.details["next"],
                browser=mail.details["asked_from"],
            )
            if not due:
                transaction.set_rollback(True)  # to before the link
        outbox.update(mail, {"link": link.pk if due else None})
    return token


def _renew(mail: OutboxMail) -> str | None:
    """Replace the token of the link that an earlier attempt made. Returns None if it was used or deleted since."""
    token, now = tokens.mint(LINK_TOKEN_PREFIX), timezone.now()
    renewed = SignInLink.objects.filter(pk=mail.details["link"], used_at=None).update(
        token_digest=tokens.digest(token),
        created_at=now,
        expires_at=now + timedelta(minutes=settings.STRAKE_LINK_MINUTES),
    )
    return token if renewed else None


def _is_within_limits(mail: OutboxMail, *, due: bool, known: bool) -> bool:
    """Count an email that is due, and return if it may be sent. Does the same work for every address.

    No limit is shared by addresses that have an account. Others share those of a client network and a mail domain.
    """
    site = throttle.networks(mail.details["ip"])[1]
    domain = mail.email.rpartition("@")[2]
    due = not throttle.count_if(due, throttle.MAILS_PER_EMAIL, mail.email).exceeded and due
    is_new = due and not known
    exceeded = throttle.count_if(is_new, throttle.NEW_PER_SITE, site).exceeded
    counts = is_new and not exceeded
    over_share = throttle.count_if(counts, throttle.NEW_SHARE_OF_DOMAIN, f"{site} {domain}").exceeded
    over_domain = throttle.count_if(counts, throttle.NEW_PER_DOMAIN, domain).exceeded
    due = due and not exceeded and not (over_share and over_domain)
    if throttle.count_if(due, throttle.MAIL_ALARM, "").is_first:
        logger.warning("more than %d sign-in emails in this hour", throttle.MAIL_ALARM.count)
    return due


def _give_up(mail: OutboxMail) -> None:
    """Delete the link that could not be sent, so that the next request sends one, and record the failure."""
    link = mail.details.get("link")
    if link is None:
        return  # No email was due, or no attempt found out.
    SignInLink.objects.filter(pk=link).delete()
    audit.record(
        Visitor(mail.details["ip"]),
        "signin.mail_failed",
        account=User.objects.filter(email=mail.email).first(),
        subject_type="email",
        subject_id="",
        subject_label=mail.email,
        details={"attempts": mail.attempts},
    )


SIGN_IN = outbox.Kind("sign-in", _compose, _give_up)


def operator_link(*, email: str, staff: bool = False, actor: Operator = OPERATOR) -> str:
    """Create a link for an operator to pass on, and its user if there is none. It has no browser.

    `staff` also makes the user staff. Returns the URL. Raises `InvalidEmail` or `Suspended`.
    """
    email = normalise_email(email)
    with transaction.atomic():
        user = get_or_create_user(email, by=actor)
        if user.suspended_at is not None:
            raise Suspended(f"{email} is suspended. Run first: manage.py resume_person {email}")
        if staff and not user.is_staff:
            user.is_staff = True
            user.save(update_fields=["is_staff"])
            _audit(actor, "user.made_staff", user, {"from": "person", "to": "staff"})
        _, token = _create(email, actor)
    return link_url(token)


def link_url(token: str) -> str:
    """The URL for a token, on the configured origin. The Host header of a request is never used."""
    return settings.STRAKE_BASE_URL + reverse("accounts:open_link", args=[token])


# --- Redeeming -----------------------------------------------------------------------------------------------------


def find_link(*, token: str, browser_id: str) -> RedeemableLink:
    """Find the link of a token without changing anything. Raises `LinkNotValid`."""
    link = _live_link(token)
    if link is None or User.objects.filter(email=link.email, suspended_at__isnull=False).exists():
        raise _not_valid()
    requested_by = bytes(link.browser_digest)
    other_browser = bool(requested_by) and requested_by != _browser_digest(browser_id)
    return RedeemableLink(link.email, other_browser, token)


def asked_by(*, token: str, browser_id: str) -> SignInLink | None:
    """The link of a token if this browser requested it, also one that was used or has expired.

    Whoever only has the token learns no address from this.
    """
    if not browser_id or not tokens.is_well_formed(token, LINK_TOKEN_PREFIX):
        return None
    digests = {"token_digest": tokens.digest(token), "browser_digest": _browser_digest(browser_id)}
    return SignInLink.objects.filter(**digests).first()


def count_attempt(*, token: str, ip: str | None) -> throttle.Verdict:
    """Count an attempt to redeem a link: one that can succeed for its email address, others for the client's network.

    So nobody can use up the attempts of somebody else, not even in the same network.
    """
    link = _live_link(token)
    if link is not None:
        return throttle.count(throttle.CONFIRMS_PER_EMAIL, link.email)
    return throttle.count_address(throttle.CONFIRMS_PER_ADDRESS, throttle.CONFIRMS_PER_SITE, ip)


def redeem_link(
    *, token: str, ip: str | None, start_session: Callable[[User], BrowserSession | None], user_agent: str = ""
) -> RedeemedLink:
    """Redeem a link and sign its user in. Creates the user at the first sign-in.

    `start_session` runs in the same transaction: if it fails, the link stays unused. All other links of the address
    become invalid. Raises `LinkNotValid`, or `TooManyRequests` if there are many new accounts from the client's
    network. Then the link stays unused.
    """
    _count_account(token, ip)
    try:
        if not tokens.is_well_formed(token, LINK_TOKEN_PREFIX):
            raise _not_valid()
        with transaction.atomic():
            redeemed = _redeem(tokens.digest(token), ip)
            session = start_session(redeemed.user)
            person = audit.session_actor(redeemed.user, ip, session)
            _audit(person, "signin.succeeded", redeemed.user, {"browser": user_agents.describe(user_agent)})
    except LinkNotValid:
        _record_failure(token, ip)
        raise
    return redeemed


def _live_link(token: str) -> SignInLink | None:
    if not tokens.is_well_formed(token, LINK_TOKEN_PREFIX):
        return None
    return SignInLink.objects.live().filter(token_digest=tokens.digest(token)).first()


def _count_account(token: str, ip: str | None) -> None:
    """Count the account that a link creates, for the client's network: quotas are per account."""
    link = _live_link(token)
    if link is None or User.objects.filter(email=link.email).exists():
        return
    verdict = throttle.count_address(throttle.ACCOUNTS_PER_ADDRESS, throttle.ACCOUNTS_PER_SITE, ip)
    if verdict.exceeded:
        raise TooManyRequests(
            "Many accounts have been created from your network. The operator can also send you a link.",
            verdict.retry_after,
        )


def _redeem(digest: bytes, ip: str | None) -> RedeemedLink:
    now = timezone.now()
    link = SignInLink.objects.filter(token_digest=digest).first()
    if link is None:
        raise _not_valid()
    # Two concurrent redemptions for one address would otherwise deadlock on each other's rows.
    advisory_lock(f"sign-in links of {link.email}")
    # This update decides: of any number of concurrent attempts, only one changes the row.
    if SignInLink.objects.live().filter(pk=link.pk).update(used_at=now) != 1:
        raise _not_valid()
    user = User.objects.filter(email=link.email).first()
    if user is None:
        if not may_sign_up(link.email):
            raise _not_valid()
        user = get_or_create_user(link.email, ip=ip)
    if user.suspended_at is not None:
        raise _not_valid()
    SignInLink.objects.filter(email=link.email, used_at=None).update(used_at=now)
    return RedeemedLink(user, link.next_path)


def _record_failure(token: str, ip: str | None) -> None:
    link = SignInLink.objects.filter(token_digest=tokens.digest(token)).first()
    email = link.email if link else ""
    audit.record(
        Visitor(ip),
        "signin.failed",
        account=User.objects.filter(email=email).first() if email else None,
        subject_type="email" if email else "link",
        subject_id="",
        subject_label=email or "unknown link",
    )


def _browser_digest(browser_id: str) -> bytes:
    """The stored form of a browser id, 32 bytes."""
    return hashlib.sha256(b"strake.accounts.browser:" + browser_id.encode()).digest()


def _create(
    email: str, actor: Operator | Visitor, *, browser_digest: bytes = b"", next_path: str = "", browser: str = ""
) -> tuple[SignInLink, str]:
    """Store a new link. Returns it and its token. Links that operators create have no browser."""
    now = timezone.now()
    token = tokens.mint(LINK_TOKEN_PREFIX)
    link = SignInLink.objects.create(
        email=email,
        token_digest=tokens.digest(token),
        browser_digest=browser_digest,
        next_path=next_path,
        created_at=now,
        expires_at=now + timedelta(minutes=settings.STRAKE_LINK_MINUTES),
    )
    audit.record(
        actor,
        "signin.link_made",
        account=User.objects.filter(email=email).first(),
        subject_type="link",
        subject_id=link.pk,
        subject_label=email,
        details={"expires_at": link.expires_at} | ({"browser": browser} if browser else {}),
    )
    return link, token


def get_or_create_user(email: str, *, by: Actor | None = None, ip: str | None = None) -> User:
    """The user with this email address. Without `by`, a new user is recorded as their own creator, from `ip`."""
    user, created = User.objects.get_or_create(email=email)
    if created:
        _audit(by or Person(user, ip), "user.created", user)
    return user


def _audit(actor: Actor, action: str, user: User, details: Mapping[str, str] | None = None) -> None:
    audit.record(
        actor,
        action,
        account=user,
        subject_type="user",
        subject_id=user.pk,
        subject_label=user.email,
        details=details,
    )


def _not_valid() -> LinkNotValid:
    return LinkNotValid("This sign-in link doesn't work any more. Links work once and only for a short time.")
