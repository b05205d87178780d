"""A running Strake tells a person of everything, by mail and by webhook. Only the times of rows are moved."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from email import message_from_string
from email.message import EmailMessage
from email.policy import default

import httpx
import psycopg
import pytest

from tests.accounts.smtp import SmtpServer
from tests.credentials.test_webhooks import verified
from tests.support.running import KEY, Endpoint, Strake
from tests.support.upstream import Exchange, Upstream, fixed

SUBJECTS = {
    "The token “First token” expires in 7 days",
    "The token “day” expires within a day",
    "The token “over” has expired",
    "The revoked token “gone” is still in use",
    "The provider refuses the key of “Refused”",
    "The endpoint “Failing” is failing",
}
TYPES = {
    "token.expires_in_week",
    "token.expires_in_day",
    "token.expired",
    "token.revoked_in_use",
    "key.refused",
    "endpoint.failing",
}


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    server = SmtpServer()
    server.start()
    yield server
    server.listener.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def told(request: pytest.FixtureRequest, run_strake: Callable[..., Strake], smtp: SmtpServer) -> Strake:
    """A Strake that sends mail to `smtp`."""
    environment = {"EMAIL_URL": f"smtp://127.0.0.1:{smtp.port}"}
    if request.param == "postgresql":
        environment["DATABASE_URL"] = request.getfixturevalue("postgres_url")
    return run_strake(**environment)


def execute(strake: Strake, statement: str) -> list[tuple[object, ...]]:
    """Run a statement in Strake's database. `{at:-5 minutes}` in it is a time from now."""
    url = strake.environment.get("DATABASE_URL")
    parts = statement.split("{at:")
    form = "now() + interval '{}'" if url else "strftime('%Y-%m-%d %H:%M:%f000', 'now', '{}')"
    statement = parts[0] + "".join(form.format(part.split("}", 1)[0]) + part.split("}", 1)[1] for part in parts[1:])
    if url:
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []
    with contextlib.closing(sqlite3.connect(strake.home / "data/strake.sqlite3", timeout=60)) as database, database:
        return database.execute(statement).fetchall()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def mails(smtp: SmtpServer) -> list[EmailMessage]:
    return [message_from_string(text, EmailMessage, policy=default) for text in smtp.messages]


def test_every_kind_arrives_once_by_mail_and_webhook(told: Strake, smtp: SmtpServer, upstream: Upstream) -> None:
    upstream.on("/hooks", fixed(204))
    upstream.on("/refused", fixed(401))
    upstream.on("/failing", fixed(503))
    base_url = f"http://localhost:{told.port}"
    works = told.connect(upstream.url, label="Works")
    token = told.call("create_access_token", email="owner@example.org")["token"]
    with httpx.Client(base_url=f"{told.url}/api/v1", headers={"Authorization": f"Bearer {token}"}) as api:
        secret = api.put("/notices/webhook", json={"url": f"{upstream.url}/hooks"}).json()["secret"]
        assert api.post("/notices/test").status_code == 202
    others = {name: told.issue(works, label=name) for name in ("day", "over", "gone")}
    refused = told.connect(upstream.url, label="Refused")
    failing = told.connect(upstream.url, label="Failing")
    wait_for(lambda: len(received(upstream)) == 1 and len(smtp.messages) == 1)
    wait_for(lambda: execute(told, "SELECT count(*) FROM accounts_noticewatch") == [(3,)])

    def call(endpoint: Endpoint, path: str) -> int:
        return httpx.get(f"{endpoint.url}{path}", headers=endpoint.bearer).status_code

    told.revoke(others["gone"])
    execute(told, "UPDATE credentials_bearertoken SET created_at = {at:-30 days}")
    execute(told, "UPDATE credentials_bearertoken SET revoked_at = {at:-2 minutes} WHERE label = 'gone'")
    assert call(others["gone"], "/") == 401
    assert call(refused, "/refused") == 401
    assert [call(failing, "/failing") for _ in range(5)] == [503] * 5
    wait_for(lambda: execute(told, "SELECT count(*) FROM proxy_requestrecord") == [(6,)])
    wait_for(lambda: execute(told, "SELECT count(*) FROM proxy_refusalcount") == [(1,)])
    for token_id, moved in (
        (works.token_id, "7 days"),
        (others["day"].token_id, "1 days"),
        (others["over"].token_id, "0 days"),
    ):
        execute(
            told,
            f"UPDATE credentials_bearertoken SET expires_at = {{at:{moved}}} WHERE id = '{token_id}'",
        )
    for _ in range(2):  # a second look tells nothing again
        execute(told, "UPDATE accounts_noticewatch SET looked_until = {at:-1 hours}, due_at = {at:-1 minutes}")
        wait_for(
            lambda: execute(told, "SELECT count(*) FROM accounts_noticewatch WHERE due_at > {at:1 seconds}") == [(3,)]
        )
        wait_for(lambda: execute(told, "SELECT count(*) FROM accounts_outboxmail") == [(0,)])

    sent = mails(smtp)[1:]
    assert sorted(mail["Subject"] for mail in sent) == sorted(SUBJECTS)
    messages = [verified(exchange, secret) for exchange in received(upstream)[1:]]
    assert sorted(str(message["type"]) for message in messages) == sorted(TYPES)
    texts = [part.get_content() for mail in sent for part in mail.iter_parts()]
    everything = json.dumps(messages) + "".join(map(str, texts))
    for plaintext in (KEY, works.token, refused.token, failing.token, *(one.token for one in others.values()), secret):
        assert plaintext not in everything
    assert works.token[:9] in everything, "no preview tells which token it is"
    assert f"{base_url}/endpoints/{failing.subdomain}/" in everything

    [mail] = [mail for mail in sent if mail["Subject"] == "The endpoint “Failing” is failing"]
    link = mail["List-Unsubscribe"].replace(" ", "").strip("<>")
    unsubscribed = httpx.post(told.url + link.removeprefix(base_url), data={"List-Unsubscribe": "One-Click"})
    assert unsubscribed.status_code == 200
    execute(told, "DELETE FROM accounts_notice")
    execute(told, "UPDATE accounts_noticewatch SET due_at = {at:-1 minutes} WHERE name = 'endpoints'")
    wait_for(lambda: len(received(upstream)) == 9)
    wait_for(lambda: execute(told, "SELECT count(*) FROM accounts_outboxmail") == [(0,)])
    assert [mail["Subject"] for mail in mails(smtp)[7:]] == ["The provider refuses the key of “Refused”"]


def received(upstream: Upstream) -> list[Exchange]:
    return [exchange for exchange in upstream.exchanges if exchange.path == "/hooks"]
