"""`manage.py resume_person`: end the suspension of a person."""

from __future__ import annotations

from typing import Any

from accounts import users
from accounts.commands import PersonCommand
from accounts.models import User


class Command(PersonCommand):
    help = (
        "End the suspension of a person. They can sign in again, and their tokens work again. Sessions that the "
        "suspension ended stay ended. Exit code 0, also if the person was not suspended, or 1 if there is no such "
        "person."
    )

    def act(self, user: User, *, json: bool, **options: Any) -> None:
        changed = users.resume(actor=self.actor, user=user)
        if json:
            self.print_json({"email": user.email, "changed": changed})
        else:
            self.print(f"{user.email} {'has access again' if changed else 'was not suspended'}.")
