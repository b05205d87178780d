"""The background queue: order, retries, giving up, bounds, and a thread that survives its jobs."""

from __future__ import annotations

import threading

import pytest

from accounts.background import BackgroundQueue


def test_jobs_run_in_order_on_another_thread() -> None:
    queue = BackgroundQueue()
    seen: list[tuple[int, bool]] = []
    for number in range(5):
        queue.submit("job", lambda number=number: seen.append((number, threading.current_thread() is not main)))  # type: ignore[misc]
    assert queue.wait(5)
    assert seen == [(number, True) for number in range(5)]


main = threading.main_thread()


def test_failing_job_is_tried_again_until_it_works(caplog: pytest.LogCaptureFixture) -> None:
    queue = BackgroundQueue(retry_seconds=(0, 0, 0))
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("secret@example.org was refused")

    queue.submit("mail", work)
    assert queue.wait(5)
    assert len(tries) == 3
    assert "mail failed with ValueError" in caplog.text
    assert "secret@example.org" not in caplog.text


def test_hopeless_job_is_given_up_visibly_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    queue = BackgroundQueue(retry_seconds=(0,))
    seen: list[str] = []

    def fail() -> None:
        raise OSError

    def give_up() -> None:
        seen.append("given up")
        raise RuntimeError

    queue.submit("mail", fail, give_up)
    queue.submit("next", lambda: seen.append("next"))
    assert queue.wait(5)
    assert sorted(seen) == ["given up", "next"]
    assert [record.levelname for record in caplog.records if "given up" in record.getMessage()] == ["ERROR"]


def test_waiting_for_a_retry_does_not_hold_up_others() -> None:
    queue = BackgroundQueue(retry_seconds=(60,))
    seen: list[str] = []

    def fail() -> None:
        raise OSError

    queue.submit("slow", fail)
    queue.submit("quick", lambda: seen.append("quick"))
    assert queue.wait(5)
    assert seen == ["quick"]


def test_full_queue_drops_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    queue = BackgroundQueue(capacity=2)
    hold, started = threading.Event(), threading.Event()

    def block() -> None:
        started.set()
        hold.wait(5)

    assert queue.submit("running", block)
    assert started.wait(5)
    assert queue.submit("one", lambda: None)
    assert queue.submit("two", lambda: None)
    assert not queue.submit("three", lambda: None)
    assert "dropped three" in caplog.text
    hold.set()
    assert queue.wait(5)
