"""Routing metadata of proxied requests. Not the path, not the query, not a header, nothing of a body."""

from __future__ import annotations

from typing import Any

from django.db import models

from credentials.models import BearerToken, Endpoint


class RequestRecord(models.Model):
    """One proxied request. References are not enforced: the journal may write just after an endpoint was deleted."""

    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, db_constraint=False, related_name="requests")
    # Tokens go with their endpoint only, and so do its records. A cascade of its own would look through all records
    # of all endpoints, as there is no index by token.
    token = models.ForeignKey(
        BearerToken, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="requests"
    )
    status = models.PositiveSmallIntegerField(help_text="What the client got; 499 where it left before an answer.")
    latency_ms = models.PositiveIntegerField(help_text="From the request's arrival to the last byte of the answer.")
    first_byte_ms = models.PositiveIntegerField(
        null=True, help_text="To the first byte of the answer, if there was one."
    )
    at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["endpoint", "-at"], name="proxy_record_by_endpoint"),
            models.Index(fields=["at"], name="proxy_record_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.status} in {self.latency_ms} ms"


class RequestRollup(models.Model):
    """Requests of one endpoint in one hour and status class, with a latency histogram.

    `latency_histogram[i]` counts answers faster than `proxy.journal.LATENCY_BOUNDS_MS[i]`; the last entry the rest.
    """

    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, db_constraint=False, related_name="rollups")
    hour = models.DateTimeField()
    status_class = models.PositiveSmallIntegerField(help_text="2 for 2xx, 4 for 4xx, …")
    count = models.PositiveIntegerField()
    latency_histogram: models.JSONField[Any, list[int]] = models.JSONField(default=list)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["endpoint", "hour", "status_class"], name="proxy_rollup_unique_endpoint_hour_class"
            )
        ]
        indexes = [models.Index(fields=["hour"], name="proxy_rollup_by_hour")]

    def __str__(self) -> str:
        return f"{self.count} of {self.status_class}xx"
