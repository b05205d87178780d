"""Data keys are wrapped by the local keyring, or by another process over its socket."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pytest_django import Settings

from accounts.models import User
from credentials.errors import RetiredMasterKey, VaultUnavailable, WrongMasterKey
from credentials.models import SealedKey
from credentials.vault import keyring, socket_wrapper, unwrapping, wrap_protocol, wrapper
from credentials.vault.envelope import FORMAT
from credentials.vault.local_wrapper import LocalKeyWrapper
from credentials.vault.models import MasterKeyCheck
from credentials.vault.socket_wrapper import SocketKeyWrapper
from credentials.vault.wrap_protocol import KeyIds, Wrapped
from proxy import wrap_service
from proxy.server.exchange import Exchange
from proxy.unsealing import open_key
from tests.support import factories
from tests.support.serving import Handler, serving
from tests.support.vault import BINDING, KNOWN, MASTER_KEY, OTHER_MASTER_KEY, document, ring

DATA_KEY = bytes(range(7, 39))
ROW_ID = BINDING.credential_id
MESSAGE = "The vault can't be reached. Nothing was saved."


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Handler], Path]]:
    """`serve(handle)` runs it on a Unix socket and returns its path."""
    with ExitStack() as stack:

        def start(handle: Handler) -> Path:
            path = tmp_path / "wrap.sock"
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(path))
            listening.listen()
            stack.enter_context(serving(handle, listening))
            return path

        yield start


@pytest.fixture
def two_keys(settings: Settings) -> None:
    settings.STRAKE_MASTER_KEYS = document("new", new=OTHER_MASTER_KEY, old=MASTER_KEY)


def answering(body: bytes, status: int = 200, *, calls: list[str] | None = None) -> Handler:
    """A handler with one answer."""

    async def handle(exchange: Exchange) -> None:
        if calls is not None:
            calls.append(exchange.path.decode())
        exchange.begin_response(status, [])
        exchange.send(body, more=False)

    return handle


# --- The local keyring ---------------------------------------------------------------------------------------------


def test_local_wrapper_uses_the_primary_key(two_keys: None) -> None:
    wrapped = LocalKeyWrapper().wrap(FORMAT, ROW_ID, bytearray(DATA_KEY))
    assert wrapped.key.master_key_id == "new"
    assert wrapped.check_value == keyring.current().check_value("new")
    assert unwrapping.unwrap(wrapped.key, FORMAT, ROW_ID, ring("new", new=OTHER_MASTER_KEY)) == DATA_KEY
    assert LocalKeyWrapper().keys() == KeyIds("new", ("new", "old"))


def test_configured_wrapper_is_created_once(settings: Settings) -> None:
    assert settings.STRAKE_KEY_WRAPPER.endswith("LocalKeyWrapper")
    assert isinstance(wrapper.current(), LocalKeyWrapper)
    assert wrapper.current() is wrapper.current()


# --- The socket ----------------------------------------------------------------------------------------------------


def test_socket_wrapper_wraps_as_the_local_one(two_keys: None, serve: Callable[[Handler], Path]) -> None:
    client = SocketKeyWrapper(serve(wrap_service.respond))
    wrapped = client.wrap(FORMAT, ROW_ID, bytearray(DATA_KEY))
    assert wrapped.key.master_key_id == "new"
    assert wrapped.check_value == keyring.current().check_value("new")
    assert unwrapping.unwrap(wrapped.key, FORMAT, ROW_ID, keyring.current()) == DATA_KEY
    assert client.keys() == KeyIds("new", ("new", "old"))


@pytest.fixture
def through_the_socket(settings: Settings, serve: Callable[[Handler], Path]) -> Iterator[None]:
    """Seal as the web half does, with the proxy half's service in a thread."""
    settings.STRAKE_KEY_WRAPPER = "credentials.vault.socket_wrapper.SocketKeyWrapper"
    settings.STRAKE_WRAP_SOCKET = serve(wrap_service.respond)
    wrapper._load.cache_clear()
    yield
    wrapper._load.cache_clear()


