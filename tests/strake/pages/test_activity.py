"""Activity: filters in the URL, CSV with the same filters, and times in the reader's zone. The theme."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from io import StringIO

import pytest
import time_machine
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import User
from proxy.models import RefusalCount, RequestRecord
from strake.pages import request_lines
from tests.support import factories
from tests.support.factories import Connected
from tests.support.pages import text

ZONE_COOKIE = settings.STRAKE_COOKIE.format("timezone")
NOW = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)


def requests_of(alice: User) -> Connected:
    """An endpoint with a request of each kind. Their latencies and counts tell them apart."""
    made = factories.make_endpoint(owner=alice, label="=laptop")
    for latency, status, error, age in ((201, 200, "", 0), (401, 401, "", 1), (502, 502, "upstream_refused", 30)):
        RequestRecord.objects.create(
            endpoint=made.endpoint,
            token=made.token,
            status=status,
            error=error,
            latency_ms=latency,
            first_byte_ms=latency - 1,
            at=timezone.now() - timedelta(hours=age),
        )
    minute = timezone.now().replace(second=0, microsecond=0)
    RefusalCount.objects.create(
        endpoint=made.endpoint, token=made.token, minute=minute, code="rate_limited", count=429, last_at=timezone.now()
    )
    return made


@pytest.fixture
def made(client: Client, alice: User) -> Connected:
    client.force_login(alice)
    return requests_of(alice)


def rows(client: Client, query: dict[str, str]) -> list[dict[str, str]]:
    response = client.get("/activity/requests.csv", query)
    assert response.headers["Content-Disposition"] == 'attachment; filename="strake-activity.csv"'
    return list(csv.DictReader(StringIO(response.getvalue().decode())))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, {"201", "401", "502", "429"}),
        ({"outcome": "refused"}, {"401", "429"}),
        ({"status": "429"}, {"429"}),
        ({"status": "401"}, {"401"}),
        ({"status": "401", "outcome": "failed"}, set()),
        ({"error": "any"}, {"502", "429"}),
        ({"error": "upstream_refused"}, {"502"}),
        ({"error": "rate_limited"}, {"429"}),
        ({"since": "2026-11-30"}, {"201", "401", "429"}),
        ({"until": "2026-11-29"}, {"502"}),
    ],
)
def test_filters_choose_the_same_lines_on_the_page_and_in_csv(
    client: Client, alice: User, query: dict[str, str], found: set[str]
) -> None:
    with time_machine.travel(NOW, tick=False):
        client.force_login(alice)
        requests_of(alice)
        page = text(client.get("/activity/", query))
        shown = {n for n in ("201", "401", "502") if f"{n} ms" in page} | ({"429"} if "429 times" in page else set())
        exported = {row["total_ms"] or row["count"] for row in rows(client, query)}
    assert shown == exported == found


def test_token_is_a_filter_of_its_endpoint(client: Client, alice: User, made: Connected) -> None:
    other, _ = factories.make_token(endpoint=made.endpoint, label="other")
    RequestRecord.objects.create(endpoint=made.endpoint, token=other, status=200, latency_ms=777, at=timezone.now())
    here = {"endpoint": made.endpoint.subdomain}
    assert {row["total_ms"] for row in rows(client, here | {"token": other.pk})} == {"777"}
    assert "other" in text(client.get("/activity/", here))
    refused = client.get("/activity/", here | {"token": "ctok_of_somebody_else"})
    assert refused.status_code == HTTPStatus.BAD_REQUEST


def test_csv_has_every_line_once_and_no_formula(
    client: Client, made: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = timezone.now() - timedelta(hours=2)
    RequestRecord.objects.bulk_create(
        RequestRecord(endpoint=made.endpoint, token=made.token, status=200, latency_ms=1000 + number, at=at)
        for number in range(50)
    )
    monkeypatch.setattr(request_lines.all_lines, "__kwdefaults__", {"chunk": 7})
    found = rows(client, {})
    assert sorted(row["total_ms"] for row in found if len(row["total_ms"]) == 4) == [str(1000 + n) for n in range(50)]
    assert len(found) == 54
    assert {row["endpoint"] for row in found} == {"'=laptop"}


def test_csv_is_of_the_person_only(bob: User, made: Connected) -> None:
    other = Client()
    other.force_login(bob)
    assert rows(other, {}) == []
    response = other.get("/activity/requests.csv", {"endpoint": made.endpoint.subdomain})
    assert response.status_code == HTTPStatus.NOT_FOUND


def test_refusal_says_whose_it_is_and_what_to_do(client: Client, made: Connected) -> None:
    page = text(client.get("/activity/"))
    assert "From Strake: rate_limited" in page
    assert "The token has used up its requests per minute." in page
    assert "Strake passed the answer on unchanged" in page


def test_times_are_in_the_zone_of_the_cookie(client: Client, alice: User) -> None:
    client.force_login(alice)
    made = factories.make_endpoint(owner=alice)
    at = datetime(2026, 11, 29, 20, 30, 15, tzinfo=UTC)
    RequestRecord.objects.create(endpoint=made.endpoint, token=made.token, status=200, latency_ms=1, at=at)
    assert "Time (UTC) Result Endpoint Token First byte Total time Sunday, 29 November 2026 20:30:15" in text(
        client.get("/activity/")
    )
    client.cookies[ZONE_COOKIE] = "Asia/Kolkata"
    assert "Monday, 30 November 2026 02:00:15" in text(client.get("/activity/", {"since": "2026-11-30"}))
    for name in ("Mars/Olympus", "../../etc/passwd", "/etc/passwd", "a" * 4000, "\0"):
        client.cookies[ZONE_COOKIE] = name
        assert "20:30:15" in text(client.get("/activity/")), name


def test_theme_is_kept_and_leads_back(client: Client) -> None:
    response = client.get("/theme/?theme=dark", headers={"Referer": "http://testserver/security/?x=1"})
    assert (response.status_code, response.headers["Location"]) == (HTTPStatus.SEE_OTHER, "/security/?x=1")
    assert '<html lang="en" data-theme="dark">' in client.get("/security/").text
    for referer in ("https://evil.example/security/", "http://testserver//evil.example/", ""):
        response = client.get("/theme/?theme=", headers={"Referer": referer})
        assert response.headers["Location"] == "/", referer
    assert '<html lang="en">' in client.get("/security/").text


# --- What the database does ------------------------------------------------------------------------------------------


def plans(table: str, queries: CaptureQueriesContext) -> list[str]:
    """SQLite's plan of each query that reads a table."""
    found = []
    for query in queries.captured_queries:
        if f'FROM "{table}"' in query["sql"]:
            with connection.cursor() as cursor:
                rows = cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}").fetchall()
            found.append("; ".join(row[-1] for row in rows))
    return found


