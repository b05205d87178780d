"""The health check of the web half's container."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from strake.processes import web_probe


@pytest.mark.parametrize(("status", "code"), [("200 OK", 0), ("503 Service Unavailable", 1), ("400 Bad Request", 1)])
def test_web_half_is_healthy_if_it_serves_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, code: int
) -> None:
    monkeypatch.setenv("STRAKE_RUNTIME", str(tmp_path))
    monkeypatch.setenv("STRAKE_BASE_URL", "https://strake.example.org:8443")
    (tmp_path / "web").mkdir()
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "web" / "web.sock"))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                requests.append(connection.recv(1000))
                connection.sendall(f"HTTP/1.0 {status}\r\n\r\n".encode())

        server = threading.Thread(target=answer)
        server.start()
        assert web_probe.main() == code
        server.join(60)
    assert requests == [b"GET /healthz HTTP/1.0\r\nHost: strake.example.org:8443\r\n\r\n"]


def test_web_half_that_does_not_listen_is_unhealthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRAKE_RUNTIME", str(tmp_path))
    with pytest.raises(OSError, match="No such file"):
        web_probe.main()
