"""Forwarded responses say how long Strake took itself, and trace headers pass unchanged."""

from __future__ import annotations

import asyncio
import re

import httpx

from tests.support.running import Strake
from tests.support.upstream import Exchange, Upstream, fixed

TIMING = re.compile(r"strake;dur=(\d+(?:\.\d+)?)")


def test_answer_has_a_server_timing(strake: Strake, upstream: Upstream) -> None:
    endpoint = strake.connect(upstream.url)
    response = httpx.get(f"{endpoint.url}/v1/models", headers=endpoint.bearer)
    found = TIMING.fullmatch(response.headers["server-timing"])
    assert found is not None
    assert float(found[1]) < response.elapsed.total_seconds() * 1000 + 1


def test_timing_does_not_count_the_wait_for_the_provider(strake: Strake, upstream: Upstream) -> None:
    endpoint = strake.connect(upstream.url)

    async def late(exchange: Exchange) -> None:
        await asyncio.sleep(3)
        await exchange.respond(200, [], b"late")

    upstream.on("/slow", late)
    response = httpx.get(f"{endpoint.url}/slow", headers=endpoint.bearer)
    found = TIMING.fullmatch(response.headers["server-timing"])
    assert found is not None
    assert float(found[1]) + 2900 < response.elapsed.total_seconds() * 1000


def test_timing_of_the_provider_stays(strake: Strake, upstream: Upstream) -> None:
    endpoint = strake.connect(upstream.url)
    upstream.on("/timed", fixed(200, [("Server-Timing", "model;dur=7")], b"ok"))
    for browser in ({}, {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "cross-site"}):
        response = httpx.get(f"{endpoint.url}/timed", headers=endpoint.bearer | browser)
        provider, own = response.headers.get_list("server-timing")
        assert provider == "model;dur=7"
        assert TIMING.fullmatch(own)


def test_own_errors_have_no_timing(strake: Strake, upstream: Upstream) -> None:
    endpoint = strake.connect(upstream.url)
    response = httpx.get(f"{endpoint.url}/x", headers={"Authorization": "Bearer nobody"})
    assert (response.status_code, "server-timing" in response.headers) == (401, False)


def test_trace_headers_pass_unchanged(strake: Strake, upstream: Upstream) -> None:
    endpoint = strake.connect(upstream.url)
    trace = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "congo=t61rcWkgMzE, rojo=00f067aa0ba902b7",
        "baggage": "user=1",
    }
    httpx.get(f"{endpoint.url}/v1/models", headers=endpoint.bearer | trace)
    sent = upstream.exchanges[-1]
    assert {name: sent.header(name) for name in trace} == {name: value.encode() for name, value in trace.items()}
