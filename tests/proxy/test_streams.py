"""Streams: no delay, back-pressure in both directions, and disconnects in every phase of a request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.process import Watch, memory
from tests.support.raw import ask, connected, exchange, get, read_head, reset
from tests.support.running import Endpoint, Strake, prepare_home
from tests.support.upstream import (
    Exchange,
    Upstream,
    download,
    early,
    endless,
    eventually,
    head,
    silence,
    sse,
    stop_reading,
    until,
)

MEGABYTE = 1024 * 1024


def descriptors(pid: int) -> int:
    """Return the number of open files and sockets of a process."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:
        pytest.skip("only root may inspect a process that is not dumpable")


def buffer_bytes() -> int:
    """Return how much of a stream the kernel and the processes may buffer on its two connections."""
    limits = [Path(f"/proc/sys/net/ipv4/{name}").read_text().split() for name in ("tcp_rmem", "tcp_wmem")]
    return 2 * sum(int(maximum) for _, _, maximum in limits) + 4 * MEGABYTE


# --- Latency and timeouts --------------------------------------------------------------------------------------------


def test_each_chunk_is_forwarded_as_it_arrives(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """The provider sends the head and each chunk only after the client has received what it sent before."""
    received: list[bytes] = []  # the head, then parts of the body

    def body() -> bytes:
        return b"".join(received[1:])

    async def script(exchange: Exchange) -> None:
        await exchange.write(head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]))
        for number in range(30):
            await until(lambda wanted=number: received and body().count(b"\n\n") == wanted)  # type: ignore[misc]
            await exchange.chunk(b"data: %d\n\n" % number)
        await exchange.chunk(b"")

    upstream.on("/x", script)
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint))
        received.append(read_head(connection))
        while not body().endswith(b"0\r\n\r\n"):
            received.append(connection.recv(65536))
            assert received[-1], "closed"
    assert body().count(b"data: ") == 30


def test_upload_is_streamed(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    for framing in ("Content-Length: 200000", "Transfer-Encoding: chunked"):
        upstream.clear()
        upstream.on("/x", early(_read_and_respond))
        piece = b"x" * 100_000
        if framing.endswith("chunked"):
            piece = b"186a0\r\n" + piece + b"\r\n"
        with connected(strake.address) as connection:
            connection.sendall(get(endpoint, "/x", framing, method="POST") + piece)
            eventually(lambda: upstream.exchanges and upstream.last.body_size == 100_000)
            connection.sendall(piece + (b"0\r\n\r\n" if framing.endswith("chunked") else b""))
            assert read_head(connection).startswith(b"HTTP/1.1 200")


async def _read_and_respond(exchange: Exchange) -> None:
    await exchange.read_body()
    await exchange.respond()


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
    response = exchange(strake.address, get(endpoint))
    wanted = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert response.body == wanted


def test_only_idle_streams_time_out(impatient: Strake, upstream: Upstream) -> None:
    """With a timeout of four seconds, a stream of six seconds passes, and a silence of four does not."""
    endpoint = impatient.connect(upstream.url)
    upstream.on("/busy", sse([b"x"] * 60, every=0.1))
    assert exchange(impatient.address, get(endpoint, "/busy")).body.endswith(b"0\r\n\r\n")
    upstream.on("/silent", silence)
    started = time.monotonic()
    response = ask(impatient.address, get(endpoint, "/silent"))
    assert (response.status, response.all("x-strake-error")) == (504, [b"upstream_idle"])
    assert time.monotonic() - started > 3.5
    upstream.on("/stalls", sse([b"x", b"y"], every=50))
    response = exchange(impatient.address, get(endpoint, "/stalls"))
    assert response.status == 200
    assert response.closed
    assert not response.body.endswith(b"0\r\n\r\n")


def test_slow_upload_may_outlast_the_idle_timeout(impatient: Strake, upstream: Upstream) -> None:
    endpoint = impatient.connect(upstream.url)
    with connected(impatient.address) as connection:
        connection.sendall(get(endpoint, "/x", "Content-Length: 60", method="POST"))
        for _ in range(60):
            connection.sendall(b"x")
            time.sleep(0.1)
        assert read_head(connection).startswith(b"HTTP/1.1 200")


def test_stalled_upload_times_out(impatient: Strake, upstream: Upstream) -> None:
    endpoint = impatient.connect(upstream.url)
    upstream.on("/x", early(_read_and_respond))
    response = exchange(impatient.address, get(endpoint, "/x", "Content-Length: 40", method="POST") + b"x")
    assert response.status in {0, 504}
    assert response.closed or response.status == 504


def test_upstream_that_stops_reading_times_out(impatient: Strake, upstream: Upstream) -> None:
    endpoint = impatient.connect(upstream.url)
    upstream.on("/x", stop_reading)
    with connected(impatient.address) as connection:
        connection.sendall(get(endpoint, "/x", "Content-Length: 100000000", method="POST"))
        with contextlib.suppress(ConnectionError):  # otherwise a `TimeoutError`
            for _ in range(1000):
                connection.sendall(b"x" * 100_000)


def test_client_that_stops_reading_times_out(impatient: Strake, upstream: Upstream) -> None:
    endpoint = impatient.connect(upstream.url)
    upstream.on("/x", endless(b"x" * 60_000))
    with connected(impatient.address, receive_buffer=4096) as connection:
        connection.sendall(get(endpoint))
        eventually(lambda: upstream.exchanges and upstream.last.closed_at)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Strake]:
    """A Strake with an idle timeout of four seconds."""
    with Strake(
        prepare_home(tmp_path_factory.mktemp("impatient") / "strake", migrated_database), {"STRAKE_IDLE_SECONDS": "4"}
    ) as running:
        yield running


