"""The device grant (RFC 8628): a program asks for an access token, and a person allows it in a browser.

The program gets two codes. It keeps the device code, and shows the user code to its person, who confirms it on the page
`/device/` after signing in. Then the program exchanges the device code for an access token, once.

A user code has 34 bits, works for ten minutes, and guesses are counted per person and per network (section 5.1).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import timedelta

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.crypto import salted_hmac

from accounts import access_tokens, audit, tokens
from accounts.access_tokens import CreatedToken
from accounts.actors import Actor, Person
from accounts.errors import (
    AccessDenied,
    AuthorizationPending,
    DeviceCodeExpired,
    InvalidDeviceCode,
    InvalidScope,
    NotFound,
    SlowDown,
    TooManyRequests,
)
from accounts.models import SCOPES, DeviceGrant, User
from accounts.plain_text import replace_unsafe
from accounts.sign_in import throttle

LIFETIME = timedelta(minutes=10)
INTERVAL = 2
TOKEN_LIFETIME = timedelta(days=90)
DEVICE_CODE_PREFIX = "device_"
MAX_NAME_LENGTH = 100
# Section 6.1: no vowels, so that no code is a word, and no digits, which people mistake for letters.
ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
_LENGTH = 8
_SLOWER = 5  # section 3.5

REQUESTS_PER_ADDRESS = throttle.Limit("device-address", 20, 900)
REQUESTS_PER_SITE = throttle.Limit("device-site", 100, 900)
WRONG_CODES_PER_PERSON = throttle.Limit("device-code-person", 10, 900)
WRONG_CODES_PER_ADDRESS = throttle.Limit("device-code-address", 30, 900)
WRONG_CODES_PER_SITE = throttle.Limit("device-code-site", 100, 900)


@dataclass(frozen=True, slots=True)
class Requested:
    """A new grant with its codes, which exist nowhere else. `user_code` is as people read it: `BCDF-GHJK`."""

    grant: DeviceGrant
    device_code: str = field(repr=False)
    user_code: str = field(repr=False)


# --- The program ---------------------------------------------------------------------------------------------------


def request(*, client: str, device: str = "", scope: str = "", ip: str | None = None) -> Requested:
    """Start a grant (section 3.1). `scope` has names separated by spaces, and "" asks for all of them.

    `client` and `device` are what the program calls itself and its machine. Nothing proves either. Raises
    `InvalidScope`, `TooManyRequests` or `SessionStoreUnavailable`.
    """
    scopes = scope.split() or list(SCOPES)
    if not set(scopes) <= set(SCOPES):
        raise InvalidScope(f"Choose one or more of the scopes {', '.join(SCOPES)}.")
    verdict = throttle.count_address(REQUESTS_PER_ADDRESS, REQUESTS_PER_SITE, ip)
    if verdict.exceeded:
        raise TooManyRequests("Too many requests for device codes from your network.", verdict.retry_after)
    device_code, user_code = tokens.mint(DEVICE_CODE_PREFIX), _new_user_code()
    now = timezone.now()
    grant = DeviceGrant.objects.create(
        device_digest=tokens.digest(device_code),
        user_code_digest=_user_code_digest(user_code),
        client=replace_unsafe(client)[:MAX_NAME_LENGTH],
        device=replace_unsafe(device)[:MAX_NAME_LENGTH],
        scopes=[name for name in SCOPES if name in scopes],
        ip=ip,
        created_at=now,
        expires_at=now + LIFETIME,
        interval=INTERVAL,
    )
    return Requested(grant, device_code, user_code)


def exchange(*, device_code: str, client: str, ip: str | None = None) -> CreatedToken:
    """Exchange a device code for an access token, once (section 3.4).

    Raises `AuthorizationPending`, `SlowDown`, `AccessDenied`, `DeviceCodeExpired`, `InvalidDeviceCode`, or
    `QuotaReached` if the person holds too many access tokens. Then the code still works.
    """
    found = None
    if tokens.is_well_formed(device_code, DEVICE_CODE_PREFIX):
        digest = tokens.digest(device_code)
        found = DeviceGrant.objects.select_related("user").filter(device_digest=digest, used_at=None).first()
    if found is None or found.client != replace_unsafe(client)[:MAX_NAME_LENGTH]:
        verdict = throttle.count_address(throttle.BAD_TOKENS_PER_ADDRESS, throttle.BAD_TOKENS_PER_SITE, ip)
        if verdict.exceeded:
            raise TooManyRequests("Too many wrong device codes.", verdict.retry_after)
        raise InvalidDeviceCode("There is no such device code, or it was used.")
    if found.expires_at <= timezone.now():
        raise DeviceCodeExpired("The code has expired. Ask for another one.")
    if found.denied_at is not None or (found.user is not None and found.user.suspended_at is not None):
        raise AccessDenied("The request was denied.")
    if found.user is None or found.allowed_at is None:
        _pace(found)
        raise AuthorizationPending("Nobody has allowed this yet.")
    return _issue(found, found.user, ip)


def _pace(grant: DeviceGrant) -> None:
    """Note the question. Raises `SlowDown`, and lengthens the interval, if the one before was too recent."""
    now = timezone.now()
    early = grant.asked_at is not None and now < grant.asked_at + timedelta(seconds=grant.interval - 1)
    interval = min(grant.interval + _SLOWER, 60) if early else grant.interval
    DeviceGrant.objects.filter(pk=grant.pk).update(asked_at=now, interval=interval)
    if early:
        raise SlowDown("Wait longer between two questions.")


def _issue(grant: DeviceGrant, user: User, ip: str | None) -> CreatedToken:
    now = timezone.now()
    with transaction.atomic():
        # This update decides: of any number of concurrent exchanges, only one changes the row.
        if not DeviceGrant.objects.filter(pk=grant.pk, used_at=None, denied_at=None).update(used_at=now):
            raise InvalidDeviceCode("There is no such device code, or it was used.")
        return access_tokens.create(
            actor=Person(user, ip, f"device code, {grant.client}"),
            user=user,
            label=_label(grant),
            scopes=grant.scopes,
            expires_at=now + TOKEN_LIFETIME,
        )


# --- The person ----------------------------------------------------------------------------------------------------


def find(*, actor: Actor, user_code: str) -> DeviceGrant:
    """Return the grant that waits for a person, by its user code in any spelling.

    Raises `NotFound`, or `TooManyRequests` if this person or their network has tried too many wrong codes. Then right
    codes are refused too, since otherwise guessing would go on.
    """
    if isinstance(actor, Person):
        _require_few_wrong_codes(actor)
    grant = _waiting().filter(user_code_digest=_user_code_digest(user_code)).first()
    if grant is None:
        if isinstance(actor, Person):
            throttle.count(WRONG_CODES_PER_PERSON, str(actor.user.pk))
            throttle.count_address(WRONG_CODES_PER_ADDRESS, WRONG_CODES_PER_SITE, actor.ip)
        raise NotFound("This code is no longer valid. Start again in the terminal to get another one.")
    return grant


def allow(*, actor: Actor, user: User, user_code: str) -> DeviceGrant:
    """Let the program have an access token that acts for `user`. Raises as `find`, and `NotFound` for another user."""
    if isinstance(actor, Person) and actor.user != user:
        raise NotFound("There is no such user.")
    return _decide(actor, user, user_code, "device_grant.allowed", {"user": user, "allowed_at": timezone.now()})


def deny(*, actor: Actor, user: User, user_code: str) -> DeviceGrant:
    """Refuse the program. Raises as `find`."""
    return _decide(actor, user, user_code, "device_grant.denied", {"denied_at": timezone.now()})


def _decide(actor: Actor, user: User, user_code: str, action: str, changes: dict[str, object]) -> DeviceGrant:
    grant = find(actor=actor, user_code=user_code)
    with transaction.atomic():
        if not _waiting().filter(pk=grant.pk).update(**changes):
            raise NotFound("This code is no longer valid. Start again in the terminal to get another one.")
        audit.record(
            actor,
            action,
            account=user,
            subject_type="device_grant",
            subject_id=grant.pk,
            subject_label=_label(grant),
            details={"scopes": grant.scopes, "address": grant.ip},
        )
    return grant


def _waiting() -> QuerySet[DeviceGrant]:
    return DeviceGrant.objects.filter(allowed_at=None, denied_at=None, expires_at__gt=timezone.now())


def _require_few_wrong_codes(actor: Person) -> None:
    address, site = throttle.networks(actor.ip)
    for limit, value in (
        (WRONG_CODES_PER_PERSON, str(actor.user.pk)),
        (WRONG_CODES_PER_ADDRESS, address),
        (WRONG_CODES_PER_SITE, site),
    ):
        if throttle.used(limit, value) >= limit.count:
            raise TooManyRequests("Too many wrong codes.", limit.seconds)


def _label(grant: DeviceGrant) -> str:
    name = f"{grant.client} on {grant.device}" if grant.device else grant.client
    return " ".join(name.split())[:MAX_NAME_LENGTH]


def _new_user_code() -> str:
    code = "".join(secrets.choice(ALPHABET) for _ in range(_LENGTH))
    return f"{code[:4]}-{code[4:]}"


def _user_code_digest(user_code: str) -> bytes:
    """The stored form of a user code, 32 bytes. Case, spaces and dashes do not matter (section 6.1)."""
    letters = "".join(letter for letter in user_code.upper()[:64] if letter in ALPHABET)
    return salted_hmac("strake.accounts.device", letters, algorithm="sha256").digest()
