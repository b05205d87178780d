"""Races that only a database with concurrent writers can lose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.postgres

PRELUDE = """
import json, os, threading
import django
django.setup()
from django.core.management import call_command
from django.db import connections
call_command("migrate", verbosity=0)
from accounts import links
from accounts.errors import LinkNotValid
from accounts.models import BrowserSession, SignInLink, User, AuditEvent

def at_once(number, work):
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
def run(postgres_url: str, tmp_path: Any) -> Callable[[str], Any]:
    """Runs Python on a new PostgreSQL database and returns what it prints as JSON."""

    def on_postgres(script: str) -> Any:
        environment = {
            **os.environ,
            "DATABASE_URL": f"{postgres_url}?connect_timeout=5",
            "STRAKE_HOME": str(tmp_path),
            "DJANGO_SETTINGS_MODULE": "strake.settings",
        }
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + script], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return on_postgres


def test_fifty_redemptions_at_once_sign_in_once(run: Callable[[str], Any]) -> None:
    result = run("""
token = links.operator_link(email="alice@example.org").split("/")[-2]
results = at_once(50, lambda: links.redeem_link(token=token, ip=None, start_session=lambda user: None).user.email)
print(json.dumps([sorted(results), AuditEvent.objects.filter(action="signin.succeeded").count()]))
""")
    assert result == [["LinkNotValid"] * 49 + ["alice@example.org"], 1]


def test_eight_links_of_a_new_address_at_once_make_one_account(run: Callable[[str], Any]) -> None:
    result = run("""
request = links.LinkRequest("new@example.org")
tokens = [links._create(request, links.Actor(None)) for _ in range(8)]
results = at_once(8, lambda: links.redeem_link(token=tokens.pop(), ip=None, start_session=lambda user: None).user.email)
print(json.dumps([User.objects.count(), sorted(results)]))
""")
    assert result == [1, ["LinkNotValid"] * 7 + ["new@example.org"]]


def test_thirty_requests_at_once_leave_three_live_links(run: Callable[[str], Any]) -> None:
    result = run("""
request = links.LinkRequest("alice@example.org")
links.limits.count = lambda *_: links.limits.Verdict(False, 0)
results = at_once(30, lambda: links._answer(request))
print(json.dumps([results, SignInLink.objects.count()]))
""")
    assert result == [[None] * 30, 3]
