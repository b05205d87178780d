"""`manage.py after_restore`: end again what was ended since the backup that was restored."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from tqdm import tqdm

from accounts.commands import OperatorCommand
from strake.backups import replay
from strake.backups.archive import BackupError
from strake.backups.replay import Plan


class Command(OperatorCommand):
    help = (
        "After a restore to an earlier point, end again what was ended since: tokens that were revoked or rotated, "
        "endpoints and accounts that were deleted, people who were suspended or demoted, endpoints that were paused. "
        "With --events, by an exported audit trail with one JSON object a line. Without it, list every token that "
        "works, to decide by hand. Run it before Strake starts. It may be interrupted and run again. Exit code 0, or 1 "
        "if something remains to be done by hand."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--events", metavar="FILE", type=Path, help="the exported audit trail")
        what.add_argument("--revoke-all", action="store_true", help="without a trail: revoke every token that works")
        parser.add_argument("--since", metavar="TIME", help="the time of the backup, if `restore` did not restore it")
        parser.add_argument("--dry-run", action="store_true", help="say what would end, and end nothing")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, events: Path | None, revoke_all: bool, since: str | None, **options: Any) -> None:
        if events is None:
            self._without_events(revoke_all=revoke_all, **options)
            return
        try:
            start = _time(since) if since else replay.backup_time()
            with events.open(encoding="utf-8") as lines:
                plan = replay.plan(replay.read(lines), start)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{events} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}.") from None
        except (BackupError, ValueError) as error:
            raise CommandError(str(error)) from None
        if not options["dry_run"]:
            for step in tqdm(plan.steps, "Ending", unit=" events", disable=None):
                replay.carry_out(step, self.actor)
        self._report(plan, start, **options)
        if plan.by_hand:
            raise CommandError(f"{len(plan.by_hand)} events since the backup are to be repeated by hand, as listed.")

    def _report(self, plan: Plan, start: datetime, *, dry_run: bool, json: bool, **_: Any) -> None:
        if json:
            self.print_json(
                {
                    "since": start.isoformat(),
                    "dry_run": dry_run,
                    "ended": [{"verb": one.verb, "subject": one.event.subject_id} for one in plan.steps],
                    "by_hand": [{"action": one.action, "subject": one.subject_id} for one in plan.by_hand],
                }
            )
            return
        self.print(*(step.words for step in plan.steps))
        self.print(f"{len(plan.steps)} {'would end' if dry_run else 'ended'} again, since {start.isoformat()}.")
        if plan.by_hand:
            self.print("Not repeated, because the trail does not say enough:", *(one.words for one in plan.by_hand))

    def _without_events(self, *, revoke_all: bool, dry_run: bool, json: bool, **_: Any) -> None:
        tokens, others, staff = replay.working_tokens(), replay.working_access_tokens(), replay.staff()
        if revoke_all and not dry_run:
            replay.revoke_all(self.actor)
        if json:
            self.print_json(
                {
                    "revoked": revoke_all and not dry_run,
                    "tokens": [{"id": one.pk, "subdomain": one.endpoint.subdomain} for one in tokens],
                    "access_tokens": [{"id": one.pk, "email": one.user.email} for one in others],
                    "staff": [one.email for one in staff],
                }
            )
            return
        for token in tokens:
            endpoint = token.endpoint
            self.print(f"{token.pk} {token.preview} {token.label}, of {endpoint.subdomain} ({endpoint.owner.email})")
        for other in others:
            self.print(f"{other.pk} {other.preview} {other.label}, an access token of {other.user.email}")
        self.print(*(f"{one.email} is staff" for one in staff))
        ending = "revoked" if revoke_all and not dry_run else "would be revoked" if revoke_all else "work"
        self.print(f"{len(tokens)} tokens and {len(others)} access tokens {ending}.")
        if not revoke_all:
            self.print("Revoke those that should not: manage.py revoke_token ID, or all: after_restore --revoke-all")


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("--since must be a time in ISO 8601, such as 2026-11-30T12:00:00Z.") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
