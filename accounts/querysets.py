"""Querysets of the accounts models."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from typing import TypeVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from accounts.actors import Actor, Operator

Row = TypeVar("Row", bound=models.Model, covariant=True)
_LAST_DAY = date(9000, 1, 1)  # later ones overflow in some time zones


class SignInLinkQuerySet(models.QuerySet[Row]):
    def live(self) -> SignInLinkQuerySet[Row]:
        """Links that are neither used nor expired."""
        return self.filter(used_at=None, expires_at__gt=timezone.now())


class BrowserSessionQuerySet(models.QuerySet[Row]):
    def live(self) -> BrowserSessionQuerySet[Row]:
        """Sessions that have not expired by the database's clock. Ended sessions have no row.

        A session that is not live is deleted, so one host with a wrong clock would sign everybody out.
        """
        return self.filter(expires_at__gt=Now())


class AccessTokenQuerySet(models.QuerySet[Row]):
    def live(self) -> AccessTokenQuerySet[Row]:
        """Tokens that are neither revoked nor expired."""
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()), revoked_at=None)

    def visible_to(self, actor: Actor) -> AccessTokenQuerySet[Row]:
        """A person's tokens, or all of them for an operator."""
        return self.all() if isinstance(actor, Operator) else self.filter(user=actor.user)


class AuditEventQuerySet(models.QuerySet[Row]):
    def visible_to(self, actor: Actor, *, everybody: bool = False) -> AuditEventQuerySet[Row]:
        """A person's events. With `everybody`, staff see all of them, as operators always do."""
        if isinstance(actor, Operator) or (everybody and actor.user.is_staff):
            return self.all()
        return self.filter(account=actor.user)

    def matching(
        self, *, text: str = "", action: str = "", since: date | None = None, until: date | None = None
    ) -> AuditEventQuerySet[Row]:
        """Events that match every given filter. `text` may be in subject, actor or IP address.

        Days are those of the current time zone.
        """
        events = self.all()
        if text:
            events = events.filter(
                Q(subject_label__icontains=text)
                | Q(subject_id__icontains=text)
                | Q(actor__email__icontains=text)
                | Q(ip__startswith=text)
            )
        if action:
            events = events.filter(action=action)
        if since:
            events = events.filter(at__gte=_start(since))
        if until:
            events = events.filter(at__lt=_start(min(until, _LAST_DAY) + timedelta(days=1)))
        return events


def _start(day: date) -> datetime:
    """The first moment of a day, in the current time zone."""
    return datetime.combine(max(day, date(2, 1, 1)), time.min, timezone.get_current_timezone())
