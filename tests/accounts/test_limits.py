"""Limits: every way in which a plain use of django-ratelimit counts wrongly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts import limits
from accounts.errors import StoreUnavailable
from accounts.limits import Limit

ONE = Limit("test-one", 1, 900)
OTHER = Limit("test-other", 1, 900)


def test_counts_up_to_the_limit_and_says_when_to_come_back() -> None:
    assert not limits.count(ONE, "a").exceeded
    verdict = limits.count(ONE, "a")
    assert verdict.exceeded
    assert 0 < verdict.retry_after <= 901
    assert not limits.count(ONE, "b").exceeded


def test_limits_do_not_count_into_each_other() -> None:
    """An e-mail field that holds an address must not use up the limit of that address."""
    assert not limits.count(ONE, "5.6.7.8").exceeded
    assert not limits.count(OTHER, "5.6.7.8").exceeded


def test_group_and_value_do_not_run_together() -> None:
    assert not limits.count(Limit("g", 1, 900), "1x").exceeded
    assert not limits.count(Limit("g1", 1, 900), "x").exceeded


def test_groups_in_use_differ() -> None:
    used = [value for value in vars(limits).values() if isinstance(value, Limit)]
    assert len({limit.group for limit in used}) == len(used) >= 6


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("203.0.113.7", ("203.0.113.7", "203.0.113.7")),
        ("::ffff:203.0.113.7", ("203.0.113.7", "203.0.113.7")),
        ("2001:db8:1:2:3:4:5:6", ("2001:db8:1:2::/64", "2001:db8:1::/48")),
        ("fe80::1%eth0", ("fe80::/64", "fe80::/48")),
        ("", ("unknown", "unknown")),
        (None, ("unknown", "unknown")),
    ],
)
def test_clients_are_counted_by_the_network_they_own(ip: str | None, expected: tuple[str, str]) -> None:
    assert limits.networks(ip) == expected


def test_mapped_ipv4_addresses_do_not_share_a_bucket() -> None:
    assert not limits.count_address(ONE, OTHER, "::ffff:203.0.113.7").exceeded
    assert not limits.count_address(ONE, OTHER, "::ffff:203.0.113.8").exceeded
    assert limits.count_address(ONE, OTHER, "203.0.113.7").exceeded


def test_many_networks_of_one_site_are_limited_together() -> None:
    site = Limit("test-site", 3, 900)
    verdicts = [limits.count_address(ONE, site, f"2001:db8:1:{n:x}::1").exceeded for n in range(5)]
    assert verdicts == [False, False, False, True, True]


@given(st.integers(0, 2**128 - 1))
def test_every_ipv6_address_has_its_networks(number: int) -> None:
    from ipaddress import IPv6Address, ip_network

    address = IPv6Address(number)
    narrow, wide = limits.networks(str(address))
    if address.ipv4_mapped is None:
        assert address in ip_network(narrow)
        assert ip_network(narrow).subnet_of(ip_network(wide))  # type: ignore[arg-type]


def test_counter_that_cannot_be_reached_closes(settings: object) -> None:
    settings.CACHES = {  # type: ignore[attr-defined]
        "default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}
    }
    with pytest.raises(StoreUnavailable):
        limits.count(ONE, "a")
    del settings.CACHES  # type: ignore[attr-defined]
