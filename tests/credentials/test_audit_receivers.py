"""`manage.py export_audit`: files, pipes, HTTPS receivers and syslog, each event at least once."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from pytest_django import Settings

from accounts import audit
from accounts.actors import OPERATOR
from accounts.models import AuditEvent
from tests.support.upstream import Upstream, fixed

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _three_events(settings: Settings) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.1/32"]
    for number in range(3):
        audit.record(OPERATOR, "token.issued", account=None, subject_type="t", subject_id=number, subject_label="büro")


def export(*arguments: str) -> str:
    out = io.StringIO()
    call_command("export_audit", *arguments, stdout=out)
    return out.getvalue()


def sequences(text: str) -> list[int]:
    return [json.loads(line)["sequence"] for line in text.splitlines()]


def test_standard_output_and_since() -> None:
    assert sequences(export()) == [1, 2, 3]
    assert sequences(export("--since", "2")) == [3]


def test_file_and_position(tmp_path: Path) -> None:
    file, position = tmp_path / "audit.ndjson", tmp_path / "position"
    for _ in range(2):
        export("--file", str(file), "--position", str(position))
    assert sequences(file.read_text()) == [1, 2, 3]
    assert position.read_text() == "3\n"


def test_receiver_gets_lines_and_the_header(upstream: Upstream, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("Bearer canary\n")
    upstream.default = fixed(204)
    export("--to", f"{upstream.url}/in?source=strake", "--authorization-file", str(secret))
    [exchange] = upstream.exchanges
    assert (exchange.method, exchange.header("authorization")) == ("POST", b"Bearer canary")
    assert sequences(exchange.body.decode()) == [1, 2, 3]


def test_refused_events_are_sent_again(upstream: Upstream, tmp_path: Path) -> None:
    position = tmp_path / "position"
    upstream.default = fixed(503)
    with pytest.raises(CommandError, match="status 503"):
        export("--to", upstream.url, "--position", str(position))
    assert not position.exists()
    upstream.default = fixed(200)
    export("--to", upstream.url, "--position", str(position))
    assert [sequences(exchange.body.decode()) for exchange in upstream.exchanges] == [[1, 2, 3], [1, 2, 3]]
    assert position.read_text() == "3\n"


def test_egress_policy_holds(upstream: Upstream, settings: Settings) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = []
    for url in (upstream.url, upstream.url.replace("http:", "syslog+tcp:"), upstream.url.replace("http:", "https:")):
        with pytest.raises(CommandError, match="cannot be reached"):
            export("--to", url)
    assert upstream.connections == []


@pytest.fixture
def syslog() -> Iterator[tuple[int, list[bytes]]]:
    """A server on loopback: its port, and what it has received once the connection has ended."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(65536):
                    received.append(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], received
        thread.join(30)


def test_syslog_messages_are_framed(syslog: tuple[int, list[bytes]]) -> None:
    """RFC 5424 §6 and RFC 6587 §3.4.1."""
    port, received = syslog
    export("--to", f"syslog+tcp://127.0.0.1:{port}")
    messages: list[bytes] = []
    rest = b""
    deadline = threading.Event()
    while len(messages) < 3 and not deadline.wait(0.05):
        rest, received[:] = rest + b"".join(received), []
        while b" " in rest and len(rest.partition(b" ")[2]) >= int(rest.partition(b" ")[0]):
            size, _, rest = rest.partition(b" ")
            messages.append(rest[: int(size)])
            rest = rest[int(size) :]
    assert rest == b""
    event = AuditEvent.objects.earliest("pk")
    head, mark, body = messages[0].partition(b"\xef\xbb\xbf")
    assert mark
    assert head.decode() == f"<110>1 {event.at:%Y-%m-%dT%H:%M:%S.%f}Z localhost strake - audit - "
    assert json.loads(body)["subject_label"] == "büro"


@pytest.mark.parametrize("url", ["ftp://a.example", "syslog+udp://a.example", "https://", "https://u@a.example", "x"])
def test_unknown_receivers_are_refused(url: str) -> None:
    with pytest.raises(CommandError, match="Write https"):
        export("--to", url)


def test_event_outside_of_the_chain_is_reported() -> None:
    AuditEvent.objects.bulk_create([AuditEvent(action="invented", subject_type="t", subject_id="1")])
    with pytest.raises(CommandError, match="not in the chain") as raised:
        export()
    assert raised.value.returncode == 2
