"""Rate limits, in every case that django-ratelimit's defaults count wrongly."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from accounts.errors import SessionStoreUnavailable
from accounts.sign_in import throttle
from accounts.sign_in.throttle import Limit

pytestmark = pytest.mark.django_db

ONE = Limit("test-one", 1, 900)
OTHER = Limit("test-other", 1, 900)


def test_limit_is_reached_and_tells_retry_after() -> None:
    assert not throttle.count(ONE, "a").exceeded
    verdict = throttle.count(ONE, "a")
    assert verdict.exceeded
    assert 0 < verdict.retry_after <= 901
    assert not throttle.count(ONE, "b").exceeded


def test_limits_have_separate_counters() -> None:
    """An IP address typed as an email address must not count against that IP address."""
    assert not throttle.count(ONE, "5.6.7.8").exceeded
    assert not throttle.count(OTHER, "5.6.7.8").exceeded


def test_group_and_value_are_not_concatenated() -> None:
    assert not throttle.count(Limit("g", 1, 900), "1x").exceeded
    assert not throttle.count(Limit("g1", 1, 900), "x").exceeded


def test_every_limit_has_its_group() -> None:
    used = [value for value in vars(throttle).values() if isinstance(value, Limit)]
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
def test_networks_of_a_client(ip: str | None, expected: tuple[str, str]) -> None:
    assert throttle.networks(ip) == expected


def test_ipv4_mapped_addresses_count_separately() -> None:
    assert not throttle.count_address(ONE, OTHER, "::ffff:203.0.113.7").exceeded
    assert not throttle.count_address(ONE, OTHER, "::ffff:203.0.113.8").exceeded
    assert throttle.count_address(ONE, OTHER, "203.0.113.7").exceeded


def test_networks_of_one_site_are_limited() -> None:
    site = Limit("test-site", 3, 900)
    verdicts = [throttle.count_address(ONE, site, f"2001:db8:1:{n:x}::1").exceeded for n in range(5)]
    assert verdicts == [False, False, False, True, True]


@given(st.integers(0, 2**128 - 1))
def test_networks_contain_the_ipv6_address(number: int) -> None:
    address = IPv6Address(number)
    narrow, wide = throttle.networks(str(address))
    if address.ipv4_mapped is None:
        assert address in ip_network(narrow)
        assert ip_network(narrow).subnet_of(ip_network(wide))  # type: ignore[arg-type]


def test_unavailable_counter_raises(settings: Settings) -> None:
    settings.CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}}
    with pytest.raises(SessionStoreUnavailable):
        throttle.count(ONE, "a")
    del settings.CACHES
