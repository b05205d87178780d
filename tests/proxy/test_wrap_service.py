"""The service on wrap.sock wraps data keys and names master keys. Every other request is refused."""

from __future__ import annotations

import base64
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from pytest_django import Settings

from credentials.vault import keyring, unwrapping, wrap_protocol
from credentials.vault.envelope import FORMAT
from credentials.vault.local_wrapper import LocalKeyWrapper
from credentials.vault.wrap_protocol import KeyIds, Wrapped
from proxy import wrap_service
from strake.asgi import Application
from tests.support.exchanges import connect
from tests.support.serving import serving
from tests.support.vault import BINDING, KNOWN, MASTER_KEY, OTHER_MASTER_KEY, document, ring

DATA_KEY = bytes(range(7, 39))
ROW_ID = BINDING.credential_id
WRAP = wrap_protocol.wrap_path(FORMAT, ROW_ID)
VERSION = {wrap_protocol.HEADER: wrap_protocol.VERSION}


@pytest.fixture
def wrap_socket(tmp_path: Path, settings: Settings) -> Iterator[Path]:
    """The socket of a running wrap service with two master keys."""
    settings.STRAKE_MASTER_KEYS = document("2026-11-a", **{"2026_11_a": MASTER_KEY, "2026_11_b": OTHER_MASTER_KEY})
    path = tmp_path / "wrap.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    with serving(wrap_service.respond, listening):
        yield path


@pytest.fixture
def client(wrap_socket: Path) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(wrap_socket))
    with httpx.Client(base_url="http://wrap", transport=transport, headers=VERSION) as made:
        yield made


# --- The two calls -------------------------------------------------------------------------------------------------


def test_wrapped_data_key_unwraps_in_its_place(client: httpx.Client) -> None:
    response = client.post(WRAP, content=DATA_KEY)
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
    wrapped = wrap_protocol.decode_wrapped(response.content)
    assert wrapped.key.master_key_id == "2026-11-a"
    assert wrapped.check_value == KNOWN.check_value
    assert unwrapping.unwrap(wrapped.key, FORMAT, ROW_ID, ring()) == DATA_KEY


def test_keys_names_the_master_keys(client: httpx.Client) -> None:
    response = client.get("/keys")
    assert response.status_code == 200
    assert wrap_protocol.decode_keys(response.content) == KeyIds("2026-11-a", ("2026-11-a", "2026-11-b"))


# --- Everything else -----------------------------------------------------------------------------------------------

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
PATHS = [
    WRAP,
    f"{WRAP}/",
    f"{WRAP}?unwrap=1",
    f"/{WRAP}",
    f"/wrap/0/{ROW_ID.hex}",
    f"/wrap/3/{ROW_ID.hex}",
    f"/wrap/01/{ROW_ID.hex}",
    f"/wrap/1/{ROW_ID.hex[:-1]}",
    f"/wrap/1/{ROW_ID}",
    f"/wrap/1/{UUID(int=0xA).hex.upper()}",
    f"/wrap/1/%31{ROW_ID.hex[1:]}",
    "/wrap",
    "/wrap/",
    f"/unwrap/1/{ROW_ID.hex}",
    f"/rewrap/1/{ROW_ID.hex}",
    f"/open/1/{ROW_ID.hex}",
    "/keys",
    "/keys/",
    "/keys?all=1",
    "/keys/2026-11-a",
    "/Keys",
    "/",
    "/livez",
    "/readyz",
    "/metrics",
    "/p/abcdefghijkl/v1/models",
    "/api/v1/endpoints",
    "/admin/",
]
KNOWN_PATHS = {WRAP: "POST", "/keys": "GET"}


@pytest.mark.parametrize("path", PATHS)
def test_only_the_two_calls_are_answered(client: httpx.Client, path: str) -> None:
    for method in METHODS:
        response = client.request(method, path, content=DATA_KEY if method not in {"GET", "HEAD"} else None)
        expected = 404 if path not in KNOWN_PATHS else 200 if KNOWN_PATHS[path] == method else 405
        assert response.status_code == expected, method
        assert expected == 200 or response.content == b""