def test_key_sealed_over_the_socket_opens(through_the_socket: None, alice: User) -> None:
    made = factories.make_endpoint(owner=alice, key="sk-over-the-socket")
    made.credential.refresh_from_db()
    ring = keyring.current()
    assert open_key(made.credential.sealed(), made.credential.binding(), ring) == b"sk-over-the-socket"
    check = MasterKeyCheck.objects.get()
    assert (check.pk, bytes(check.check_value)) == (ring.primary_id, ring.check_value(ring.primary_id))


def test_check_values_hold_over_the_socket(through_the_socket: None, alice: User, settings: Settings) -> None:
    settings.STRAKE_MASTER_KEYS = document("a", a=MASTER_KEY)
    factories.make_endpoint(owner=alice)
    settings.STRAKE_MASTER_KEYS = document("a", a=OTHER_MASTER_KEY)
    with pytest.raises(WrongMasterKey):
        factories.make_endpoint(owner=alice)
    settings.STRAKE_MASTER_KEYS = document("a", a=MASTER_KEY)
    MasterKeyCheck.objects.update(retired_at=MasterKeyCheck.objects.get().created_at)
    with pytest.raises(RetiredMasterKey):
        factories.make_endpoint(owner=alice)
    assert SealedKey.objects.count() == 1


# --- A vault that can't be reached ---------------------------------------------------------------------------------


def assert_unavailable(client: SocketKeyWrapper) -> None:
    for call in (lambda: client.wrap(FORMAT, ROW_ID, DATA_KEY), client.keys):
        with pytest.raises(VaultUnavailable) as raised:
            call()
        assert str(raised.value).startswith(MESSAGE)
        assert raised.value.__cause__ is None


def test_missing_socket_is_unavailable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_unavailable(SocketKeyWrapper(tmp_path / "wrap.sock"))
    assert "vault_unavailable reason='FileNotFoundError'" in caplog.text
    assert str(tmp_path) not in caplog.text


def test_socket_without_a_server_is_unavailable(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "wrap.sock"))
        assert_unavailable(SocketKeyWrapper(tmp_path / "wrap.sock"))


@pytest.mark.parametrize("status", [204, 301, 400, 404, 405, 409, 500, 503])
def test_every_other_status_is_unavailable(serve: Callable[[Handler], Path], status: int) -> None:
    assert_unavailable(SocketKeyWrapper(serve(answering(b"", status))))


