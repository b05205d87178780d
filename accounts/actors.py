"""Actors: every service takes one, to check permission and to record it in the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accounts.models import User


@dataclass(frozen=True, slots=True)
class Person:
    """A signed-in user, their IP address, and the session or access token through which they act.

    `via` is how the audit log names the session or token. `acting_id` and `acting_label` are its id and its label.
    """

    user: User
    ip: str | None = None
    via: str = ""
    acting_id: str = ""
    acting_label: str = ""


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who can run `manage.py`. Operators may act on everything. `via` names the command."""

    via: str = ""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is not signed in. Visitors appear in the audit log, but no service accepts one."""

    ip: str | None = None


Actor = Person | Operator
OPERATOR = Operator()
