"""What the accounts tests share: mail that is worked off when the test says so, and a way to sign in by link."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from django.core import mail
from django.test import Client

from accounts.background import BackgroundQueue

LINK = re.compile(r"http://localhost:8000(/signin/link/(link_[0-9A-Za-z]{49})/)")


@pytest.fixture
def deliver(held_queue: BackgroundQueue) -> Iterator[Callable[[], None]]:
    """Does the background work that is due, in the test's own thread and transaction."""
    yield held_queue.run_due
    assert not held_queue.has_work(), "a test left mail undelivered"


@pytest.fixture
def mailed_link(deliver: Callable[[], None]) -> Callable[[], str]:
    """Delivers what is queued and returns the path of the link in the newest mail."""

    def newest() -> str:
        deliver()
        found = LINK.search(str(mail.outbox[-1].body))
        assert found, "the mail holds no link"
        return found[1]

    return newest


@pytest.fixture
def ask(client: Client) -> Callable[..., int]:
    """Asks for a link in the browser of the test; returns the status."""

    def post(email: str = "alice@example.org", next: str = "", **headers: str) -> int:
        return client.post("/signin/", {"email": email, "next": next}, **headers).status_code

    return post
