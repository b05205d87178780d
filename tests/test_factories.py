"""The fixtures and factories themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.conf import settings

from accounts import tokens
from accounts.models import User
from credentials.vault import keyring
from proxy.unsealing import open_key
from tests.support import factories


def test_tests_use_a_temporary_data_folder() -> None:
    assert settings.STRAKE_HOME.path == Path(os.environ["STRAKE_HOME"])
    assert settings.ROOT not in settings.STRAKE_HOME.path.parents


def test_outer_environment_does_not_reach_the_settings() -> None:
    outer = {name for name in os.environ if name.startswith("STRAKE_")} - {"STRAKE_HOME"}
    assert not outer
    assert "DATABASE_URL" not in os.environ


def test_created_endpoint_opens_to_its_key(alice: User) -> None:
    made = factories.make_endpoint(owner=alice, key="sk-of-alice")
    made.credential.refresh_from_db()
    assert open_key(made.credential.sealed(), made.credential.binding(), keyring.current()) == b"sk-of-alice"
    assert bytes(made.token.digest) == tokens.digest(made.plaintext)


@pytest.mark.postgres
def test_postgresql_database_is_empty(postgres_url: str) -> None:
    import psycopg

    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert found == (0,)


@pytest.mark.redis
def test_redis_server_is_empty(redis_url: str) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
