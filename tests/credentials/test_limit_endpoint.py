"""`manage.py limit_endpoint` and its service: they validate the limit and audit each change once."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from accounts import audit_log
from accounts.actors import Person
from accounts.errors import NotFound
from accounts.models import AuditEvent, User
from credentials import services
from credentials.models import Endpoint
from tests.support import factories
from tests.support.running import Strake


@pytest.fixture
def endpoint(alice: User) -> Endpoint:
    return factories.make_endpoint(owner=alice, label="laptop").endpoint


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("limit_endpoint", *arguments, stdout=out)
    return out.getvalue().strip()


def test_limit_is_set_and_removed(endpoint: Endpoint) -> None:
    name = f"{endpoint.subdomain} (laptop)"
    assert run(endpoint.subdomain, "--at-once", "5") == f"{name}: at most 5 concurrent requests in each server process."
    assert Endpoint.objects.get().max_streams == 5
    assert run(endpoint.subdomain, "--no-limit") == f"{name}: no limit."
    assert Endpoint.objects.get().max_streams is None


def test_only_changes_are_audited(endpoint: Endpoint, alice: User) -> None:
    for limit in (None, 5, 5, 6, None, None):
        services.limit_endpoint(actor=Person(alice), subdomain=endpoint.subdomain, max_streams=limit)
    events = AuditEvent.objects.filter(action="endpoint.limited", account=alice, subject_id=endpoint.subdomain)
    assert events.count() == 3
    assert audit_log.action_label(events[0]) == "Endpoint limit changed"


def test_only_the_owner_can_limit_an_endpoint(endpoint: Endpoint, charlie: User) -> None:
    with pytest.raises(NotFound):
        services.limit_endpoint(actor=Person(charlie), subdomain=endpoint.subdomain, max_streams=1)
    assert Endpoint.objects.get().max_streams is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--at-once", "0"], "must be from 1 to 2,000, the most that this installation allows"),
        (["--at-once", "-1"], "must be from 1 to 2,000"),
        (["--at-once", "2001"], "must be from 1 to 2,000"),
        (["--at-once", "many"], "invalid int value"),
        ([], "one of the arguments --at-once --no-limit is required"),
        (["--at-once", "3", "--no-limit"], "not allowed with argument"),
    ],
)
def test_invalid_limit_changes_nothing(endpoint: Endpoint, arguments: list[str], says: str) -> None:
    Endpoint.objects.update(max_streams=7)
    with pytest.raises(CommandError, match=says):
        run(endpoint.subdomain, *arguments)
    assert Endpoint.objects.get().max_streams == 7
    assert not AuditEvent.objects.filter(action="endpoint.limited").exists()


def test_unknown_endpoint_is_refused(db: None) -> None:
    with pytest.raises(CommandError, match="no such endpoint"):
        run("abcdefghijkl", "--no-limit")


def test_database_refuses_limits_below_one(endpoint: Endpoint) -> None:
    with pytest.raises(IntegrityError, match="max_streams"), transaction.atomic():
        Endpoint.objects.update(max_streams=0)


def test_exit_code_tells_success_from_failure(strake: Strake) -> None:
    made = strake.connect("http://127.0.0.1:9/v1")
    done = strake.manage("limit_endpoint", made.subdomain, "--at-once", "5")
    assert (done.returncode, done.stderr) == (0, "")
    refused = strake.manage("limit_endpoint", made.subdomain, "--at-once", "0")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Traceback" not in refused.stderr
