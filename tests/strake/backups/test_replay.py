"""What was ended since a backup, by an exported audit trail, ends again."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import timezone

from accounts import access_tokens, users
from accounts.actors import OPERATOR
from accounts.models import AccessToken, AuditEvent, User
from credentials import services
from credentials.models import BearerToken, Endpoint
from strake.backups import replay
from strake.backups.archive import BackupError
from tests.support import factories
from tests.support.factories import Connected

pytestmark = pytest.mark.django_db

Line = Callable[..., str]


@pytest.fixture
def connected(alice: User) -> Connected:
    return factories.make_endpoint(owner=alice)


def line(action: str, subject: object, *, minutes: int = 5, **more: object) -> str:
    """An event some minutes after the backup."""
    at = timezone.now() + timedelta(minutes=minutes)
    kind = action.partition(".")[0]
    return json.dumps(
        {"at": at.isoformat(), "action": action, "subject_type": kind, "subject_id": str(subject), **more}
    )


def replayed(*lines: str) -> list[str]:
    """Carry out the plan for these lines. Returns what was left to do by hand."""
    plan = replay.plan(replay.read(lines), timezone.now())
    for step in plan.steps:
        replay.carry_out(step, OPERATOR)
    return [event.action for event in plan.by_hand]


@pytest.mark.parametrize("action", ["token.revoked", "token.rotated"])
def test_ended_token_ends_again(connected: Connected, action: str) -> None:
    other = factories.make_endpoint(owner=connected.endpoint.owner)
    assert replayed(line(action, connected.token.pk)) == []
    assert list(BearerToken.objects.live()) == [other.token]
    assert AuditEvent.objects.get().action == "token.revoked"


def test_deleted_endpoint_and_person_are_deleted_again(connected: Connected, bob: User) -> None:
    replayed(line("endpoint.deleted", connected.endpoint.subdomain), line("user.deleted", bob.pk))
    assert not Endpoint.objects.exists()
    assert not User.objects.filter(pk=bob.pk).exists()


def test_access_is_taken_again(alice: User, bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(is_staff=True)
    token = access_tokens.create(actor=OPERATOR, user=alice, label="script").token
    replayed(line("user.suspended", alice.pk), line("user.demoted", bob.pk), line("access_token.revoked", token.pk))
    assert User.objects.get(pk=alice.pk).suspended_at is not None
    assert User.objects.get(pk=bob.pk).is_staff is False
    assert not AccessToken.objects.live().exists()


def test_last_event_about_a_subject_decides(connected: Connected, alice: User) -> None:
    subdomain = connected.endpoint.subdomain
    replayed(
        line("user.resumed", alice.pk, minutes=9),
        line("user.suspended", alice.pk, minutes=8),
        line("endpoint.paused", subdomain, minutes=8),
        line("endpoint.resumed", subdomain, minutes=7),
    )
    alice.refresh_from_db()
    assert alice.suspended_at is None
    assert Endpoint.objects.get().paused_at is not None


def test_what_the_database_knows_is_not_repeated(alice: User) -> None:
    """Rotations before the backup are in it: the restored secret is the one that they made."""
    connected = factories.make_endpoint(owner=alice)
    services.rotate_token(actor=OPERATOR, token_id=connected.token.pk)
    [event] = AuditEvent.objects.all()
    known = {"at": event.at.isoformat(), "action": event.action, "subject_id": event.subject_id}
    replayed(json.dumps(known))
    assert BearerToken.objects.live().exists()


def test_events_long_before_the_backup_are_ignored(connected: Connected) -> None:
    replayed(line("token.revoked", connected.token.pk, minutes=-90))
    assert BearerToken.objects.live().exists()


def test_event_that_overtook_the_backup_counts(connected: Connected) -> None:
    replayed(line("token.revoked", connected.token.pk, minutes=-2))
    assert not BearerToken.objects.live().exists()


def test_what_cannot_be_repeated_is_reported(connected: Connected) -> None:
    subdomain = connected.endpoint.subdomain
    left = replayed(
        line("key.replaced", subdomain),
        line("destination.changed", subdomain),
        line("master_key.retired", "2026-11-a"),
        line("something.new", subdomain),
        *(line(action, subdomain) for action in ("signin.succeeded", "session.ended", "audit.read", "token.issued")),
    )
    assert left == ["key.replaced", "destination.changed", "master_key.retired", "something.new"]


def test_lines_without_events_and_more_fields_are_fine(connected: Connected) -> None:
    event = line("token.revoked", connected.token.pk, sequence=7, hash="00", details={"preview": "strk_…"})
    assert replayed('{"checkpoint": 7, "signature": "x"}\n', "\n", f"{event}\n") == []
    assert not BearerToken.objects.live().exists()


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"action": "a"}', '{"action": "a", "subject_id": 1, "at": "soon"}'])
def test_line_that_is_no_event_is_named(connected: Connected, text: str) -> None:
    with pytest.raises(BackupError, match="Line 2 "):
        replayed(line("token.revoked", connected.token.pk), text)
    assert BearerToken.objects.live().exists()


def test_unknown_subjects_are_skipped(connected: Connected) -> None:
    gone = [line("token.revoked", "ctok_gone"), line("user.deleted", "no uuid"), line("endpoint.deleted", "gone")]
    assert replayed(*gone) == []


# --- The command -----------------------------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("after_restore", *arguments, stdout=out)
    return out.getvalue()


def test_dry_run_changes_nothing(connected: Connected, tmp_path: Path) -> None:
    trail = tmp_path / "trail"
    trail.write_text(line("token.revoked", connected.token.pk))
    assert "1 would end again" in run("--events", str(trail), "--dry-run")
    assert BearerToken.objects.live().exists()
    assert "1 ended again" in run("--events", str(trail))
    assert "0 ended again" in run("--events", str(trail))


def test_command_fails_if_something_is_left(connected: Connected, tmp_path: Path) -> None:
    trail = tmp_path / "trail"
    trail.write_text(line("key.replaced", connected.endpoint.subdomain))
    with pytest.raises(CommandError, match="1 events"):
        run("--events", str(trail))


def test_without_a_trail_everything_is_listed(connected: Connected, bob: User) -> None:
    users.suspend(actor=OPERATOR, user=bob)
    ended = factories.make_endpoint(owner=bob)
    access_tokens.create(actor=OPERATOR, user=connected.endpoint.owner, label="script")
    out = run()
    assert connected.token.pk in out
    assert ended.token.pk not in out
    assert "1 tokens and 1 access tokens work" in out
    assert json.loads(run("--json", "--revoke-all", "--dry-run"))["revoked"] is False
    assert BearerToken.objects.live().count() == 2
    assert "1 tokens and 1 access tokens revoked" in run("--revoke-all")
    assert not AccessToken.objects.live().exists()


def test_senseless_time_is_refused(tmp_path: Path) -> None:
    trail = tmp_path / "trail"
    trail.write_text("")
    with pytest.raises(CommandError, match="ISO 8601"):
        run("--events", str(trail), "--since", "yesterday")
