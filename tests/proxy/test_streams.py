"""Streams: chunks leave as they arrive, slow readers slow the upstream down, and leaving is noticed in every phase."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.proxy.raw import ask, connected, exchange, get, read_head, reset
from tests.running import Endpoint, Strake
from tests.upstream import Exchange, Upstream, deaf, download, early, endless, eventually, head, silence, sse
from tests.watch import Watch, memory

MEGABYTE = 1024 * 1024


def descriptors(pid: int) -> int:
    """How many files and sockets a process has open."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:
        pytest.skip("only root may look into another process that is not dumpable")


def on_the_way() -> int:
    """How much of a stream the kernel may hold on its two connections, and the processes besides, in bytes."""
    limits = [Path(f"/proc/sys/net/ipv4/{name}").read_text().split() for name in ("tcp_rmem", "tcp_wmem")]
    return 2 * sum(int(most) for _, _, most in limits) + 4 * MEGABYTE


# --- Chunks as they arrive -------------------------------------------------------------------------------------------


def test_each_chunk_leaves_as_it_arrives(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    sent: list[float] = []

    async def script(exchange: Exchange) -> None:
        await exchange.write(head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]))
        for number in range(30):
            await asyncio.sleep(0.02)
            sent.append(time.monotonic())
            await exchange.chunk(b"data: %d\n\n" % number)
        await exchange.chunk(b"")

    upstream.on("/x", script)
    received: list[float] = []
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint))
        read_head(connection)
        while data := connection.recv(65536):
            received += [time.monotonic()] * data.count(b"data:")
            if data.endswith(b"0\r\n\r\n"):
                break
    delays = [after - before for before, after in zip(sent, received, strict=True)]
    # Less than the pause between two chunks: nothing waits for the next one. Generous, since machines may be busy.
    assert statistics.median(delays) < 0.01
    assert all(delay < 1 for delay in delays)


