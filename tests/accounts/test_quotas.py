"""Quotas of access tokens, also if several processes create them at once."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts import access_tokens
from accounts.actors import OPERATOR, Person
from accounts.errors import QuotaReached
from accounts.models import User
from tests.accounts.processes import printed, run_python, run_together
from tests.support.pages import text, value
from tests.support.running import Strake


@pytest.fixture
def quota(settings: Settings) -> int:
    settings.STRAKE_MAX_ACCESS_TOKENS = 2
    return 2


def create(user: User, **fields: object) -> access_tokens.CreatedToken:
    return access_tokens.create(actor=Person(user), user=user, label="CI", **fields)  # type: ignore[arg-type]


@pytest.mark.django_db
def test_quota_counts_live_access_tokens(alice: User, bob: User, quota: int) -> None:
    first = create(alice)
    create(alice, expires_at=timezone.now() + timedelta(days=1))
    with pytest.raises(QuotaReached) as reached:
        create(alice)
    assert str(reached.value) == (
        "You have reached the limit for access tokens, which is 2 for each person. Revoke one that you no longer "
        "need, or ask the operator to raise STRAKE_MAX_ACCESS_TOKENS."
    )
    create(bob)
    access_tokens.revoke_access_token(actor=Person(alice), token_id=first.token.pk)
    create(alice)
    with time_machine.travel(timezone.now() + timedelta(days=2), tick=False):
        create(alice)


@pytest.mark.django_db
def test_operator_may_exceed_the_access_token_quota(alice: User, quota: int) -> None:
    for _ in range(quota + 1):
        access_tokens.create(actor=OPERATOR, user=alice, label="CI")


@pytest.mark.django_db
def test_page_explains_the_access_token_quota(client: Client, alice: User, quota: int) -> None:
    client.force_login(alice)
    for _ in range(quota):
        create(alice)
    page = client.post("/access-tokens/new/", {"label": "laptop", "scopes": "read"})
    assert page.status_code == 400
    assert "Revoke one that you no longer need" in text(page)
    assert value(page, "label") == "laptop"


def test_processes_together_keep_the_quota(installation: Strake) -> None:
    printed(run_python(installation, "from accounts.models import User; User.objects.create(email='a@example.org')"))
    code = """
import time
from accounts import access_tokens
from accounts.actors import Person
from accounts.errors import QuotaReached
from accounts.models import User
actor = Person(User.objects.get())

def slow_preview(*arguments):
    time.sleep(0.2)  # between counting and creating
    return preview(*arguments)

preview, access_tokens.tokens.preview = access_tokens.tokens.preview, slow_preview
print("ready", flush=True)
sys.stdin.read()
for _ in range(10):
    try:
        access_tokens.create(actor=actor, user=actor.user, label="CI")
    except QuotaReached:
        break
"""
    for done in run_together(installation, [code] * 3, wait_for="ready", environment={"STRAKE_MAX_ACCESS_TOKENS": "4"}):
        printed(done)
    count = "from accounts.models import AccessToken; print(AccessToken.objects.count())"
    assert printed(run_python(installation, count)) == "4"
