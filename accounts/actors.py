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


@dataclass(frozen=True, slots=True, kw_only=True)
class Staff(Operator):
    """A member of staff on the pages under /admin/. They may do what an operator may, and the audit log names them.

    Only `audit.staff_of` makes one. Everywhere else, staff are a `Person` with no more rights than others.
    """

    person: Person


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is not signed in. Visitors appear in the audit log, but no service accepts one as its actor.

    `via` is how the log names somebody who proved something without signing in.
    """

    ip: str | None = None
    via: str = ""


Actor = Person | Operator
OPERATOR = Operator()


def holder_of_token(ip: str | None) -> Visitor:
    """Somebody who has shown that they hold a token, to end it."""
    return Visitor(ip, via="holder of the token")