def test_head_leaves_before_the_first_chunk(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", sse([b"late"], wait=1.0))
    with connected(strake.address) as connection:
        started = time.monotonic()
        connection.sendall(get(endpoint))
        assert read_head(connection).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - started < 0.7


def test_first_bytes_of_an_upload_arrive_before_its_last(
    strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    for framing in ("Content-Length: 200000", "Transfer-Encoding: chunked"):
        upstream.clear()
        upstream.on("/x", early(_read_and_answer))
        piece = b"x" * 100_000
        if framing.endswith("chunked"):
            piece = b"186a0\r\n" + piece + b"\r\n"
        with connected(strake.address) as connection:
            connection.sendall(get(endpoint, "/x", framing, method="POST") + piece)
            eventually(lambda: upstream.exchanges and upstream.last.body_size == 100_000)
            connection.sendall(piece + (b"0\r\n\r\n" if framing.endswith("chunked") else b""))
            assert read_head(connection).startswith(b"HTTP/1.1 200")


async def _read_and_answer(exchange: Exchange) -> None:
    await exchange.read_body()
    await exchange.answer()


def test_comments_and_pings_pass_byte_for_byte(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    chunks = [
        b": ping\n\n",
        b"event: ping\ndata: {}\n\n",
        b"da",
        b"ta: split",
        b"\n",
        b"\n",
        b"\r\n",
        b"id\n\n",
        b"\x00\xff",
    ]
    upstream.on("/x", sse(chunks, every=0.03))
    answer = exchange(strake.address, get(endpoint), silence=2)
    wanted = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert answer.body == wanted


def test_there_is_no_wall_clock_but_an_idle_limit(impatient: Strake, upstream: Upstream) -> None:
    """With a limit of two seconds, three seconds of chunks pass and two of silence do not."""
    endpoint = impatient.connect(upstream.url)
    upstream.on("/busy", sse([b"x"] * 30, every=0.1))
    assert exchange(impatient.address, get(endpoint, "/busy"), silence=5).raw.endswith(b"0\r\n\r\n")
    upstream.on("/silent", silence)
    started = time.monotonic()
    answer = ask(impatient.address, get(endpoint, "/silent"))
    assert (answer.status, answer.all("x-strake-error")) == (504, [b"upstream_idle"])
    assert 1.5 < time.monotonic() - started < 5
    upstream.on("/stalls", sse([b"x", b"y"], every=20))
    answer = exchange(impatient.address, get(endpoint, "/stalls"), silence=8)
    assert answer.status == 200
    assert answer.closed
    assert not answer.raw.endswith(b"0\r\n\r\n")


def test_upload_may_take_longer_than_the_idle_limit(impatient: Strake, upstream: Upstream) -> None:
    endpoint = impatient.connect(upstream.url)
    with connected(impatient.address) as connection:
        connection.sendall(get(endpoint, "/x", "Content-Length: 40", method="POST"))
        for _ in range(40):
            connection.sendall(b"x")
            time.sleep(0.1)
        assert read_head(connection).startswith(b"HTTP/1.1 200")


def test_upload_that_stands_still_is_cut_off(impatient: Strake, upstream: Upstream) -> None:
    endpoint = impatient.connect(upstream.url)
    upstream.on("/x", early(_read_and_answer))
    started = time.monotonic()
    answer = exchange(impatient.address, get(endpoint, "/x", "Content-Length: 40", method="POST") + b"x", silence=8)
    assert answer.status in {0, 504}
    assert answer.closed or answer.status == 504
    assert time.monotonic() - started < 6


def test_upstream_that_does_not_read_is_given_up(impatient: Strake, upstream: Upstream) -> None:
    endpoint = impatient.connect(upstream.url)
    upstream.on("/x", deaf)
    with connected(impatient.address) as connection:
        connection.sendall(get(endpoint, "/x", "Content-Length: 100000000", method="POST"))
        started = time.monotonic()
        with contextlib.suppress(OSError):
            for _ in range(1000):
                connection.sendall(b"x" * 100_000)
        assert time.monotonic() - started < 9


def test_reader_that_stands_still_is_cut_off(impatient: Strake, upstream: Upstream) -> None:
    endpoint = impatient.connect(upstream.url)
    upstream.on("/x", endless(b"x" * 60_000))
    with connected(impatient.address, receive_buffer=4096) as connection:
        connection.sendall(get(endpoint))
        eventually(lambda: upstream.exchanges and upstream.last.closed_at, 10)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strake]:
    """A Strake that takes two seconds of silence for the end."""
    with Strake(tmp_path_factory.mktemp("impatient") / "strake", {"STRAKE_IDLE_SECONDS": "2"}) as running:
        yield running


# --- Leaving ---------------------------------------------------------------------------------------------------------


@early
async def _slow_reader(exchange: Exchange) -> None:
    await exchange.read_body(rate=10_000)


@early
async def _answer_while_reading(exchange: Exchange) -> None:
    await exchange.write(head(200, [("Transfer-Encoding", "chunked")]))
    await exchange.chunk(b"x")
    await exchange.read_body()


PHASES = {
    "waiting for the head": (silence, b"", False),
    "waiting for the head, with a body": (silence, b"x" * 1000, False),
    "before the first byte": (sse([b"x"], wait=30), b"", True),
    "mid-stream": (sse([b"x"] * 1000, every=0.02), b"", True),
    "in the silence of a stream": (sse([b"x", b"y"], every=30), b"", True),
    "while nothing is read any more": (endless(b"x" * 60_000), b"", True),
    "during an upload": (_read_and_answer, b"x" * 10_000, False),
    "during an upload that is read slowly": (_slow_reader, b"x" * 300_000, False),
    "during an upload that is not read": (deaf, b"x" * 300_000, False),
    "during an upload with an answer under way": (_answer_while_reading, b"x" * 10_000, True),
}


@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest.mark.parametrize("phase", PHASES)
def test_upstream_is_closed_within_a_second_of_the_client_leaving(
    phase: str, leave: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    script, body, has_head = PHASES[phase]
    if phase.startswith("during an upload"):
        script = early(script)
    upstream.on("/x", script)
    length = 10_000_000 if phase.startswith("during an upload") else len(body)
    framing = [f"Content-Length: {length}"] if length else []
    with connected(strake.address, receive_buffer=4096) as connection:
        connection.sendall(get(endpoint, "/x", *framing, method="POST" if length else "GET") + body)
        eventually(lambda: upstream.exchanges)
        if has_head:
            read_head(connection)
        time.sleep(0.3)
        assert upstream.last.closed_at is None
        left = time.monotonic()
        if leave == "reset":
            reset(connection)
        else:
            connection.close()
        closed = eventually(lambda: upstream.last.closed_at, 5, what="the upstream to be closed")
    assert closed - left < 1.0


@pytest.mark.parametrize("stage", ["half a head", "half a body before the look-up", "nothing at all"])
def test_leaving_early_costs_nothing(stage: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    worker = strake.workers[0]
    before = descriptors(worker)
    for _ in range(50):
        with connected(strake.address) as connection:
            if stage != "nothing at all":
                raw = get(endpoint, "/x", "Content-Length: 10", method="POST")
                connection.sendall(raw[:40] if stage == "half a head" else raw)
    eventually(lambda: descriptors(worker) <= before + 4, 10)


# --- Slow readers and writers ----------------------------------------------------------------------------------------


def test_slow_reader_holds_the_upstream_back_and_memory_stays_flat(
    strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    sent = 0

    async def script(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.write(head(200, [("Content-Length", str(1000 * MEGABYTE))]))
        while sent < 1000 * MEGABYTE:
            await exchange.write(b"x" * 65536)
            sent += 65536

    upstream.on("/x", script)
    worker = strake.workers[0]
    with connected(strake.address, receive_buffer=16 * 1024) as connection:
        before = memory(worker)
        connection.sendall(get(endpoint))
        for _ in range(20):
            time.sleep(0.1)
            connection.recv(1024)
        # What has been sent fits into the buffers of sockets and processes on the way.
        assert sent < on_the_way()
        assert memory(worker) - before < 4 * MEGABYTE


def test_slow_upstream_holds_an_upload_back_and_memory_stays_flat(
    strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    upstream.on("/x", _slow_reader)
    worker = strake.workers[0]
    with connected(strake.address) as connection:
        before = memory(worker)
        connection.sendall(get(endpoint, "/x", f"Content-Length: {500 * MEGABYTE}", method="POST"))
        connection.settimeout(2)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 500 * MEGABYTE:
                sent += connection.send(b"x" * 65536)
        assert sent < on_the_way()
        assert memory(worker) - before < 4 * MEGABYTE


@pytest.mark.slow
@pytest.mark.parametrize("framing", ["Content-Length", "Transfer-Encoding"])
def test_500_megabytes_up_and_down_leave_no_trace(
    framing: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    """Less than 20 MB of memory more, and not one file opened meanwhile."""
    size = 500 * MEGABYTE
    worker = strake.workers[0]
    exchange(strake.address, get(endpoint, "/warm", "Connection: close"), silence=2)
    piece = bytes(range(256)) * 1024
    upstream.on("/up", early(_read_and_answer))
    upstream.on("/down", download(size, piece=piece))
    descriptors(worker)
    with Watch(worker) as watch:
        with connected(strake.address) as connection:
            chunked = framing == "Transfer-Encoding"
            framed = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
            value = "chunked" if chunked else str(size)
            connection.sendall(get(endpoint, "/up", f"{framing}: {value}", method="POST"))
            for number in range(size // len(piece)):
                connection.sendall(framed)
                if number % 40 == 0:
                    time.sleep(0.03)  # so that it lasts long enough to be watched, also on a busy machine
            if chunked:
                connection.sendall(b"0\r\n\r\n")
            assert read_head(connection).startswith(b"HTTP/1.1 200")
        with connected(strake.address) as connection:
            connection.sendall(get(endpoint, "/down", "Connection: close"))
            read_head(connection)
            received = rested = 0
            while data := connection.recv(MEGABYTE):
                received += len(data)
                if received - rested > 10 * MEGABYTE:
                    rested = received
                    time.sleep(0.03)
    assert received == size
    assert upstream.exchanges[1].body_size == size
    assert watch.growth < 20 * MEGABYTE
    # The database is no part of a body: the journal's thread may open it, and its folder, for what is left to write.
    assert {name for name in watch.opened if "strake.sqlite3" not in name and name != str(strake.home)} == set()
    assert watch.samples > 300


def test_the_watch_sees_memory_and_files() -> None:
    """A file of a tenth of a second and fifty megabytes: what the test above relies on seeing."""
    script = (
        "import sys, tempfile, time; f = tempfile.TemporaryFile(); x = b'x' * 50_000_000; time.sleep(0.1); f.close()"
    )
    with subprocess.Popen([sys.executable, "-c", f"input(); {script}; input()"], stdin=subprocess.PIPE) as process:
        time.sleep(0.3)
        assert process.stdin is not None
        with Watch(process.pid) as watch:
            process.stdin.write(b"\n")
            process.stdin.flush()
            time.sleep(0.8)
        process.communicate(b"\n", timeout=10)
    assert watch.growth > 40 * MEGABYTE
    assert any("deleted" in name for name in watch.opened)


# --- Many at once ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thousand_streams_on_one_worker(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """None breaks, none is short, and the worker's memory per stream stays small."""
    _need_descriptors(4000)
    streams, chunks = 1000, 20
    upstream.on("/x", sse([b"data: %d\n\n" % number for number in range(chunks)], every=0.25, wait=2))
    worker = strake.workers[0]
    before = memory(worker)
    most = before

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection(*strake.address)
        writer.write(get(endpoint, "/x", "Connection: close"))
        received = await reader.read(-1)
        writer.close()
        return received

    async def all_of_them() -> list[bytes]:
        nonlocal most
        tasks = []
        for _ in range(streams):
            tasks.append(asyncio.create_task(one()))
            await asyncio.sleep(0.001)
        while not all(task.done() for task in tasks):
            most = max(most, memory(worker))
            await asyncio.sleep(0.1)
        return [task.result() for task in tasks]

    answers = asyncio.run(all_of_them())
    wanted = b"".join(b"%x\r\ndata: %d\n\n\r\n" % (8 + len(str(number)), number) for number in range(chunks))
    broken = [answer for answer in answers if dechunked_numbers(answer) != list(range(chunks))]
    assert not broken, (len(broken), broken[0][-200:], wanted[-20:])
    assert (most - before) / streams < 60 * 1024


def dechunked_numbers(answer: bytes) -> list[int]:
    """The numbers in an event stream that came whole; none if it did not."""
    if not answer.endswith(b"0\r\n\r\n"):
        return []
    return [int(line[6:]) for line in answer.split(b"\n") if line.startswith(b"data: ")]


@pytest.fixture
def own_upstream() -> Iterator[Upstream]:
    """A provider of the test's own. On the shared one, scripts of other tests may still be reading what they got."""
    with Upstream() as running:
        yield running


@pytest.mark.slow
def test_after_ten_thousand_aborts_everything_is_back_at_the_baseline(strake: Strake, own_upstream: Upstream) -> None:
    """Sockets, connections to the upstream and memory."""
    endpoint, upstream = strake.connect(own_upstream.url), own_upstream
    upstream.on("/silence", silence)
    upstream.on("/stream", sse([b"x" * 100] * 1000, every=0.05))
    upstream.on("/flood", endless(b"x" * 20_000))
    upstream.on("/deaf", deaf)
    upload = get(endpoint, "/deaf", "Content-Length: 1000000", method="POST") + b"x" * 50_000
    kinds = [get(endpoint, "/silence"), get(endpoint, "/stream"), get(endpoint, "/flood"), upload]
    worker = strake.workers[0]

    async def one(number: int) -> None:
        _, writer = await asyncio.open_connection(*strake.address)
        writer.write(kinds[number % len(kinds)])
        await asyncio.sleep((number % 7) * 0.01)
        if number % 2:
            writer.transport.abort()
        else:
            writer.close()

    async def rounds(count: int) -> None:
        for start in range(0, count, 100):
            await asyncio.gather(*(one(number) for number in range(start, start + 100)))

    asyncio.run(rounds(6000))  # the heap reaches its working size
    eventually(lambda: upstream.open_connections == 0, 10)
    time.sleep(1)
    sockets, size = descriptors(worker), memory(worker)
    asyncio.run(rounds(10_000))
    eventually(lambda: upstream.open_connections == 0, 10)
    eventually(lambda: descriptors(worker) <= sockets + 3, 10)
    assert memory(worker) - size < 6 * MEGABYTE
    assert ask(strake.address, get(endpoint, "/after")).status == 200
    assert "Traceback" not in strake.log()
    assert "never retrieved" not in strake.log()


def _need_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard < count:
            pytest.skip(f"needs {count} open files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def test_graceful_stop_lets_a_stream_finish(run_strake: Callable[..., Strake], upstream: Upstream) -> None:
    running = run_strake()
    endpoint = running.connect(upstream.url)
    upstream.on("/x", sse([b"x"] * 20, every=0.1))
    with connected(running.address) as connection:
        connection.sendall(get(endpoint))
        read_head(connection)
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        received = b""
        while data := connection.recv(65536):
            received += data
        stopping.join()
    assert received.count(b"1\r\nx\r\n") == 20
    assert received.endswith(b"0\r\n\r\n")
