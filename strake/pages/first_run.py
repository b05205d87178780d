"""Steps of the first-run checklist that only an operator can take."""

from __future__ import annotations

from django.conf import settings

from credentials.dashboard.panels import Step
from strake.backups import history


def operator_steps() -> list[Step]:
    """Whether there is a backup, and whether somebody chose who may sign up."""
    return [
        Step("Back up the database and the master keys, with manage.py backup", history.last() is not None),
        Step("Choose who may sign up, with STRAKE_SIGNUP", settings.STRAKE_SIGNUP_IS_CHOSEN),
    ]
