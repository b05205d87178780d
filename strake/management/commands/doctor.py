"""`manage.py doctor`: ask everything that Strake depends on."""

from __future__ import annotations

import sys
from itertools import chain
from typing import Any

from django.core.management.base import CommandParser

from accounts.commands import OperatorCommand
from strake.doctor import examination, keys
from strake.health.findings import BAD, SKIPPED, WARN

WORDS = {BAD: "WRONG", WARN: "look", SKIPPED: "skip"}


class Command(OperatorCommand):
    help = (
        "Ask everything that Strake depends on, and say what there is, one line each: the database with its role, TLS, "
        "migrations and connections; Redis; the mail server, without sending; names; the public address with the "
        "proxies in front; the keyring, here and on every host; disks, clocks, versions, and the last backup. Nothing "
        "is changed. Exit code 0 if all is well, 1 if there is something to look at, 78 if something is wrong."
    )

    requires_system_checks = ()  # it reports on its own, also without a database

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, json: bool, **options: Any) -> None:
        findings = []
        for finding in chain([keys.look()], examination.examine()):
            findings.append(finding)
            if not json:
                style = {BAD: self.style.ERROR, WARN: self.style.WARNING}.get(finding.state)
                self.print(f"{WORDS.get(finding.state, 'ok'):<6}{finding.name}: {finding.words}", style=style)
                self.stdout.flush()
        code = examination.exit_code(findings)
        if json:
            found = [{"name": one.name, "state": one.state, "words": one.words} for one in findings]
            self.print_json({"exit_code": code, "findings": found})
        if code:
            sys.exit(code)
