"""The measuring functions of `bench/` measure: against processes and servers whose use and faults are known."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from bench import bodies, closed_loop, gateways, measures, slo, streams, tail, targets
from bench.gateways import Gateway, Target
from bench.open_loop import OpenLoop
from bench.streams import Case
from bench.tables import NOT_MEASURED, Results, percentile, shown, table
from bench.upstream import stream_body

CASE = Case(count=8, gap=0.02, seconds=0.5)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
WRK = """Running 1s test @ http://127.0.0.1:8000/v1/chat/completions
  Latency Distribution
     50%  431.00us
     75%    1.20ms
     90%    1.50ms
     99%    2.25s
  4242 requests in 1.00s, 2.77MB read
Requests/sec:   4238.11
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[Gateway]:
    with gateways.provider() as running:
        yield running


@contextmanager
def child(code: str) -> Iterator[tuple[int, str]]:
    """A Python process that runs `code`, prints a line, and waits. Yields its id and that line."""
    command = [sys.executable, "-c", f"import sys\n{code}\nsys.stdout.flush(); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        yield process.pid, process.stdout.readline()
        process.stdin.close()


@asynccontextmanager
async def answering(response: bytes, *, closes: bool = True) -> AsyncIterator[Target]:
    """A server that gives every request this response, and then closes the connection, or does not."""

    answers: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response)
            while not closes:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(response)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers.append(asyncio.create_task(answer(reader, writer)))

    async with await asyncio.start_server(accept, "127.0.0.1") as server:
        yield Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await asyncio.gather(*answers)


# --- Processor time and memory -------------------------------------------------------------------------------------

SPIN = """
import threading, time
def spin():
    while time.thread_time() < 0.3: pass
thread = threading.Thread(target=lambda: (spin(), done.set(), time.sleep(600)), daemon=True)
done = threading.Event(); thread.start(); spin(); done.wait()
print(time.process_time())
"""


def test_cpu_seconds_count_every_thread() -> None:
    with child(SPIN) as (pid, line):
        assert measures.cpu_seconds([pid]) == pytest.approx(float(line), abs=0.1)


def test_tree_contains_grandchildren() -> None:
    # The grandchild reads the pipe of this process until it is closed. With "&" alone, a shell has it read /dev/null.
    code = "import subprocess; subprocess.Popen(['sh', '-c', 'exec 3<&0; cat <&3 & echo $!; wait'])"
    with child(code) as (pid, line):
        assert int(line) in measures.tree(pid)
        assert len(measures.tree(pid)) == 3


def test_memory_counts_what_was_written() -> None:
    with child("print()") as (small, _), child("x = b'x' * 64_000_000; print()") as (large, _):
        assert measures.memory_kb([small], "Private_Dirty") < measures.memory_kb([small], "Pss")
        assert measures.memory_kb([small], "Pss") < measures.memory_kb([small], "Rss")
        for field in ("Private_Dirty", "Pss"):
            grown = measures.memory_kb([large], field) - measures.memory_kb([small], field)
            assert grown == pytest.approx(64_000_000 / 1024, rel=0.05)
        assert measures.memory_kb([small, large], "Pss") > measures.memory_kb([large], "Pss")


def test_metered_counts_only_the_block(provider: Gateway) -> None:
    spin = "import time\nprint(flush=True)\nwhile time.thread_time() < 0.4: pass"
    with child(SPIN) as (pid, _), child(spin) as (store, _):
        gateway = Gateway("idle", [], pid, stores=lambda: [store])
        with gateways.metered(gateway) as spent:
            while measures.cpu_seconds([store]) < 0.4:
                time.sleep(0.01)
        assert spent.gateway < 0.1
        assert spent.stores > 0.1


# --- Load ----------------------------------------------------------------------------------------------------------


def test_wrk_report_is_read() -> None:
    load = closed_loop.parse(WRK)
    assert load == closed_loop.Load(requests=4242, rps=4238.11, p50=0.431, p99=2250.0)


@pytest.mark.parametrize(
    "line", ["  Non-2xx or 3xx responses: 3\n", "  Socket errors: connect 0, read 7, write 0, timeout 0\n"]
)
def test_errors_in_a_wrk_report_are_not_a_result(line: str) -> None:
    with pytest.raises(RuntimeError, match="not every request"):
        closed_loop.parse(WRK + line)


def test_search_finds_the_highest_rate() -> None:
    assert slo.search(lambda rate: rate <= 700, 100, 1000, 8) == pytest.approx(700, rel=0.02)
    assert slo.search(lambda rate: False, 100, 1000, 8) == 0


def test_open_loop_compares_with_the_bound(provider: Gateway) -> None:
    assert slo.keeps(provider.targets[0], rate=2000, seconds=0.25, bound=10_000)
    assert not slo.keeps(provider.targets[0], rate=2000, seconds=0.25, bound=0.0001)


@pytest.mark.parametrize(("start", "closes"), [(b"HTTP/1.1 500 Oops\r\n", False), (OK, True)])
async def test_open_loop_accepts_no_error(start: bytes, closes: bool) -> None:
    async with answering(start + b"content-length: 0\r\n\r\n", closes=closes) as target:
        load = OpenLoop(target, target.head("/", 0), rate=200, seconds=0.5, bound=math.inf)
        assert not await load.keeps()


