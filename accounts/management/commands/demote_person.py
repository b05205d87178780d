"""`manage.py demote_person`: take the rights of staff from a person."""

from __future__ import annotations

from typing import Any

from accounts import users
from accounts.commands import PersonCommand
from accounts.models import User


class Command(PersonCommand):
    help = (
        "Take the rights of staff from a person, from their next request on. `signin_link --staff` gives them. Exit "
        "code 0, also if the person was not staff, or 1 if there is no such person."
    )

    def act(self, user: User, *, json: bool, **options: Any) -> None:
        changed = users.demote(actor=self.actor, user=user)
        if json:
            self.print_json({"email": user.email, "changed": changed})
        else:
            self.print(f"{user.email} {'is not staff any more' if changed else 'was not staff'}.")
