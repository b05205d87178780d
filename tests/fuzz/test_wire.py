"""Mutated requests and responses: a fixed number of them, and those that once were a fault."""

from __future__ import annotations

import pytest

from tests.fuzz import wire, wire_seeds
from tests.fuzz.parsers import seeds
from tests.fuzz.wire import Wire
from tests.support.running import Endpoint, Strake
from tests.support.smuggling import fill
from tests.support.upstream import Upstream

ITERATIONS = 40


@pytest.fixture
def between(strake: Strake, upstream: Upstream, endpoint: Endpoint) -> Wire:
    return Wire(strake, upstream, endpoint)


@pytest.mark.parametrize("kind", ["requests", "responses"])
def test_mutated_message_has_one_reading(kind: str, between: Wire) -> None:
    executions, found = wire.run(between, kind, seed=5, iterations=ITERATIONS)
    assert executions == ITERATIONS
    assert not found


@pytest.mark.parametrize("kind", ["requests", "responses"])
@pytest.mark.parametrize("then", ["close", "keep"])
def test_message_that_was_a_fault_stays_mended(kind: str, then: str, between: Wire) -> None:
    for data in seeds(kind):
        assert wire.check(between, kind, data, then, wait=1.0) == ""
    assert between.check_next_request() == ""


def test_second_parser_reads_the_requests_of_sdks(between: Wire) -> None:
    """A parser that refused everything would agree with everything."""
    for data in wire_seeds.SDK_REQUESTS:
        assert len(wire.requests_in(fill(data, between.endpoint))) == 1, data
    for data in wire_seeds.RESPONSES[:3]:
        assert wire.response_in(data, closed=False) is not None
