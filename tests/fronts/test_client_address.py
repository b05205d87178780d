"""Behind a reverse proxy, `manage.py doctor` sees whom Strake takes a client for."""

from __future__ import annotations

from strake.doctor.front import FORGED
from tests.support.fronts import Front


def test_forged_address_does_not_pass(front: Front) -> None:
    with front.connected() as connection:
        connection.sendall(
            b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: %b\r\nConnection: close\r\n\r\n"
            % FORGED.encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
    assert b"x-strake-client: 127.0.0.1\r\n" in head.lower()