# --- Streams -------------------------------------------------------------------------------------------------------


async def test_whole_streams_are_measured(provider: Gateway) -> None:
    outcome = await streams.hold(provider, CASE)
    assert outcome.broken == 0
    assert outcome.open == CASE.count
    assert 0 < outcome.events_per_second < 3 * CASE.count / CASE.gap
    assert 0 < outcome.cpu < 10_000
    assert 0 < outcome.p50 <= outcome.p99


EVENT = b'19\r\ndata: {"content": "1.0"}\n\n\r\n'
BROKEN = {
    "cut short": CHUNKED + EVENT,
    "an event is missing": CHUNKED + EVENT + b"0\r\n\r\n",
    "refused": b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("response", BROKEN.values(), ids=BROKEN)
async def test_broken_streams_are_noticed(response: bytes) -> None:
    request = stream_body(2, 0.01)
    async with answering(response) as target:
        tally = streams.Tally(1)
        assert not await streams.read(target, target.head("/", len(request)) + request, 2, tally)
        assert tally.ended == 1


async def test_stream_in_pieces_is_whole() -> None:
    tally = streams.Tally(1)
    stream = streams.Stream(b"", 2, tally)
    async with answering(b"") as target:
        await asyncio.get_running_loop().create_connection(lambda: stream, *target.address)
        for byte in CHUNKED + EVENT + EVENT + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n":
            stream.data_received(bytes([byte]))
        assert await asyncio.wait_for(stream.whole, 60)
    assert len(tally.delays) == 2


# --- Bodies --------------------------------------------------------------------------------------------------------


def test_bodies_arrive_whole(provider: Gateway) -> None:
    results = Results()
    bodies.measure(provider, results, 3_000_001)
    assert results.median("direct", "download rate") > 0
    assert results.median("direct", "upload rate") > 0
    assert results.median("direct", "upload cpu") > 0


async def test_body_cut_short_is_noticed() -> None:
    async with answering(OK + b"content-length: 1000\r\n\r\n" + bytes(10)) as target:
        gateway = Gateway("cut", [target], 0)
        with pytest.raises(RuntimeError, match="download of 1000 bytes"):
            await asyncio.to_thread(bodies.measure, gateway, Results(), 1000)
        assert await asyncio.to_thread(bodies.upload, target, 1000) == 0


# --- Tables --------------------------------------------------------------------------------------------------------


def test_ratio_is_the_median_of_each_rounds_ratio() -> None:
    results = Results()
    for results.round, (fast, slow) in enumerate(((100, 10), (7, None), (20, 4), (30, 10))):
        results.add("strake", "rps", fast)
        if slow is not None:  # a gateway that failed in this round
            results.add("other", "rps", slow)
    assert results.ratio("strake", "other", "rps") == 5
    assert results.median("strake", "rps") == 25
    assert results.worst("strake", "rps") == 100


# --- The slowest percent -------------------------------------------------------------------------------------------


def test_windows_with_steal_do_not_count(provider: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "WINDOW", 0.02)
    readings = itertools.chain([5, 5, 5, 9], itertools.repeat(9))  # two windows, and steal in the second
    monkeypatch.setattr(tail, "steal", lambda: next(readings))
    found = tail.times(provider.targets[0], 0.04)
    assert found.seconds == pytest.approx(0.04)
    assert 0 < len(found.undisturbed) < len(found.every)


def test_a_machine_that_is_never_undisturbed_has_no_figure(provider: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "WINDOW", 0.02)
    monkeypatch.setattr(tail, "WARM_UP", 0.02)
    monkeypatch.setattr(tail, "steal", itertools.count().__next__)
    results = Results()
    tail.measure(provider, provider, results, 0.02)
    assert results.figures("direct") == ["tail every p99"]


def test_steal_is_read_from_the_kernels_counters(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  1 2 3 4 5 6 7 88 9 10\ncpu0 1 2 3 4 5 6 7 44 9 10\n")
    assert tail.steal(str(tmp_path / "stat")) == 88
    assert tail.steal() >= 0


def test_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, part) for part in (0.5, 0.99, 1.0)] == [51.0, 100.0, 100.0]


async def test_tail_refuses_errors() -> None:
    async with answering(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n") as target:
        with pytest.raises(RuntimeError, match="401"):
            await asyncio.to_thread(tail.times, target, 0.1)


def test_missing_figures_are_shown_as_such() -> None:
    results = Results()
    results.add("strake", "rps", 1.0)
    assert math.isnan(results.ratio("strake", "other", "rps"))
    assert math.isnan(results.median("other", "rps"))
    assert table(["a", "b"], [["x", shown(NOT_MEASURED)], ["y", shown(1234.5, 1)]]) == [
        "| a | b |",
        "| --- | --- |",
        "| x | - |",
        "| y | 1,234.5 |",
    ]


def test_bounds_say_whether_they_are_kept() -> None:
    results = Results()
    assert targets.table_of(results) == []
    for gateway, rate in (("strake", 1000.0), ("portkey", 90.0), ("litellm", 20.0)):
        results.add(gateway, "rps 32", rate)
    rows = targets.table_of(results)
    assert "| requests/s at 32 connections, strake / portkey | ≥ 10 | 11.11 | yes |" in rows
    assert "| requests/s at 32 connections, strake / litellm | ≥ 80 | 50.00 | no |" in rows
