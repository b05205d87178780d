"""Work that waits for other machines holds no database connection, and not all threads of the web half."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from accounts.transactions import without_connection
from credentials import destinations, key_check, providers
from credentials.vault.socket_wrapper import SocketKeyWrapper
from proxy import connection_test
from tests.support import factories
from tests.support.browser import Browser
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Exchange, Script, Upstream, eventually, fixed

KEY = "sk-new-0123456789abcdef"


@contextmanager
def signed_in(strake: Strake, email: str) -> Iterator[Browser]:
    with Browser(strake.url, f"http://localhost:{strake.port}") as browser:
        browser.sign_in(strake.call("signin_link", email=email)["link"])
        yield browser


def waits(endpoint: Endpoint, url: str) -> dict[str, Callable[[Browser], Any]]:
    """What makes the web half wait for the provider of `endpoint`, at `url`, that does not answer."""
    page = f"/endpoints/{endpoint.subdomain}"
    return {
        "connect": lambda browser: browser.submit(
            "/endpoints/connect/azure-openai/", {"kind": "static", "api_key": KEY, "destination_url": url}
        ),
        "replace the key": lambda browser: browser.submit(f"{page}/key/", {"api_key": KEY}),
        "change the destination": lambda browser: browser.submit(
            f"{page}/destination/", {"api_key": KEY, "destination_url": url}
        ),
        "test": lambda browser: browser.submit(f"{page}/test/", {"token": endpoint.token}, at=f"{page}/tokens/"),
    }


def once(event: threading.Event) -> Script:
    """Respond as soon as `event` is set."""

    async def script(exchange: Exchange) -> None:
        await asyncio.to_thread(event.wait, 60)
        await fixed(200)(exchange)

    return script


@pytest.mark.postgres
@pytest.mark.slow
def test_one_connection_serves_pages_meanwhile(
    run_strake: Callable[..., Strake], migrated_url: str, upstream: Upstream
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent_mail_server, ExitStack() as stack:
        strake = run_strake(
            DATABASE_URL=migrated_url,
            DJANGO_SETTINGS_MODULE="tests.support.one_connection_settings",
            EMAIL_URL=f"smtp://127.0.0.1:{silent_mail_server.getsockname()[1]}",
        )
        upstream.default = fixed(200)
        endpoint = strake.connect(upstream.url, provider="azure-openai", email="mallory@example.org")
        mallory = stack.enter_context(signed_in(strake, "mallory@example.org"))
        alice = stack.enter_context(signed_in(strake, "alice@example.org"))
        for name, wait in waits(endpoint, upstream.url).items():
            upstream.clear()
            answers = threading.Event()
            upstream.default = once(answers)
            thread = threading.Thread(target=wait, args=[mallory])
            thread.start()
            eventually(lambda: upstream.exchanges, 30)
            assert alice.get("/endpoints/").status_code == 200, name
            answers.set()
            thread.join(60)
        with Browser(strake.url, f"http://localhost:{strake.port}") as bob:
            assert bob.submit("/signin/", {"email": "bob@example.org"}).status_code == 303
        silent_mail_server.settimeout(30)
        connection, _ = silent_mail_server.accept()
        with connection:
            assert alice.get("/endpoints/").status_code == 200, "send an email"


def wait_for_key_check(folder: Path) -> None:
    key_check.check_key(
        provider=providers.get("openai"),
        destination=destinations.parse("https://api.example.com"),
        header_name="Authorization",
        header_template="Bearer {{secret}}",
        key=KEY,
    )


def wait_for_connection_test(folder: Path) -> None:
    made = factories.make_endpoint(owner=factories.make_user())
    connection_test.call(
        endpoint=made.endpoint, provider=providers.get("custom"), token=made.plaintext, address="192.0.2.1"
    )


WAITS: dict[str, Callable[[Path], object]] = {
    "key check": wait_for_key_check,
    "look-up of a name": lambda folder: destinations.check("https://api.example.com"),
    "connection test": wait_for_connection_test,
    "wrap": lambda folder: SocketKeyWrapper(folder / "wrap.sock").keys(),
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", WAITS)
def test_nothing_waits_inside_a_transaction(name: str, tmp_path: Path) -> None:
    with transaction.atomic(), pytest.raises(RuntimeError, match="inside a transaction"):
        WAITS[name](tmp_path)


@pytest.mark.django_db(transaction=True)
def test_transaction_may_follow_a_wait() -> None:
    with without_connection():
        pass
    with transaction.atomic():
        factories.make_user()
