"""What watchers see in the request log and in tokens, from rows of both databases' forms, and what a look costs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import User
from credentials import notices as expiry
from credentials.models import BearerToken, Credential, Endpoint
from proxy import notices
from proxy.models import RefusalCount, RequestRecord, RequestRollup
from tests.support import factories
from tests.support.factories import Connected

pytestmark = pytest.mark.django_db
NOW = timezone.now()
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.fixture
def made(alice: User) -> Connected:
    made = factories.make_endpoint(owner=alice, label="Work")
    Credential.objects.update(sealed_at=NOW - DAY)
    return made


def log(made: Connected, *statuses: int, error: str = "", ago: timedelta = MINUTE) -> None:
    """Record requests with these statuses, and their totals."""
    for status in statuses:
        RequestRecord.objects.create(
            endpoint=made.endpoint, token=made.token, status=status, error=error, latency_ms=1, at=NOW - ago
        )
        hour = (NOW - ago).replace(minute=0, second=0, microsecond=0)
        RequestRollup.objects.get_or_create(
            endpoint=made.endpoint,
            token=made.token,
            hour=hour,
            status_class=status // 100,
            defaults={"count": 1, "latency_max_ms": 1},
        )


def seen(since: timedelta = MINUTE) -> dict[str, dict[str, Any]]:
    """What all watchers see now, by kind."""
    found = [sighting for watcher in (*notices.WATCHERS, expiry.WATCHER) for sighting in watcher.look(NOW - since, NOW)]
    assert len({sighting.kind.name for sighting in found}) == len(found)
    return {sighting.kind.name: sighting.facts for sighting in found}


# --- Endpoints -----------------------------------------------------------------------------------------------------


def test_five_failures_without_a_success_are_failing(made: Connected) -> None:
    log(made, 500, 502, 503, 429)
    log(made, 502, error="upstream_unreachable")
    assert seen() == {}
    log(made, 504, error="upstream_idle")
    assert seen()["endpoint.failing"]["failures"] == 5
    log(made, 200)
    assert seen() == {}


def test_success_before_the_window_does_not_count(made: Connected) -> None:
    log(made, 200, ago=16 * MINUTE)
    log(made, *[503] * 5)
    assert seen()["endpoint.failing"] == {
        "endpoint": expiry.describe_endpoint(made.endpoint),
        "status": 503,
        "error": "",
        "failures": 5,
    }


def test_old_failures_and_paused_endpoints_are_not_told(made: Connected) -> None:
    log(made, *[503] * 5, ago=16 * MINUTE)
    assert seen() == {}
    log(made, *[503] * 5)
    Endpoint.objects.update(paused_at=NOW)
    assert seen() == {}


@pytest.mark.parametrize("status", [401, 403])
def test_refused_key_is_told(made: Connected, status: int) -> None:
    log(made, status)
    assert seen()["key.refused"]["status"] == status


def test_stray_refusal_of_a_working_endpoint_is_not_told(made: Connected) -> None:
    log(made, 403, 200)
    assert seen() == {}


def test_replaced_key_is_not_refused(made: Connected) -> None:
    log(made, 401)
    Credential.objects.update(sealed_at=NOW - MINUTE / 2)
    assert seen() == {}


def test_refused_cloud_secret_is_a_refused_key(made: Connected) -> None:
    log(made, *[502] * 5, error="cloud_secret_refused")
    assert seen() == {
        "key.refused": {
            "endpoint": expiry.describe_endpoint(made.endpoint),
            "status": None,
            "error": "cloud_secret_refused",
        }
    }


# --- Tokens --------------------------------------------------------------------------------------------------------


def refuse(made: Connected, *, revoked: timedelta, used: timedelta, code: str = "invalid_token") -> None:
    BearerToken.objects.filter(pk=made.token.pk).update(revoked_at=NOW - revoked)
    at = NOW - used
    RefusalCount.objects.create(
        endpoint=made.endpoint,
        token=made.token,
        minute=at.replace(second=0, microsecond=0),
        code=code,
        count=1,
        last_at=at,
    )


def test_revoked_token_in_use_is_told(made: Connected) -> None:
    refuse(made, revoked=3 * MINUTE, used=MINUTE)
    token = seen()["token.revoked_in_use"]["token"]
    assert token["preview"] == made.token.preview
    assert made.plaintext not in str(token)


@pytest.mark.parametrize(
    ("revoked", "used", "code"),
    [
        (MINUTE, MINUTE / 2, "invalid_token"),  # a program that was at work
        (3 * DAY, 2 * DAY, "invalid_token"),  # told before
        (3 * MINUTE, MINUTE, "endpoint_paused"),
    ],
)
def test_other_refusals_are_not_told(made: Connected, revoked: timedelta, used: timedelta, code: str) -> None:
    refuse(made, revoked=revoked, used=used, code=code)
    assert seen() == {}


@pytest.mark.parametrize(
    ("kind", "before"),
    [("token.expires_in_week", 7 * DAY), ("token.expires_in_day", DAY), ("token.expired", timedelta(0))],
)
def test_token_is_told_of_once_before_each_threshold(made: Connected, kind: str, before: timedelta) -> None:
    row = BearerToken.objects.filter(pk=made.token.pk)
    row.update(created_at=NOW - 30 * DAY, expires_at=NOW + before - MINUTE / 2)
    assert list(seen()) == [kind]
    for moved in (MINUTE, -MINUTE):
        row.update(expires_at=NOW + before - MINUTE / 2 + moved)
        assert seen() == {}, "looks overlap, or leave a gap"
    row.update(expires_at=NOW + before - MINUTE / 2, revoked_at=NOW)
    assert seen() == {}


def test_short_lived_tokens_are_not_told_of(made: Connected) -> None:
    for lifetime, before in ((8 * DAY, 7 * DAY), (2 * DAY, DAY), (2 * DAY, timedelta(0))):
        expires_at = NOW + before - MINUTE / 2
        BearerToken.objects.update(created_at=expires_at - lifetime, expires_at=expires_at)
        assert seen() == {}


def test_look_uses_indexes(made: Connected) -> None:
    """Each table is searched by an index, so what is old costs nothing."""
    log(made, *[503] * 5)
    refuse(made, revoked=3 * MINUTE, used=MINUTE)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        seen()
    with connection.cursor() as cursor:
        for query in queries.captured_queries:
            cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}")
            scans = [row[3] for row in cursor.fetchall() if row[3].startswith("SCAN")]
            assert not scans, query["sql"]