def test_other_protocol_version_is_unavailable(
    serve: Callable[[Handler], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = serve(wrap_service.respond)
    monkeypatch.setattr(wrap_protocol, "VERSION", "2")
    assert_unavailable(SocketKeyWrapper(path))
    assert "reason='status 409'" in caplog.text


GOOD_WRAP = json.loads(wrap_protocol.encode_wrapped(Wrapped(KNOWN.sealed.wrap, KNOWN.check_value)))
GOOD_KEYS = json.loads(wrap_protocol.encode_keys(KeyIds("a", ("a", "b"))))
MALFORMED: list[object] = [
    "",
    "{",
    "[" * 60_000,
    "\udcff",
    None,
    [],
    {},
    *({**GOOD_WRAP, name: value} for name in GOOD_WRAP for value in (None, 1, "", "x" * 65, ["x"])),
    *({**GOOD_WRAP, name: value} for name in GOOD_WRAP if name != "master_key_id" for value in ("!", "AAAA")),
    *({name: value for name, value in GOOD_WRAP.items() if name != missing} for missing in GOOD_WRAP),
    {**GOOD_WRAP, "data_key": "AAAA"},
    *({**GOOD_KEYS, "primary": value} for value in (None, 1, "", "c", ["a"])),
    *({**GOOD_KEYS, "ids": value} for value in (None, "ab", [], ["b"], ["a", 1], ["a", "x" * 65], {"a": 1})),
    {**GOOD_KEYS, "keys": []},
]


def test_malformed_answer_is_unavailable(serve: Callable[[Handler], Path]) -> None:
    answer = b""

    async def handle(exchange: Exchange) -> None:
        await answering(answer)(exchange)

    path = serve(handle)
    for malformed in MALFORMED:
        text = malformed if isinstance(malformed, str) else json.dumps(malformed)
        answer = text.encode(errors="surrogateescape")
        assert_unavailable(SocketKeyWrapper(path))


def test_well_formed_answers_are_accepted() -> None:
    assert wrap_protocol.decode_wrapped(json.dumps(GOOD_WRAP).encode()).key == KNOWN.sealed.wrap
    assert wrap_protocol.decode_keys(json.dumps(GOOD_KEYS).encode()) == KeyIds("a", ("a", "b"))


def test_answer_that_is_too_long_is_unavailable(serve: Callable[[Handler], Path]) -> None:
    padded = json.dumps(GOOD_KEYS).encode() + b" " * socket_wrapper.MAX_ANSWER_BYTES
    assert_unavailable(SocketKeyWrapper(serve(answering(padded))))


@pytest.fixture
def slow_server(tmp_path: Path) -> Iterator[Callable[[bytes], Path]]:
    """A server that sends five bytes a second after `head`. Without a head it is silent."""
    stop = threading.Event()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "wrap.sock"))
    listening.listen()
    threads: list[threading.Thread] = []

    def drip(head: bytes) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(head)
            while not stop.wait(0.2):
                try:
                    connection.sendall(b" " if head else b"")
                except OSError:
                    return

    def start(head: bytes) -> Path:
        threads.append(threading.Thread(target=drip, args=[head], daemon=True))
        threads[0].start()
        return tmp_path / "wrap.sock"

    yield start
    stop.set()
    threads[0].join(60)
    listening.close()


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"], ids=["silent", "dripping"])
def test_slow_vault_is_unavailable(slow_server: Callable[[bytes], Path], head: bytes) -> None:
    client = SocketKeyWrapper(slow_server(head))
    start = time.monotonic()
    with pytest.raises(VaultUnavailable):
        client.wrap(FORMAT, ROW_ID, DATA_KEY)
    assert time.monotonic() - start < 60


def test_vault_that_does_not_accept_is_unavailable(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as waiting:
        listening.bind(str(tmp_path / "wrap.sock"))
        listening.listen(0)
        waiting.connect(str(tmp_path / "wrap.sock"))  # The queue of one is full.
        client = SocketKeyWrapper(tmp_path / "wrap.sock")
        start = time.monotonic()
        with pytest.raises(VaultUnavailable):
            client.wrap(FORMAT, ROW_ID, DATA_KEY)
        assert time.monotonic() - start < 60


# --- The ids of the master keys ------------------------------------------------------------------------------------


def test_key_ids_are_kept_for_some_seconds(serve: Callable[[Handler], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_wrapper, "KEEP_SECONDS", 3600.0)
    calls: list[str] = []
    client = SocketKeyWrapper(serve(answering(json.dumps(GOOD_KEYS).encode(), calls=calls)))
    for _ in range(3):
        assert client.keys().ids == ("a", "b")
    assert calls == ["/keys"]
    monkeypatch.setattr(socket_wrapper, "KEEP_SECONDS", 0.0)
    client.keys()
    assert calls == ["/keys"] * 2


def test_failure_to_get_key_ids_is_kept_too(serve: Callable[[Handler], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a page with many endpoints would wait for each of them."""
    monkeypatch.setattr(socket_wrapper, "KEEP_SECONDS", 3600.0)
    calls: list[str] = []
    client = SocketKeyWrapper(serve(answering(b"", 503, calls=calls)))
    for _ in range(3):
        with pytest.raises(VaultUnavailable):
            client.keys()
    assert calls == ["/keys"]
    monkeypatch.setattr(socket_wrapper, "KEEP_SECONDS", 0.0)
    with pytest.raises(VaultUnavailable):
        client.keys()
    assert calls == ["/keys"] * 2
