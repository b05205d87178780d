"""How often sign-in may be tried. django-ratelimit counts; what it counts by is decided here.

Left alone, django-ratelimit takes `A@x.com` and `a@x.com` for two people and every IPv4-mapped address for one,
joins the parts of its keys without separators, and trusts whatever header it is pointed at. So every limit has its own
group, and the value counted is a keyed digest of one normalised form. Its windows are fixed: around a boundary up to
twice the rate passes, which the rates below allow for.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network

from django.utils.crypto import salted_hmac
from django_ratelimit.core import get_usage

from accounts.addresses import parse_address
from accounts.errors import StoreUnavailable
from accounts.stores import answering


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` events in `seconds`, per value; `group` keeps the counters of different limits apart."""

    group: str
    count: int
    seconds: int


LINKS_PER_EMAIL = Limit("signin-email", 6, 900)
LINKS_PER_ADDRESS = Limit("signin-address", 20, 900)
LINKS_PER_SITE = Limit("signin-site", 100, 900)
CONFIRMS_PER_ADDRESS = Limit("confirm-address", 60, 900)
CONFIRMS_PER_SITE = Limit("confirm-site", 300, 900)
BAD_TOKENS_PER_ADDRESS = Limit("bad-token-address", 30, 300)
BAD_TOKENS_PER_SITE = Limit("bad-token-site", 300, 300)
MAIL_BUDGET = Limit("mail-budget", 1000, 3600)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an event is one too many, and in how many seconds it is worth trying again."""

    exceeded: bool
    retry_after: int


def count(limit: Limit, value: str) -> Verdict:
    """Count one event. Raises `StoreUnavailable` where the counter cannot be reached: closed, never open."""
    key = salted_hmac("strake.accounts.limits", value, algorithm="sha256").hexdigest()
    with answering():
        usage = get_usage(
            None, group=f"{limit.group}:", key=lambda *_: key, rate=(limit.count, limit.seconds), increment=True
        )
    if usage is None or usage["limit"] == 0:
        raise StoreUnavailable("Strake cannot count sign-in requests just now. Try again soon.")
    return Verdict(usage["should_limit"], max(1, usage["time_left"]))


def count_address(per_address: Limit, per_site: Limit, ip: str | None) -> Verdict:
    """Count one event of a client: by its IPv4 address or IPv6 /64, and by the /48 around it."""
    address, site = networks(ip)
    exceeded = [verdict for verdict in (count(per_address, address), count(per_site, site)) if verdict.exceeded]
    return max(exceeded, key=lambda verdict: verdict.retry_after, default=Verdict(False, 0))


def networks(ip: str | None) -> tuple[str, str]:
    """The two networks a client is counted by. IPv4 has no wider one: sites do not own /24s."""
    address = parse_address(ip or "")
    if address is None:
        return "unknown", "unknown"
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False)), str(ip_network((address, 48), strict=False))
    return str(address), str(address)
