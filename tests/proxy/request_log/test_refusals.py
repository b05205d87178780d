"""Refused requests are counted by token, minute and code, in bounded memory and few rows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from proxy.models import RefusalCount, RequestRecord, RequestRollup
from proxy.request_log import refusals
from proxy.request_log.refusals import NO_TOKEN, Refusal, RefusalCounts
from proxy.request_log.writer import write_refusals
from tests.support import factories
from tests.support.load import Client
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream, eventually

MINUTE = 29_700_000
NOON = MINUTE * 60.0
ENDPOINT = uuid4()


def counted(taken: list[Refusal]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for one in taken:
        counts[one.token_id, one.code] += one.times
    return counts


# --- In memory -----------------------------------------------------------------------------------------------------


def test_refusals_are_counted_by_token_minute_and_code() -> None:
    counts = RefusalCounts()
    for token, code, at in (("a", "x", 1), ("a", "x", 3), ("a", "y", 4), ("b", "x", 5), ("a", "x", 61)):
        counts.add(ENDPOINT, token, code, NOON + at)
    assert counts.waiting == 5
    assert counts.take(NOON + 62) == [
        Refusal(ENDPOINT, "a", MINUTE, "x", 2, NOON + 3),
        Refusal(ENDPOINT, "a", MINUTE, "y", 1, NOON + 4),
        Refusal(ENDPOINT, "b", MINUTE, "x", 1, NOON + 5),
        Refusal(ENDPOINT, "a", MINUTE + 1, "x", 1, NOON + 61),
    ]
    assert counts.take(NOON + 62) == []
    assert counts.waiting == 0


def test_put_back_counts_again() -> None:
    counts = RefusalCounts()
    counts.add(ENDPOINT, "a", "x", NOON)
    taken = counts.take(NOON + 60)
    counts.add(ENDPOINT, "a", "x", NOON + 1)
    counts.put_back(taken)
    assert counts.take(NOON + 60) == [Refusal(ENDPOINT, "a", MINUTE, "x", 2, NOON + 1)]


def test_many_tokens_of_one_endpoint_share_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_TOKEN_KEYS_OF_ENDPOINT", 3)
    counts = RefusalCounts()
    taken: list[Refusal] = []
    for number in range(20):
        counts.add(ENDPOINT, f"token-{number}", "x", NOON + number)
        taken += counts.take(NOON + number)  # writing does not give an endpoint new rows in the same minute
    assert counted(taken) == {("token-0", "x"): 1, ("token-1", "x"): 1, ("token-2", "x"): 1, (NO_TOKEN, "x"): 17}
    assert len({(one.token_id, one.minute) for one in taken}) == 4
    assert counts.lost == 0


def test_memory_is_bounded_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour without a database: one endpoint has its share, another still has room."""
    monkeypatch.setattr(refusals, "MAX_KEYS_OF_ENDPOINT", 20)
    monkeypatch.setattr(refusals, "MAX_TOKEN_KEYS_OF_ENDPOINT", 10)
    monkeypatch.setattr(refusals, "MAX_KEYS", 30)
    counts = RefusalCounts()
    for minute in range(60):
        for token in range(30):
            counts.add(ENDPOINT, f"token-{token}", "x", NOON + minute * 60)
    assert len(counts) <= 20
    other = uuid4()
    for minute in range(10):
        counts.add(other, "a", "x", NOON + minute * 60)
    for _ in range(1000):
        counts.add(uuid4(), "a", "x", NOON)
    assert len(counts) == 30
    taken = counts.take(NOON + 3600 * 2)
    assert sum(one.times for one in taken if one.endpoint_id == other) == 10
    assert sum(one.times for one in taken) + counts.lost == 60 * 30 + 10 + 1000
    assert len(counts) == 0


# --- In the database -----------------------------------------------------------------------------------------------


def test_counts_are_added_and_the_last_time_is_kept(transactional_db: None) -> None:
    made = factories.make_endpoint(owner=factories.make_user())

    def refusal(times: int, second: float) -> Refusal:
        return Refusal(made.endpoint.pk, made.token.pk, MINUTE, "rate_limited", times, NOON + second)

    write_refusals([refusal(3, 30)])
    write_refusals([refusal(4, 20), Refusal(made.endpoint.pk, NO_TOKEN, MINUTE, "rate_limited", 1, NOON)])
    shared, own = RefusalCount.objects.order_by("token_id")
    assert (own.count, own.minute, own.last_at) == (
        7,
        datetime.fromtimestamp(NOON, UTC),
        datetime.fromtimestamp(NOON + 30, UTC),
    )
    assert (shared.token_id, shared.count) == (NO_TOKEN, 1)
    assert not RequestRecord.objects.exists()
    assert not RequestRollup.objects.exists(), "a flood does not distort the figures"
    made.token.refresh_from_db()
    assert made.token.last_used_at is None