def test_no_answer_contains_a_secret(client: httpx.Client) -> None:
    secrets = [
        spelling
        for secret in (DATA_KEY, MASTER_KEY, OTHER_MASTER_KEY)
        for spelling in (secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="))
    ]
    for response in (client.get("/keys"), client.post(WRAP, content=DATA_KEY)):
        assert response.status_code == 200
        everything = response.content + b"".join(value for _, value in response.headers.raw)
        assert not [secret for secret in secrets if secret in everything]


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (DATA_KEY[:31], 400), (DATA_KEY + b"x", 413), (DATA_KEY * 1000, 413)]
)
def test_body_of_another_length_is_refused(client: httpx.Client, body: bytes, status: int) -> None:
    assert client.post(WRAP, content=body).status_code == status
    chunks = [body[start : start + 20] for start in range(0, len(body), 20)]
    assert client.post(WRAP, content=iter(chunks)).status_code == status


@pytest.mark.parametrize("versions", [[], ["0"], ["2"], ["1.0"], ["1", "1"], ["1", "2"]])
def test_other_protocol_versions_get_409(client: httpx.Client, versions: list[str]) -> None:
    del client.headers[wrap_protocol.HEADER]
    headers = [(wrap_protocol.HEADER, version) for version in versions]
    assert client.post(WRAP, content=DATA_KEY, headers=headers).status_code == 409
    assert client.get("/keys", headers=headers).status_code == 409


def test_websocket_is_refused(tmp_path: Path, settings: Settings) -> None:
    """By what serves this socket and others."""
    path = settings.STRAKE_WRAP_SOCKET = tmp_path / "wrap.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    with serving(Application().handle, listening), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(
            b"GET /keys HTTP/1.1\r\nHost: wrap\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"strake-wrap-protocol: 1\r\n\r\n"
        )
        assert connection.recv(100) == b"", "it is closed without an answer"


def test_missing_keyring_gets_503(client: httpx.Client, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    keyring.forget()
    settings.STRAKE_MASTER_KEYS, settings.STRAKE_MASTER_KEYS_FILE = "", "/nonexistent/master-keys.json"
    for response in (client.post(WRAP, content=DATA_KEY), client.get("/keys")):
        assert (response.status_code, response.content) == (503, b"")
    keyring.forget()
    assert [record.getMessage() for record in caplog.records if record.name == "proxy.wrap_service"] == [
        "wrap_failed kind=KeyringMissing"
    ] * 2


def test_requests_are_not_logged(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)  # the client is in this process too
    client.post(WRAP, content=DATA_KEY)
    client.post(WRAP, content=DATA_KEY + b"x")
    client.get("/unwrap")
    assert not [record for record in caplog.records if record.name != "asyncio"]


@pytest.mark.parametrize("body", [DATA_KEY, DATA_KEY[:31], DATA_KEY + b"x"], ids=["wrapped", "short", "long"])
async def test_received_data_key_is_overwritten(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    received: list[bytearray] = []

    def wrap(_: LocalKeyWrapper, format: int, credential_id: UUID, data_key: bytearray) -> Wrapped:
        assert data_key == DATA_KEY
        return Wrapped(KNOWN.sealed.wrap, KNOWN.check_value)

    def wipe(secret: bytearray) -> None:
        received.append(secret)
        secret[:] = bytes(len(secret))

    monkeypatch.setattr(LocalKeyWrapper, "wrap", wrap)
    monkeypatch.setattr(wrap_service, "wipe", wipe)
    protocol, transport = connect(wrap_service.respond, client=None)
    lines = "".join(f"{name}: {value}\r\n" for name, value in VERSION.items())
    head = f"POST {WRAP} HTTP/1.1\r\nHost: wrap\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
    protocol.data_received(head.encode() + body[:20])
    assert not transport.written
    protocol.data_received(body[20:])
    assert transport.written.startswith(b"HTTP/1.1 %d " % {32: 200, 31: 400, 33: 413}[len(body)])
    assert received == [bytes(len(body))]