def test_requests_of_one_endpoint_come_in_the_order_of_the_index(alice: User) -> None:
    """Only requests of the same moment are sorted, so the database stops at the last line of a page."""
    endpoint = factories.make_endpoint(owner=alice).endpoint
    with CaptureQueriesContext(connection) as queries:
        request_lines.newest_lines(endpoint, 50, filters=request_lines.Filters(outcome="failed"))
    found = plans("proxy_requestrecord", queries)
    assert found
    for plan in found:
        assert "USING INDEX proxy_record_by_endpoint (endpoint_id=?" in plan
        assert "TEMP B-TREE FOR ORDER BY" not in plan


def test_sum_to_sort_by_is_computed_once_for_each_endpoint(client: Client, alice: User) -> None:
    factories.make_endpoint(owner=alice)
    client.force_login(alice)
    with CaptureQueriesContext(connection) as queries:
        assert client.get("/endpoints/?sort=requests").status_code == 200
    listed = [query["sql"] for query in queries.captured_queries if 'FROM "credentials_endpoint"' in query["sql"]]
    counted = [sql for sql in listed if sql.startswith("SELECT COUNT(")]
    assert counted
    assert not any("proxy_rollup" in sql for sql in counted)
    assert not any('JOIN "credentials_bearertoken"' in sql for sql in listed)
