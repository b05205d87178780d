"""Quotas: how many objects of a kind one person may hold. STRAKE_MAX_… sets them.

They bound what one account can take from the others. An operator's command may add more for somebody.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db.models import QuerySet

from accounts.actors import Actor, Operator
from accounts.errors import QuotaReached
from accounts.models import User
from accounts.transactions import advisory_lock


def require_room(actor: Actor, owner: User, held: QuerySet[Any], *, setting: str, kind: str, remedy: str) -> None:
    """Raise `QuotaReached` if `owner` holds as many objects as `setting` allows, and `actor` is no operator.

    `held` are the objects that count. `kind` and `remedy` are for the message: "endpoints", "Delete one". In the
    transaction that adds an object, this waits for others that add one for this owner, so that none exceeds the quota.
    """
    if isinstance(actor, Operator):
        return
    advisory_lock(f"quotas of {owner.pk}")
    quota: int = getattr(settings, setting)
    if held.count() >= quota:
        raise QuotaReached(
            f"You have reached the limit for {kind}, which is {quota:,} for each person. {remedy} that you no longer "
            f"need, or ask the operator to raise {setting}."
        )
