"""Rate limits of signing in, counted by django-ratelimit.

By default django-ratelimit counts `A@x.com` and `a@x.com` separately and all IPv4-mapped addresses together, joins the
parts of its cache keys without separators, and trusts any header it is given. Here, every limit has its own group, and
each value is normalised and hashed. The windows are fixed, so up to twice the limit can pass around their boundaries.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network
from typing import Any

from django.utils.crypto import salted_hmac
from django_ratelimit.core import get_usage

from accounts.addresses import parse_address
from accounts.errors import SessionStoreUnavailable
from accounts.sessions.store import translate_store_errors


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` events in `seconds` per value. `group` separates the counters of different limits."""

    group: str
    count: int
    seconds: int


LINKS_PER_EMAIL = Limit("signin-email", 6, 900)
LINKS_PER_ADDRESS = Limit("signin-address", 20, 900)
LINKS_PER_SITE = Limit("signin-site", 100, 900)
CONFIRMS_PER_EMAIL = Limit("confirm-email", 30, 900)
CONFIRMS_PER_ADDRESS = Limit("confirm-address", 60, 900)
CONFIRMS_PER_SITE = Limit("confirm-site", 300, 900)
BAD_TOKENS_PER_ADDRESS = Limit("bad-token-address", 30, 300)
BAD_TOKENS_PER_SITE = Limit("bad-token-site", 300, 300)
# More than anybody else can cause: links that nobody redeems are far fewer (`MAX_LIVE_LINKS`).
MAILS_PER_EMAIL = Limit("mail-email", 60, 3600)
# Emails to addresses without an account. A network keeps its share of a mail domain that has reached its limit.
NEW_PER_SITE = Limit("new-site", 30, 3600)
NEW_PER_DOMAIN = Limit("new-domain", 200, 3600)
NEW_SHARE_OF_DOMAIN = Limit("new-share", 3, 3600)
ACCOUNTS_PER_ADDRESS = Limit("account-address", 30, 3600)
ACCOUNTS_PER_SITE = Limit("account-site", 100, 3600)
MAIL_ALARM = Limit("mail-alarm", 1000, 3600)  # refuses nothing


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of counting an event.

    `exceeded` says if it exceeds the limit, `retry_after` how many seconds the window has left, and `is_first` if it is
    the first event that exceeds the limit in this window.
    """

    exceeded: bool
    retry_after: int
    is_first: bool = False


def count(limit: Limit, value: str) -> Verdict:
    """Count one event. Raises `SessionStoreUnavailable` if the counter is unavailable: the limit fails closed."""
    usage = _usage(limit, value, increment=True)
    return Verdict(usage["should_limit"], max(1, usage["time_left"]), usage["count"] == limit.count + 1)


def count_if(counts: bool, limit: Limit, value: str) -> Verdict:
    """Count one event if `counts`. Otherwise do the same work, and nothing is limited or told."""
    other = f"not counted: {value}"
    for counter in (value, other):  # creates both, since counting with an existing counter is other work
        used(limit, counter)
    verdict = count(limit, value if counts else other)
    return verdict if counts else Verdict(False, 0)


def used(limit: Limit, value: str) -> int:
    """The number of events in the current window. Raises `SessionStoreUnavailable`."""
    return int(_usage(limit, value, increment=False)["count"])


def _usage(limit: Limit, value: str, *, increment: bool) -> dict[str, Any]:
    key = salted_hmac("strake.accounts.limits", value, algorithm="sha256").hexdigest()
    with translate_store_errors():
        usage = get_usage(
            None, group=f"{limit.group}:", key=lambda *_: key, rate=(limit.count, limit.seconds), increment=increment
        )
    if usage is None or usage["limit"] == 0:
        raise SessionStoreUnavailable("Strake can't count sign-in requests at the moment. Try again soon.")
    return dict(usage)


def count_address(per_address: Limit, per_site: Limit, ip: str | None) -> Verdict:
    """Count one event of a client, by its IPv4 address or IPv6 /64 and by its IPv6 /48."""
    address, site = networks(ip)
    exceeded = [verdict for verdict in (count(per_address, address), count(per_site, site)) if verdict.exceeded]
    return max(exceeded, key=lambda verdict: verdict.retry_after, default=Verdict(False, 0))


def networks(ip: str | None) -> tuple[str, str]:
    """The networks by which a client is counted: an IPv4 address twice, or an IPv6 /64 and its /48.

    A site usually has a whole IPv6 /48 (RFC 6177), but no fixed IPv4 block.
    """
    address = parse_address(ip or "")
    if address is None:
        return "unknown", "unknown"
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False)), str(ip_network((address, 48), strict=False))
    return str(address), str(address)
