"""Fixtures of the accounts tests: requesting a link, and delivering email when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.core import mail
from django.test import Client

from accounts import outbox
from tests.accounts.signing_in import LINK
from tests.support.running import Strake


@pytest.fixture
def deliver(db: None) -> Iterator[Callable[[], None]]:
    """Sends the emails that are due, in the test's thread and transaction."""
    yield outbox.run_due
    assert not outbox.has_due(), "a test left email undelivered"


@pytest.fixture
def mailed_link(deliver: Callable[[], None]) -> Callable[[], str]:
    """Delivers queued email and returns the path of the link in the newest one."""

    def newest() -> str:
        deliver()
        found = LINK.search(str(mail.outbox[-1].body))
        assert found, "the email contains no link"
        return found[1]

    return newest


@pytest.fixture
def request_link(client: Client) -> Callable[..., int]:
    """Requests a link in the test's browser and returns the status."""

    def post(email: str = "alice@example.org", next: str = "") -> int:
        return client.post("/signin/", {"email": email, "next": next}).status_code

    return post


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def installation(request: pytest.FixtureRequest, migrated_home: Path) -> Strake:
    """An empty, migrated installation for the processes of a test. No server runs."""
    environment = {"DATABASE_URL": request.getfixturevalue("migrated_url")} if request.param == "postgresql" else {}
    return Strake(migrated_home, environment)