def test_deleted_endpoint_takes_its_refusals_along(transactional_db: None) -> None:
    kept, deleted = (factories.make_endpoint(owner=factories.make_user(f"{n}@example.org")) for n in "ab")
    for made in (kept, deleted):
        write_refusals([Refusal(made.endpoint.pk, made.token.pk, MINUTE, "rate_limited", 3, NOON)])
    deleted.endpoint.delete()
    assert [refusal.endpoint_id for refusal in RefusalCount.objects.all()] == [kept.endpoint.pk]


# --- With real servers ---------------------------------------------------------------------------------------------


async def send(strake: Strake, endpoint: Endpoint, count: int, path: str = "/v1/models") -> Counter[tuple[int, str]]:
    client, seen = Client(strake.address), Counter[tuple[int, str]]()
    for _ in range(count):
        sample = await client.request(endpoint.path + path, endpoint.token)
        seen[sample.status, sample.error] += 1
    await client.close()
    return seen


def refusals_of(strake: Strake, endpoint: Endpoint) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = strake.call("refusals", subdomain=endpoint.subdomain)["refusals"]
    return rows


def total(rows: list[dict[str, Any]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row["code"]] += row["count"]
    return counts


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_flood_with_a_revoked_token_is_a_few_rows(
    database: str, run_strake: Callable[..., Strake], upstream: Upstream, request: pytest.FixtureRequest
) -> None:
    environment = {"DATABASE_URL": request.getfixturevalue("migrated_url")} if database == "postgresql" else {}
    strake = run_strake(**environment)
    endpoint = strake.connect(upstream.url)
    strake.revoke(endpoint)
    seen = asyncio.run(send(strake, endpoint, 1000))
    assert seen.keys() == {(401, "invalid_token"), (429, "too_many_refusals")}
    eventually(lambda: total(refusals_of(strake, endpoint)).total() == 1000, 10)
    rows = refusals_of(strake, endpoint)
    assert total(rows) == {code: count for (_, code), count in seen.items()}
    assert {row["token_id"] for row in rows} == {endpoint.token_id}
    assert len(rows) <= 2 * 5, "one row a minute and code, and it did not take five minutes"
    assert strake.call("records", subdomain=endpoint.subdomain)["records"] == []


def test_each_refusal_before_forwarding_is_counted(strake: Strake, upstream: Upstream) -> None:
    """A request that was forwarded is a record, with Strake's code if it failed."""
    endpoint = strake.connect(upstream.url)
    limited = strake.issue(endpoint, requests_per_minute=1)
    paths = strake.issue(endpoint, allowed_paths=["GET /allowed"])
    unreachable = strake.connect("http://127.0.0.1:9")
    for one, path, status in (
        (limited, "/", 200),
        (limited, "/", 429),
        (paths, "/forbidden", 403),
        (endpoint, "/a//b", 400),  # found before the look-up, so nobody knows whose it is
        (unreachable, "/", 502),
    ):
        assert httpx.get(one.url + path, headers=one.bearer).status_code == status
    strake.call("pause", subdomain=endpoint.subdomain)
    assert httpx.get(endpoint.url, headers=endpoint.bearer).status_code == 403
    eventually(lambda: len(refusals_of(strake, endpoint)) == 3, 10)
    assert [(row["token_id"], row["code"], row["count"]) for row in refusals_of(strake, endpoint)] == [
        (limited.token_id, "rate_limited", 1),
        (paths.token_id, "path_not_allowed", 1),
        (endpoint.token_id, "endpoint_paused", 1),
    ]

    def records(of: Endpoint) -> list[tuple[int, str]]:
        found = strake.call("records", subdomain=of.subdomain)["records"]
        return [(record["status"], record["error"]) for record in found]

    eventually(lambda: records(unreachable), 10)
    assert records(unreachable) == [(502, "upstream_refused")]
    assert records(endpoint) == [(200, "")]
