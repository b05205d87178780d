"""The use of each token of an endpoint, and its last error."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from accounts.models import User
from credentials.models import BearerToken
from proxy.models import RefusalCount, RequestRecord, RequestRollup
from strake.pages.token_use import use_of
from tests.support import factories
from tests.support.factories import Connected


@pytest.fixture
def made(alice: User) -> Connected:
    return factories.make_endpoint(owner=alice)


def forward(token: BearerToken, *, status: int = 200, ago: timedelta = timedelta(), error: str = "") -> None:
    """What the request log writes of one request."""
    at = timezone.now() - ago
    RequestRecord.objects.create(endpoint=token.endpoint, token=token, status=status, error=error, latency_ms=5, at=at)
    hour = at.replace(minute=0, second=0, microsecond=0)
    RequestRollup.objects.create(
        endpoint=token.endpoint, token=token, hour=hour, status_class=status // 100, count=1, latency_max_ms=5
    )


def refuse(token: BearerToken, code: str, count: int, ago: timedelta = timedelta()) -> None:
    at = timezone.now() - ago
    RefusalCount.objects.create(
        endpoint=token.endpoint, token=token, minute=at.replace(second=0), code=code, count=count, last_at=at
    )


def test_requests_are_counted_by_token(made: Connected, bob: User) -> None:
    other, _ = factories.make_token(endpoint=made.endpoint, label="other")
    forward(made.token)
    forward(made.token, ago=timedelta(days=3))
    forward(made.token, ago=timedelta(days=8))
    forward(other)
    forward(factories.make_endpoint(owner=bob).token)
    refuse(made.token, "rate_limited", 14)
    refuse(made.token, "rate_limited", 100, ago=timedelta(days=8))
    refuse(other, "invalid_token", 3)
    use = use_of(made.endpoint, [made.token, other]).tokens
    assert (use[made.token.pk].day, use[made.token.pk].week, use[made.token.pk].refused) == (1, 2, 14)
    assert (use[other.pk].day, use[other.pk].refused, use[other.pk].tried) == (1, 3, 3)
    assert use[made.token.pk].tried == 0


def test_last_error_has_its_reason_and_whose_it_is(made: Connected) -> None:
    other, _ = factories.make_token(endpoint=made.endpoint, label="other")
    forward(made.token, status=429, ago=timedelta(minutes=3))
    forward(made.token)
    forward(other, status=502, error="upstream_unreachable", ago=timedelta(minutes=2))
    use = use_of(made.endpoint, [made.token, other])
    first, second = use.tokens[made.token.pk].last_error, use.tokens[other.pk].last_error
    assert first is not None
    assert second is not None
    assert (first.status, first.is_of_provider) == (429, True)
    assert (second.status, second.is_of_provider, second.anchor) == (502, False, "upstream_unreachable")
    assert use.last_error == second
    refuse(made.token, "path_not_allowed", 1)
    newest = use_of(made.endpoint, []).last_error
    assert newest is not None
    assert (newest.status, newest.anchor) == (403, "path_not_allowed")


def test_endpoint_without_requests_has_no_error(made: Connected) -> None:
    assert use_of(made.endpoint, [made.token]).last_error is None
