"""Where Strake listens, and what it says if it cannot."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from strake.processes import listen
from strake.processes.listen import CannotListen, TCPAddress, UnixAddress
from tests.support.services import free_port


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("", ["127.0.0.1:8000", "[::1]:8000"]),
        ("localhost:9000", ["127.0.0.1:9000", "[::1]:9000"]),
        ("0.0.0.0:80, [::]:80", ["0.0.0.0:80", "[::]:80"]),
        ("*:80", ["0.0.0.0:80", "[::]:80"]),
        ("unix:/run/strake/http.sock", ["unix:/run/strake/http.sock"]),
        ("10.0.0.5:8000,unix:/run/s.sock,", ["10.0.0.5:8000", "unix:/run/s.sock"]),
    ],
)
def test_bind_is_read(text: str, addresses: list[str]) -> None:
    assert [str(address) for address in listen.parse(text, port=8000)] == addresses


@pytest.mark.parametrize(
    "text",
    [
        "8000",
        ":8000",
        "example.org:8000",
        "::1:8000",
        "[127.0.0.1]:80",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "unix:run.sock",
    ],
)
def test_senseless_bind_is_refused(text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="STRAKE_BIND"):
        listen.parse(text, port=8000)


def test_both_loopback_families_accept() -> None:
    port = free_port()
    for listener in listen.open_sockets(listen.loopback(port)):
        with listener, socket.create_connection(listener.getsockname()[:2], 2):
            pass


def test_missing_family_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnlyIPv4(socket.socket):
        def __init__(self, family: int = -1, *rest: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "no IPv6 here")
            super().__init__(family, *rest)

    monkeypatch.setattr("strake.processes.listen.socket.socket", OnlyIPv4)
    assert listen.loopback(8000) == [TCPAddress("127.0.0.1", 8000)]
    with pytest.raises(CannotListen, match="no address ::1"):
        listen.open_sockets([TCPAddress("::1", 8000)])


def test_taken_port_is_named_and_nothing_stays_open() -> None:
    free, taken = free_port(), free_port()
    (other,) = listen.open_sockets([TCPAddress("127.0.0.1", taken)])
    with other, pytest.raises(CannotListen, match=f"Port {taken} is taken") as refused:
        listen.open_sockets([TCPAddress("127.0.0.1", free), TCPAddress("127.0.0.1", taken)])
    assert refused.value.errno == errno.EADDRINUSE
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", free)) == errno.ECONNREFUSED


def test_address_of_another_machine_is_named() -> None:
    with pytest.raises(CannotListen, match=r"no address 192\.0\.2\.1"):
        listen.open_sockets([TCPAddress("192.0.2.1", 8000)])


def test_privileged_port_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    class Unprivileged(socket.socket):
        bind = refuse

    monkeypatch.setattr("strake.processes.listen.socket.socket", Unprivileged)
    with pytest.raises(CannotListen, match="Port 80 is privileged"):
        listen.open_sockets([TCPAddress("127.0.0.1", 80)])


def test_unix_socket_replaces_a_stale_one(tmp_path: Path) -> None:
    address = UnixAddress(tmp_path / "http.sock")
    listen.open_sockets([address])[0].close()
    assert address.path.is_socket(), "a closed socket leaves its file"
    (listener,) = listen.open_sockets([address])
    with listener:
        assert address.path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(CannotListen, match="in use"):
            listen.open_sockets([address])


def test_unix_socket_replaces_no_file(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(CannotListen, match="is not a socket"):
        listen.open_sockets([UnixAddress(path)])
    assert path.read_text() == "data"


def test_unusable_paths_are_explained(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match="does not exist"):
        listen.open_sockets([UnixAddress(tmp_path / "missing" / "http.sock")])
    with pytest.raises(CannotListen, match="longer than"):
        listen.open_sockets([UnixAddress(tmp_path / ("x" * 120))])
