"""Races that need a database with concurrent writers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.postgres

PRELUDE = """
import json, os, threading
import django
django.setup()
from django.db import connections
from accounts.actors import OPERATOR
from accounts.sign_in import magic_links
from accounts.errors import LinkNotValid
from accounts.models import BrowserSession, SignInLink, User, AuditEvent

def run_concurrently(number, work):
    results, barrier = [], threading.Barrier(number)
    def run():
        barrier.wait()
        try:
            results.append(work())
        except Exception as error:
            results.append(type(error).__name__)
        finally:
            connections.close_all()
    threads = [threading.Thread(target=run) for _ in range(number)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return results
"""


@pytest.fixture
def run(migrated_url: str, tmp_path: Path) -> Callable[[str], Any]:
    """Runs Python on a new PostgreSQL database and returns the JSON that it prints."""

    def on_postgres(script: str) -> Any:
        environment = {
            **os.environ,
            "DATABASE_URL": f"{migrated_url}?connect_timeout=5",
            "STRAKE_HOME": str(tmp_path),
            "STRAKE_SECRET_KEY": "x" * 50,
            "DJANGO_SETTINGS_MODULE": "strake.settings",
        }
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + script], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return on_postgres


def test_fifty_concurrent_redemptions_sign_in_once(run: Callable[[str], Any]) -> None:
    result = run("""
token = magic_links.operator_link(email="alice@example.org").split("/")[-2]
redeem = magic_links.redeem_link
results = run_concurrently(50, lambda: redeem(token=token, ip=None, start_session=lambda user: None).user.email)
print(json.dumps([sorted(results), AuditEvent.objects.filter(action="signin.succeeded").count()]))
""")
    assert result == [["LinkNotValid"] * 49 + ["alice@example.org"], 1]


def test_concurrent_redemptions_create_one_user(run: Callable[[str], Any]) -> None:
    result = run("""
tokens = [magic_links._create("new@example.org", OPERATOR)[1] for _ in range(8)]
redeem = magic_links.redeem_link
results = run_concurrently(8, lambda: redeem(token=tokens.pop(), ip=None, start_session=lambda user: None).user.email)
print(json.dumps([User.objects.count(), sorted(results)]))
""")
    assert result == [1, ["LinkNotValid"] * 7 + ["new@example.org"]]


def test_concurrent_senders_leave_three_links(run: Callable[[str], Any]) -> None:
    """As many as the pool has connections: another one would wait for one of them, and fail after five seconds."""
    result = run("""
from django.core import mail
from django.test.utils import setup_test_environment
from accounts import outbox
setup_test_environment()
outbox.start = lambda: None
magic_links.throttle.count = lambda *_: magic_links.throttle.Verdict(False, 0)
for _ in range(30):
    magic_links.request_link(email="alice@example.org", browser_id="browser")

def send():
    while outbox.waiting():
        outbox.run_due()

results = run_concurrently(4, send)
print(json.dumps([results, SignInLink.objects.count(), len(mail.outbox)]))
""")
    assert result == [[None] * 4, 3, 3]