# --- Disconnects -----------------------------------------------------------------------------------------------------


@early
async def _slow_reader(exchange: Exchange) -> None:
    await exchange.read_body(rate=10_000)


@early
async def _respond_while_reading(exchange: Exchange) -> None:
    await exchange.write(head(200, [("Transfer-Encoding", "chunked")]))
    await exchange.chunk(b"x")
    await exchange.read_body()


PHASES = {
    "waiting for the head": (silence, b"", False),
    "waiting for the head, with a body": (silence, b"x" * 1000, False),
    "before the first byte": (sse([b"x"], wait=600), b"", True),
    "mid-stream": (sse([b"x"] * 100_000, every=0.02), b"", True),
    "in a silent stream": (sse([b"x", b"y"], every=600), b"", True),
    "while the client has stopped reading": (endless(b"x" * 60_000), b"", True),
    "during an upload": (_read_and_respond, b"x" * 10_000, False),
    "during an upload that is read slowly": (_slow_reader, b"x" * 300_000, False),
    "during an upload that is not read": (stop_reading, b"x" * 300_000, False),
    "during an upload with a response in progress": (_respond_while_reading, b"x" * 10_000, True),
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("phase", PHASES)
def test_disconnect_closes_the_upstream(
    phase: str, how: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
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
        if how == "reset":
            reset(connection)
        else:
            connection.close()
        # Long before the idle timeout of ten minutes.
        eventually(lambda: upstream.last.closed_at, what="close of the upstream")


@pytest.mark.parametrize("stage", ["half a head", "a head without its body", "nothing at all"])
def test_early_disconnect_leaks_no_descriptors(
    stage: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    worker = strake.workers[0]
    before = descriptors(worker)
    for _ in range(50):
        with connected(strake.address) as connection:
            if stage != "nothing at all":
                raw = get(endpoint, "/x", "Content-Length: 10", method="POST")
                connection.sendall(raw[:40] if stage == "half a head" else raw)
    eventually(lambda: descriptors(worker) <= before + 4)


# --- Slow readers and writers ----------------------------------------------------------------------------------------


def test_slow_client_slows_the_upstream(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
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
        assert sent < buffer_bytes()
        assert memory(worker) - before < 4 * MEGABYTE


def test_slow_upstream_slows_the_client(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
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
        assert sent < buffer_bytes()
        assert memory(worker) - before < 4 * MEGABYTE


@pytest.mark.slow
@pytest.mark.parametrize("framing", ["Content-Length", "Transfer-Encoding"])
def test_500_megabytes_stay_out_of_memory_and_files(
    framing: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    """Memory grows by less than 20 MB, and no file is opened."""
    size = 500 * MEGABYTE
    worker = strake.workers[0]
    exchange(strake.address, get(endpoint, "/warm", "Connection: close"))
    piece = bytes(range(256)) * 1024
    upstream.on("/up", early(_read_and_respond))
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
                    time.sleep(0.03)  # so that it lasts long enough to be sampled
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
    # The request log's thread may open the database and its folder at any time.
    assert {
        name for name in watch.opened if "strake.sqlite3" not in name and name != str(strake.home / "data")
    } == set()
    assert watch.samples > 300


def test_watch_detects_memory_and_files() -> None:
    """A file open for half a second, and fifty megabytes: what the previous test must be able to see."""
    script = (
        "import tempfile, time; print('ready', flush=True); input(); "
        "f = tempfile.TemporaryFile(); x = b'x' * 50_000_000; time.sleep(0.5); f.close(); "
        "print('done', flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == b"ready\n"
        with Watch(process.pid) as watch:
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"done\n"
        process.communicate(b"\n", timeout=60)
    assert watch.growth > 40 * MEGABYTE
    assert any("deleted" in name for name in watch.opened)


# --- Concurrency -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thousand_streams_on_one_worker(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """All of them are complete, and each takes little memory."""
    _need_descriptors(4000)
    streams, chunks = 1000, 20
    upstream.on("/x", sse([b"data: %d\n\n" % number for number in range(chunks)], every=0.25, wait=2))
    worker = strake.workers[0]
    before = memory(worker)
    peak = before

    async def send_one() -> bytes:
        reader, writer = await asyncio.open_connection(*strake.address)
        writer.write(get(endpoint, "/x", "Connection: close"))
        received = await reader.read(-1)
        writer.close()
        return received

    async def send_all() -> list[bytes]:
        nonlocal peak
        tasks = []
        for _ in range(streams):
            tasks.append(asyncio.create_task(send_one()))
            await asyncio.sleep(0.001)
        while not all(task.done() for task in tasks):
            peak = max(peak, memory(worker))
            await asyncio.sleep(0.1)
        return [task.result() for task in tasks]

    responses = asyncio.run(send_all())
    wanted = b"".join(b"%x\r\ndata: %d\n\n\r\n" % (8 + len(str(number)), number) for number in range(chunks))
    broken = [response for response in responses if dechunked_numbers(response) != list(range(chunks))]
    assert not broken, (len(broken), broken[0][-200:], wanted[-20:])
    assert (peak - before) / streams < 60 * 1024


def dechunked_numbers(response: bytes) -> list[int]:
    """Return the numbers in an event stream, or [] if it is incomplete."""
    if not response.endswith(b"0\r\n\r\n"):
        return []
    return [int(line[6:]) for line in response.split(b"\n") if line.startswith(b"data: ")]


@pytest.fixture
def own_upstream() -> Iterator[Upstream]:
    """A separate provider, where no scripts of other tests may still be running."""
    with Upstream() as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_aborts_leak_nothing(strake: Strake, own_upstream: Upstream) -> None:
    """Sockets, connections to the upstream and memory return to where they were.

    Memory may grow once if more connections are open at the same time than before. A leak grows in every round.
    """
    endpoint, upstream = strake.connect(own_upstream.url), own_upstream
    upstream.on("/silence", silence)
    upstream.on("/stream", sse([b"x" * 100] * 1000, every=0.05))
    upstream.on("/flood", endless(b"x" * 20_000))
    upstream.on("/stop_reading", stop_reading)
    upload = get(endpoint, "/stop_reading", "Content-Length: 1000000", method="POST") + b"x" * 50_000
    kinds = [get(endpoint, "/silence"), get(endpoint, "/stream"), get(endpoint, "/flood"), upload]
    worker = strake.workers[0]
    logged = len(strake.log())

    async def send_one(number: int) -> None:
        _, writer = await asyncio.open_connection(*strake.address)
        writer.write(kinds[number % len(kinds)])
        await asyncio.sleep((number % 7) * 0.01)
        if number % 2:
            writer.transport.abort()
        else:
            writer.close()

    async def rounds(count: int) -> None:
        for start in range(0, count, 100):
            await asyncio.gather(*(send_one(number) for number in range(start, start + 100)))

    def growth(count: int) -> int:
        size = memory(worker)
        asyncio.run(rounds(count))
        eventually(lambda: upstream.open_connections == 0, what="close of every connection to the upstream")
        return memory(worker) - size

    growth(6000)  # lets the heap reach its working size
    time.sleep(1)
    sockets = descriptors(worker)
    assert any(growth(10_000) < 6 * MEGABYTE for _ in range(3))
    eventually(lambda: descriptors(worker) <= sockets + 3, what="close of every socket")
    assert ask(strake.address, get(endpoint, "/after")).status == 200
    assert "Traceback" not in strake.log()[logged:]
    assert "never retrieved" not in strake.log()[logged:]


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
