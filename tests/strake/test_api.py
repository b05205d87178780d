"""The operations of the management API about requests: usage, single requests, connection test."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from accounts.models import User
from proxy.models import RefusalCount, RequestRecord, RequestRollup
from proxy.request_log.histogram import bucket
from tests.credentials.api.calling import Script
from tests.support import factories

pytestmark = pytest.mark.django_db


def test_usage_by_token_and_status_class(alice: User) -> None:
    made = factories.make_endpoint(owner=alice)
    other, _ = factories.make_token(endpoint=made.endpoint)
    now = timezone.now()
    hour = now.replace(minute=0, second=0, microsecond=0)
    for token, ago, status_class, count in [(made.token, 0, 2, 3), (made.token, 1, 2, 2), (other, 0, 5, 1)]:
        RequestRollup.objects.create(
            endpoint=made.endpoint,
            token=token,
            hour=hour - timedelta(hours=ago),
            status_class=status_class,
            count=count,
            latency_max_ms=200,
            latency_histogram={str(bucket(100)): count - 1, str(bucket(200)): 1},
        )
    RefusalCount.objects.create(
        endpoint=made.endpoint, token=other, minute=hour, code="rate_limited", count=4, last_at=hour
    )
    script, path = Script(alice, scopes=["read"]), f"/endpoints/{made.endpoint.subdomain}/usage"
    usage = script("GET", path)[1]["usage"]
    assert usage["total"] == {
        **{"requests": 6, "good": 5, "refused": 0, "failed": 1, "stopped": 4},
        **{"p50_ms": bucket(100), "p95_ms": 200},
    }
    counts = [(one["token_id"], one["status_class"], one["requests"]) for one in usage["buckets"]]
    assert counts == [(made.token.pk, 2, 2), *sorted([(made.token.pk, 2, 3), (other.pk, 5, 1)])]
    [_, first] = script("GET", f"{path}?token={made.token.pk}")[1]["usage"]["buckets"]
    assert (first["requests"], first["p50_ms"], first["p95_ms"]) == (3, bucket(100), 200)
    by_day = script("GET", f"{path}?bucket=day&period=30d")[1]["usage"]["buckets"]
    assert sum(one["requests"] for one in by_day) == 6
    assert {one["start"][10:] for one in by_day} == {"T00:00:00Z"}
    assert script("GET", f"{path}?period=1y")[0] == 422


def test_requests_in_pages_with_filters(alice: User) -> None:
    made = factories.make_endpoint(owner=alice)
    now = timezone.now()
    for number in range(5):
        RequestRecord.objects.create(
            endpoint=made.endpoint,
            token=made.token,
            status=502 if number == 2 else 200,
            error="provider_unreachable" if number == 2 else "",
            latency_ms=number,
            at=now - timedelta(seconds=number),
        )
    minute = now.replace(second=0, microsecond=0) - timedelta(minutes=1)
    RefusalCount.objects.create(
        endpoint=made.endpoint, token=made.token, minute=minute, code="rate_limited", count=14, last_at=minute
    )
    script, path = Script(alice, scopes=["read"]), f"/endpoints/{made.endpoint.subdomain}/requests"
    seen, cursor = [], ""
    for _ in range(5):
        answer = script("GET", f"{path}?limit=4{cursor}")[1]
        seen += answer["requests"]
        RequestRecord.objects.create(
            endpoint=made.endpoint, token=made.token, status=200, latency_ms=1, at=timezone.now()
        )
        if answer["next"] is None:
            break
        cursor = f"&cursor={answer['next']}"
    assert [one["latency_ms"] for one in seen] == [0, 1, 2, 3, 4, None]
    assert (seen[-1]["error"], seen[-1]["count"], seen[-1]["token_id"]) == ("rate_limited", 14, made.token.pk)
    assert [one["latency_ms"] for one in script("GET", f"{path}?status=502")[1]["requests"]] == [2]
    assert len(script("GET", f"{path}?error=any")[1]["requests"]) == 2
    assert script("GET", f"{path}?error=rate_limited&token=ctok_0")[1] == {"requests": [], "next": None}


def test_connection_test_says_why_it_fails(alice: User) -> None:
    made = factories.make_endpoint(owner=alice)
    path = f"/endpoints/{made.endpoint.subdomain}/test"
    status, answer = Script(alice)("POST", path, {"token": made.plaintext})
    assert (status, answer["result"]["problem"], answer["result"]["works"]) == (200, "proxy_unreachable", False)
    assert Script(alice)("POST", path, {})[0] == 422
