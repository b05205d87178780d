"""`manage.py limit_endpoint`, and the service behind it: clear words, one event, nothing the proxy could not keep."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from accounts import trail
from accounts.audit import Actor
from accounts.models import AuditEvent, User
from credentials import services
from credentials.errors import NotFound
from credentials.models import Endpoint
from tests import factories
from tests.running import Strake


@pytest.fixture
def endpoint(alice: User) -> Endpoint:
    return factories.make_endpoint(owner=alice, label="laptop").endpoint


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("limit_endpoint", *arguments, stdout=out)
    return out.getvalue().strip()


def test_a_limit_is_set_changed_and_lifted(endpoint: Endpoint) -> None:
    words = f"{endpoint.subdomain} (laptop): at most 5 at a time in each server process."
    assert run(endpoint.subdomain, "--at-once", "5") == words
    assert Endpoint.objects.get().max_streams == 5
    assert run(endpoint.subdomain, "--no-limit") == f"{endpoint.subdomain} (laptop): no limit of its own."
    assert Endpoint.objects.get().max_streams is None


def test_each_change_is_one_event_and_no_change_is_none(endpoint: Endpoint, alice: User) -> None:
    for most in (None, 5, 5, 6, None, None):
        services.limit_endpoint(actor=Actor(alice), subdomain=endpoint.subdomain, max_streams=most)
    events = AuditEvent.objects.filter(action="endpoint.limited", account=alice, subject_id=endpoint.subdomain)
    assert events.count() == 3
    assert trail.what(events[0]) == "Endpoint limit changed"


def test_only_the_owner_limits_an_endpoint(endpoint: Endpoint, charlie: User) -> None:
    with pytest.raises(NotFound):
        services.limit_endpoint(actor=Actor(charlie), subdomain=endpoint.subdomain, max_streams=1)
    assert Endpoint.objects.get().max_streams is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--at-once", "0"], "must be from 1 to 2,000, the most this installation allows"),
        (["--at-once", "-1"], "must be from 1 to 2,000"),
        (["--at-once", "2001"], "must be from 1 to 2,000"),
        (["--at-once", "many"], "invalid int value"),
        ([], "one of the arguments --at-once --no-limit is required"),
        (["--at-once", "3", "--no-limit"], "not allowed with argument"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    endpoint: Endpoint, arguments: list[str], says: str
) -> None:
    Endpoint.objects.update(max_streams=7)
    with pytest.raises(CommandError, match=says):
        run(endpoint.subdomain, *arguments)
    assert Endpoint.objects.get().max_streams == 7
    assert not AuditEvent.objects.filter(action="endpoint.limited").exists()


def test_an_endpoint_that_is_not_there_is_refused(db: None) -> None:
    with pytest.raises(CommandError, match="no such endpoint"):
        run("abcdefghijkl", "--no-limit")


def test_the_database_takes_no_limit_below_one(endpoint: Endpoint) -> None:
    with pytest.raises(IntegrityError, match="max_streams"), transaction.atomic():
        Endpoint.objects.update(max_streams=0)


def test_scripts_can_tell_by_the_exit_code(strake: Strake) -> None:
    made = strake.connect("http://127.0.0.1:9/v1")
    done = strake.manage("limit_endpoint", made.subdomain, "--at-once", "5")
    assert (done.returncode, done.stderr) == (0, "")
    refused = strake.manage("limit_endpoint", made.subdomain, "--at-once", "0")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Traceback" not in refused.stderr
