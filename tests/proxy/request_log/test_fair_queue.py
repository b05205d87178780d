"""The queue of the request log: bounded, and fair to every endpoint."""

from __future__ import annotations

import time
from collections import Counter
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from proxy.request_log.fair_queue import FairQueue
from proxy.request_log.writer import Entry


def entry(endpoint: int, number: int = 0) -> Entry:
    return Entry(UUID(int=endpoint), "ctok_a", 200, number, None, float(number))


def test_entries_of_an_endpoint_stay_in_order() -> None:
    queue = FairQueue(100)
    given = [entry(number % 3, number) for number in range(90)]
    for one in given:
        assert queue.add(one) is None
    taken = queue.take(20)
    queue.put_back(taken)
    taken = [*queue.take(31), *queue.take(1000)]
    assert len(queue) == 0
    for endpoint in range(3):
        assert [one for one in taken if one.endpoint_id.int == endpoint] == given[endpoint::3]


def test_endpoint_with_the_most_entries_loses_its_oldest() -> None:
    queue = FairQueue(10)
    for number in range(3):
        queue.add(entry(1, number))
    lost = [queue.add(entry(2, number)) for number in range(50)]
    assert lost == [None] * 7 + [UUID(int=2)] * 43
    # A third may come to its fair share, from the one that has the most.
    assert [queue.add(entry(3, number)) for number in range(2)] == [UUID(int=2)] * 2
    assert [(one.endpoint_id.int, one.latency_ms) for one in queue.take(20)] == [
        *((1, number) for number in range(3)),
        *((2, number) for number in range(45, 50)),
        *((3, number) for number in range(2)),
    ]


def test_put_back_over_the_limit_drops_the_oldest() -> None:
    queue = FairQueue(10)
    for number in range(10):
        queue.add(entry(1, number))
    taken = queue.take(10)
    queue.add(entry(2))
    for number in range(10, 15):
        queue.add(entry(1, number))
    assert queue.put_back(taken) == [UUID(int=1)] * 6
    assert sorted((one.endpoint_id.int, one.latency_ms) for one in queue.take(20)) == [
        *((1, number) for number in range(6, 15)),
        (2, 0),
    ]


@given(
    size=st.integers(2, 8),
    # Entries of these endpoints, and between them `take`, sometimes with `put_back`.
    steps=st.lists(
        st.one_of(*[st.integers(0, 4)] * 4, st.tuples(st.integers(1, 4), st.booleans())), min_size=20, max_size=80
    ),
)
def test_any_order_of_calls_keeps_the_shares(size: int, steps: list[int | tuple[int, bool]]) -> None:
    """Only an endpoint that has the most entries loses one, and only if the queue is full."""
    queue, counts = FairQueue(size), Counter[int]()
    for number, step in enumerate(steps):
        if isinstance(step, int):
            counts[step] += 1
            loser = queue.add(entry(step, number))
            assert (loser is not None) == (counts.total() > size)
            if loser is not None:
                assert counts[loser.int] == max(counts.values())
                counts[loser.int] -= 1
        else:
            taken = queue.take(step[0])
            counts.subtract(one.endpoint_id.int for one in taken)
            if step[1]:
                assert queue.put_back(taken) == []
                counts.update(one.endpoint_id.int for one in taken)
        assert len(queue) == counts.total()
    left = Counter(one.endpoint_id.int for one in queue.take(size))
    assert left == +counts


def test_full_queue_of_many_endpoints_is_fast() -> None:
    """Looking for the longest among 50,000 at each entry would take minutes."""
    queue = FairQueue(50_000)
    for number in range(50_000):
        queue.add(entry(number))
    started = time.process_time()
    for number in range(50_000):
        assert queue.add(entry(50_000 + number % 7)) is not None
    assert time.process_time() - started < 10
