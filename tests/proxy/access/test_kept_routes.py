"""A route is kept as long as nothing at all was committed, so that the next request sees every change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection

from accounts.models import User
from accounts.tokens import digest
from credentials.models import BearerToken, Credential, Endpoint, SealedKey
from proxy.access import kept_routes
from proxy.access.route import Route
from proxy.access.sqlite_lookup import SQLiteLookup
from tests.support import factories
from tests.support.factories import Connected

PAST = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2100, 1, 1, tzinfo=UTC)


class Lookup:
    """A look-up on SQLite, called from a test that changes rows on another connection."""

    def __init__(self) -> None:
        self.lookup = SQLiteLookup()
        self._runner = asyncio.Runner()

    def find(self, made: Connected, token: str = "") -> Route | None:
        return self._runner.run(self.lookup.find(made.endpoint.subdomain, digest(token or made.plaintext)))

    def known(self, made: Connected) -> Route:
        found = self.find(made)
        assert found is not None
        return found

    def reads(self, made: Connected) -> int:
        """Find once more. Returns the number of rows that were asked for."""
        statements: list[str] = []
        opened = self.lookup._open()
        opened.set_trace_callback(statements.append)
        self.find(made)
        opened.set_trace_callback(None)
        return sum(statement.startswith("SELECT") for statement in statements)

    def close(self) -> None:
        self._runner.run(self.lookup.close())
        self._runner.close()


@pytest.fixture
def lookup(transactional_db: None) -> Iterator[Lookup]:
    with closing(Lookup()) as made:
        yield made


@pytest.fixture
def made(transactional_db: None) -> Connected:
    return factories.make_endpoint(owner=factories.make_user())


def test_unchanged_database_is_not_read_again(lookup: Lookup, made: Connected) -> None:
    assert lookup.reads(made) == 1
    route = lookup.known(made)
    assert lookup.reads(made) == 0
    assert lookup.known(made) is route


def test_any_commit_leads_to_one_more_read(lookup: Lookup, made: Connected) -> None:
    """The route stays, since its row is the same."""
    route = lookup.known(made)
    factories.make_user()
    assert lookup.reads(made) == 1
    assert lookup.reads(made) == 0
    assert lookup.known(made) is route


def test_change_in_an_open_transaction_is_seen_with_its_commit(lookup: Lookup, made: Connected) -> None:
    route = lookup.known(made)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        BearerToken.objects.update(revoked_at=PAST)
        assert lookup.known(made) is route
        cursor.execute("COMMIT")
    assert lookup.known(made).is_ended


Change = Callable[[Connected], object]
CHANGES: dict[str, tuple[Change, Callable[[Route], Any], Any]] = {
    "token revoked": (lambda _: BearerToken.objects.update(revoked_at=PAST), lambda route: route.is_ended, True),
    "token's expiry": (lambda _: BearerToken.objects.update(expires_at=LATER), lambda route: route.expires_at, LATER),
    "token rotated": (lambda _: BearerToken.objects.update(digest=bytes(32)), lambda route: route.token_id, None),
    "token deleted": (lambda made: made.token.delete(), lambda route: route.token_id, None),
    "token limited": (
        lambda _: BearerToken.objects.update(requests_per_minute=7, allowed_networks=["192.0.2.0/24"]),
        lambda route: (route.requests_per_minute, len(route.networks)),
        (7, 1),
    ),
    "parent revoked": (
        lambda made: BearerToken.objects.filter(pk=made.token.pk).update(
            parent=factories.make_token(endpoint=made.endpoint, revoked_at=PAST)[0]
        ),
        lambda route: route.is_ended,
        True,
    ),
    "endpoint paused": (lambda _: Endpoint.objects.update(paused_at=PAST), lambda route: route.is_paused, True),
    "endpoint limited": (lambda _: Endpoint.objects.update(max_streams=3), lambda route: route.max_streams, 3),
    "owner suspended": (lambda _: User.objects.update(suspended_at=PAST), lambda route: route.is_ended, True),
    "owner's address": (
        lambda _: User.objects.update(email="new@example.org"),
        lambda route: route.owner_email,
        "new@example.org",
    ),
    "destination": (
        lambda _: Credential.objects.update(destination_url="https://other.example"),
        lambda route: route.destination and route.destination[1],
        b"other.example",
    ),
    "header": (
        lambda _: Credential.objects.update(header_name="x-api-key"),
        lambda route: route.places and route.places.headers[0].name,
        b"x-api-key",
    ),
    "key deleted": (
        lambda made: made.credential.sealed_key.delete(),
        lambda route: (route.sealed, route.iv),
        (None, b""),
    ),
    "key rewrapped": (
        lambda _: SealedKey.objects.update(master_key_id="other"),
        lambda route: route.sealed and route.sealed.wrap.master_key_id,
        "other",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_change_is_seen_by_the_next_request(name: str, lookup: Lookup, made: Connected) -> None:
    change, read, expected = CHANGES[name]
    for _ in range(2):
        assert read(lookup.known(made)) != expected
    change(made)
    assert read(lookup.known(made)) == expected


def test_replaced_key_is_seen_by_the_next_request(lookup: Lookup, made: Connected) -> None:
    before = lookup.known(made)
    made.credential.secret = "sk-another"
    made.credential.save()
    after = lookup.known(made)
    assert after.sealed == made.credential.sealed() != before.sealed
    assert after.connection_id != before.connection_id, "no connection of the old key is used"


def test_deleted_endpoint_is_unknown_to_the_next_request(lookup: Lookup, made: Connected) -> None:
    lookup.known(made)
    made.endpoint.delete()
    assert lookup.find(made) is None


def test_token_is_for_its_endpoint_only(lookup: Lookup, made: Connected) -> None:
    other = factories.make_endpoint(owner=made.endpoint.owner)
    for _ in range(2):
        assert lookup.known(made).token_id == made.token.pk
        found = lookup.find(other, made.plaintext)
        assert found is not None
        assert (found.endpoint_id, found.token_id) == (other.endpoint.pk, None)


def test_new_connection_keeps_nothing(lookup: Lookup, made: Connected) -> None:
    """It may count as the old one did, although there were changes in between."""
    lookup.known(made)
    lookup.lookup._disconnect()
    BearerToken.objects.update(revoked_at=PAST)
    assert lookup.known(made).is_ended


def test_only_tokens_that_exist_are_known(lookup: Lookup, made: Connected) -> None:
    assert not lookup.lookup.knows(digest(made.plaintext))
    lookup.known(made)
    lookup.find(made, "strk_of_nobody")
    assert lookup.lookup.knows(digest(made.plaintext))
    assert not lookup.lookup.knows(digest("strk_of_nobody"))


def test_oldest_route_goes_first(lookup: Lookup, made: Connected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_routes, "MAX_KEPT", 3)
    tokens = [factories.make_token(endpoint=made.endpoint)[1] for _ in range(5)]
    for token in tokens:
        lookup.find(made, token)
    lookup.find(made, tokens[-1])
    assert len(lookup.lookup._kept) == 3
    assert [lookup.lookup.knows(digest(token)) for token in tokens] == [False, False, True, True, True]
