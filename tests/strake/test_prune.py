"""`manage.py prune` removes expired rows only, and a dry run removes none."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from accounts import retention
from accounts.models import AuditEvent, SignInLink, User
from proxy.models import RefusalCount, RequestRecord
from tests.support import factories

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("prune", *arguments, stdout=out)
    return " ".join(out.getvalue().split())


@pytest.fixture
def rows(alice: User, settings: Any) -> None:
    settings.STRAKE_RETENTION_DAYS = 10
    now = timezone.now()
    issued = factories.make_endpoint(owner=alice)
    for days in (1, 9, 11, 12):
        at = now - timedelta(days=days)
        RequestRecord.objects.create(endpoint=issued.endpoint, token=issued.token, status=200, latency_ms=1, at=at)
        RefusalCount.objects.create(
            endpoint=issued.endpoint, token=issued.token, minute=at, code="rate_limited", count=9, last_at=at
        )
        SignInLink.objects.create(
            email="a@b.org", token_digest=bytes([days]), created_at=at - timedelta(1), expires_at=at
        )
    for days in (300, 400):
        AuditEvent.objects.create(action="test", account=alice, at=now - timedelta(days=days))


def test_only_expired_rows_are_removed(rows: None) -> None:
    report = run()
    assert "2 request records removed" in report
    assert "2 counts of refusals removed" in report
    assert "1 audit events removed" in report
    assert RequestRecord.objects.count() == RefusalCount.objects.count() == 2
    assert SignInLink.objects.count() == 0
    assert AuditEvent.objects.count() == 1
    assert "0 request records removed" in run()


def test_dry_run_removes_nothing(rows: None) -> None:
    assert "2 request records would be removed" in run("--dry-run")
    assert RequestRecord.objects.count() == 4
    assert AuditEvent.objects.count() == 2


def test_rows_are_removed_in_batches(
    rows: None, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setattr(retention, "_BATCH_SIZE", 1)
    with django_assert_num_queries(5):  # two batches of SELECT and DELETE, and a last SELECT
        assert retention.prune(RequestRecord.objects.filter(at__lt=timezone.now() - timedelta(days=10))) == 2
