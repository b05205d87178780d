"""The stage itself: what other tests silently rely on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.conf import settings

from accounts import tokens
from accounts.models import User
from credentials import keyring
from proxy.unsealing import open_key
from tests import factories


def test_tests_live_in_a_folder_of_their_own():
    assert settings.STRAKE_HOME.path == Path(os.environ["STRAKE_HOME"])
    assert settings.ROOT not in settings.STRAKE_HOME.path.parents


def test_no_variable_of_the_outer_environment_reaches_the_settings():
    outer = {name for name in os.environ if name.startswith("STRAKE_")} - {"STRAKE_HOME"}
    assert not outer
    assert "DATABASE_URL" not in os.environ


def test_a_made_endpoint_opens_to_the_key_it_was_made_with(alice: User):
    made = factories.make_endpoint(owner=alice, key="sk-of-alice")
    made.credential.refresh_from_db()
    assert open_key(made.credential.sealed(), made.credential.binding(), keyring.current()) == b"sk-of-alice"
    assert bytes(made.token.digest) == tokens.digest(made.plaintext)


@pytest.mark.postgres
def test_a_postgres_test_gets_an_empty_database(postgres_url: str):
    import psycopg

    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert found == (0,)


@pytest.mark.redis
def test_a_redis_test_gets_a_server_of_its_own(redis_url: str):
    import redis

    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
