"""The operations of the management API about the requests to an endpoint: usage, single requests, connection test."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from django.http import HttpRequest
from ninja import Field, Query, Router, Schema
from pydantic import SecretStr

from credentials import providers, services
from credentials.api import cursors
from credentials.api.access import TOKENS, actor_of
from credentials.api.cursors import Cursor, Limit
from credentials.api.document import errors
from credentials.api.endpoints import Subdomain
from credentials.api.errors import InvalidCursor
from credentials.api.schemas import Body, ErrorAnswer, TokenIdText
from proxy import connection_test
from proxy.connection_test import Result
from proxy.request_log.stats import PERIODS, steps_of
from proxy.request_log.usage import buckets
from strake.pages.request_lines import ANY_ERROR, Filters, Line, newest_lines, position

FilterToken = Annotated[TokenIdText | None, Query(description="Only of this token.")]

router = Router()


# --- Usage ---------------------------------------------------------------------------------------------------------


class UsageTotal(Schema):
    requests: int = Field(description="Those that were forwarded, or failed on the way to the provider.")
    good: int = Field(description="Status below 400.")
    refused: int = Field(description="Status 4xx.")
    failed: int = Field(description="Status 5xx.")
    stopped: int = Field(description="Those that Strake refused before. They are not among requests.")
    p50_ms: int | None = Field(description="Of all latencies. null: no request was answered.")
    p95_ms: int | None


class UsageBucket(Schema):
    start: datetime
    token_id: str
    status_class: int = Field(description="2 for 2xx, 4 for 4xx, …")
    requests: int
    p50_ms: int | None
    p95_ms: int | None


class Usage(Schema):
    since: datetime
    total: UsageTotal = Field(description="Of every token, as on the endpoint's page.")
    buckets: list[UsageBucket] = Field(description="Oldest first. Hours and days without requests are left out.")


class OneUsage(Schema):
    usage: Usage


@router.get("/usage", response={200: OneUsage, errors(404, 422): ErrorAnswer}, summary="Show the usage of an endpoint")
def show_usage(
    request: HttpRequest,
    subdomain: Subdomain,
    period: Annotated[Literal["24h", "7d", "30d"], Query()] = "24h",
    bucket: Annotated[Literal["hour", "day"], Query(description="Days are those of UTC.")] = "hour",
    token: FilterToken = None,
) -> OneUsage:
    """Totals of a period that ends now, and the requests by hour or day, token and status class.

    Counted from the request log, which is up to 5 seconds late.
    """
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    _, total = steps_of(endpoint, PERIODS[period])
    found = buckets(endpoint, total.start, by_day=bucket == "day", token_id=token or "")
    return OneUsage(
        usage=Usage(
            since=total.start,
            total=UsageTotal(
                requests=total.total,
                good=total.good,
                refused=total.refused,
                failed=total.failed,
                stopped=total.stopped,
                p50_ms=total.p50,
                p95_ms=total.p95,
            ),
            buckets=[
                UsageBucket(
                    start=one.start,
                    token_id=one.token_id,
                    status_class=one.status_class,
                    requests=one.count,
                    p50_ms=one.percentile(0.5),
                    p95_ms=one.percentile(0.95),
                )
                for one in found
            ],
        )
    )


# --- Requests ------------------------------------------------------------------------------------------------------


class RequestLine(Schema):
    at: datetime
    token_id: str | None = Field(description="null: several tokens, whose refusals were counted together.")
    token: str = Field(description="The label of the token.")
    status: int
    error: str = Field(description='Strake\'s error code, or "" if the provider answered.')
    count: int = Field(description="1, or how many requests Strake refused in one minute for this reason.")
    phase: str = Field(description="opened or closed, for the two lines of a WebSocket connection.")
    first_byte_ms: int | None
    latency_ms: int | None


class Requests(Schema):
    requests: list[RequestLine]
    next: str | None = Field(description="The cursor of the next page, or null.")


@router.get(
    "/requests", response={200: Requests, errors(404, 422): ErrorAnswer}, summary="List the requests to an endpoint"
)
def list_requests(
    request: HttpRequest,
    subdomain: Subdomain,
    token: FilterToken = None,
    status: Annotated[int | None, Query(ge=100, le=599)] = None,
    error: Annotated[
        str,
        Query(max_length=32, pattern=r"^[a-z_]*$", description=f"A code of Strake, or {ANY_ERROR} for any."),
    ] = "",
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Requests:
    """Newest first. Those that Strake refused are one line a minute."""
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    after = None if cursor is None else position(cursors.decode(cursor))
    if cursor is not None and after is None:
        raise InvalidCursor
    lines = newest_lines(
        endpoint,
        limit + 1,
        filters=Filters(status=status, error=error, token_id=token or ""),
        after=after,
    )
    following = cursors.encode(lines[limit - 1].position) if len(lines) > limit else None
    return Requests(requests=[_line(line) for line in lines[:limit]], next=following)


def _line(line: Line) -> RequestLine:
    return RequestLine(
        at=line.at,
        token_id=line.token_id or None,
        token=line.token,
        status=line.status,
        error=line.error,
        count=line.count,
        phase=line.phase,
        first_byte_ms=line.first_byte_ms,
        latency_ms=line.latency_ms,
    )


# --- Connection test -----------------------------------------------------------------------------------------------


class TokenToTest(Body):
    token: SecretStr = Field(max_length=200, description="A bearer token of the endpoint. Not stored.")


class ConnectionResult(Schema):
    tried: str | None = Field(description="The method and path of the request. null: the token allows none.")
    works: bool
    status: int | None
    error: str = Field(description='Strake\'s error code, or "" if the provider answered.')
    problem: str | None = Field(description="Why there is no response: nothing_to_try, proxy_unreachable or timeout.")
    latency_ms: int | None


class OneConnectionTest(Schema):
    result: ConnectionResult


@router.post(
    "/test",
    response={200: OneConnectionTest, errors(404, 422): ErrorAnswer},
    summary="Test the connection",
    auth=TOKENS,
)
def test_connection(request: HttpRequest, subdomain: Subdomain, body: TokenToTest) -> OneConnectionTest:
    """Sends one harmless request through the endpoint, as a tool would."""
    actor = actor_of(request)
    endpoint = services.get_endpoint(actor=actor, subdomain=subdomain)
    result = connection_test.call(
        endpoint=endpoint,
        provider=providers.get(endpoint.provider),
        token=body.token.get_secret_value(),
        address=actor.ip,
    )
    return OneConnectionTest(result=_result(result))


def _result(result: Result) -> ConnectionResult:
    return ConnectionResult(
        tried=None if result.attempt is None else str(result.attempt),
        works=result.works,
        status=result.status or None,
        error=result.error,
        problem=None if result.problem is None else result.problem.value,
        latency_ms=result.latency_ms,
    )
