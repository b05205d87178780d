"""Querysets of the credentials models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from django.db import models
from django.db.models import Count, Q
from django.utils import timezone

from accounts.actors import Actor, Operator

Row = TypeVar("Row", bound=models.Model, covariant=True)


class EndpointQuerySet(models.QuerySet[Row]):
    def visible_to(self, actor: Actor) -> EndpointQuerySet[Row]:
        """A person's endpoints, or all of them for an operator."""
        return self.all() if isinstance(actor, Operator) else self.filter(owner=actor.user)

    def with_credential(self) -> EndpointQuerySet[Row]:
        """Load the credentials too, and the ids of the master keys that they are sealed under."""
        # Prefetched and not joined: a join would load the columns that the web half's database role may not read.
        return self.select_related("credential").prefetch_related("credential__sealed_key")


class SealedKeyManager(models.Manager[Row]):
    """Loads only the two columns that the web half's database role may read, unless a query starts with `whole()`."""

    def get_queryset(self) -> models.QuerySet[Row]:
        return super().get_queryset().only("credential", "master_key_id")

    def whole(self) -> models.QuerySet[Row]:
        """The rows with every column."""
        return super().get_queryset()

    def count_by_key(self) -> dict[str, int]:
        """The number of sealed keys under each master key."""
        counted = self.values("master_key_id").annotate(rows=Count("pk"))
        return dict(counted.values_list("master_key_id", "rows").order_by("master_key_id"))

    def count_by_missing_key(self, known_ids: Iterable[str]) -> dict[str, int]:
        """The number of sealed keys under each master key that is not among `known_ids`."""
        missing = self.exclude(master_key_id__in=known_ids).values("master_key_id").annotate(rows=Count("pk"))
        return dict(missing.values_list("master_key_id", "rows").order_by("master_key_id"))


class BearerTokenQuerySet(models.QuerySet[Row]):
    def live(self) -> BearerTokenQuerySet[Row]:
        """Tokens that are neither revoked nor expired."""
        return self.filter(live_tokens())

    def visible_to(self, actor: Actor) -> BearerTokenQuerySet[Row]:
        """The tokens of a person's endpoints, or all of them for an operator."""
        return self.all() if isinstance(actor, Operator) else self.filter(endpoint__owner=actor.user)


def live_tokens() -> Q:
    """The condition of `BearerTokenQuerySet.live`."""
    return Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=timezone.now()))
