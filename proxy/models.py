"""Routing metadata of proxied requests. No path, query, header or body is stored."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models.functions import Now

from credentials.models import BearerToken, Endpoint


class RequestRecord(models.Model):
    """One proxied request.

    The database does not enforce its references, as the request log may write just after an endpoint was deleted.

    On PostgreSQL the table is partitioned by day (proxy/request_log/partitions.py). It has one index: there is none by
    id, so find records by endpoint and time.
    """

    endpoint = models.ForeignKey(
        Endpoint, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="requests"
    )
    # Tokens are deleted only with their endpoint, which deletes its records too. A cascade from the token would scan
    # all records, as there is no index by token.
    token = models.ForeignKey(
        BearerToken, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="requests"
    )
    status = models.PositiveSmallIntegerField(help_text="What the client got; 499 where it left before an answer.")
    error = models.CharField(
        max_length=32, db_default="", help_text="Strake's error code, if the request failed here or was ended."
    )
    phase = models.CharField(
        max_length=8, db_default="", help_text='"opened" and "closed" for the two records of a WebSocket connection.'
    )
    latency_ms = models.PositiveIntegerField(help_text="From the request's arrival to the last byte of the answer.")
    first_byte_ms = models.PositiveIntegerField(
        null=True, help_text="To the first byte of the answer, if there was one."
    )
    at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["endpoint", "-at"], name="proxy_record_by_endpoint")]

    def __str__(self) -> str:
        return f"{self.status} in {self.latency_ms} ms"


class RefusalCount(models.Model):
    """The requests with one token that Strake refused in one minute with one error code.

    Refusals have no records of their own, so that nobody can fill the database with them.
    """

    endpoint = models.ForeignKey(
        Endpoint, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="refusals"
    )
    token = models.ForeignKey(
        BearerToken, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="refusals"
    )
    minute = models.DateTimeField()
    code = models.CharField(max_length=32)
    count = models.PositiveIntegerField()
    last_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["endpoint", "minute", "token", "code"], name="proxy_refusal_unique_token_minute_code"
            )
        ]
        indexes = [models.Index(fields=["minute"], name="proxy_refusal_by_minute")]

    def __str__(self) -> str:
        return f"{self.count} times {self.code}"


class UploadCapability(models.Model):
    """A provider's upload URL, behind a URL of the endpoint that works until it expires or its token ends.

    The secret in that URL is not stored. `sealed_url` is encrypted under a key derived from it, so the database alone
    does not reveal the provider's URL, which would need no key.
    """

    digest = models.BinaryField(primary_key=True, max_length=32)
    token = models.ForeignKey(BearerToken, on_delete=models.CASCADE, related_name="upload_capabilities")
    sealed_url = models.BinaryField()
    iv = models.BinaryField(max_length=12)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["expires_at"], name="proxy_capability_by_expiry")]

    def __str__(self) -> str:
        return f"upload capability of {self.token_id}"


class RequestRollup(models.Model):
    """The requests with one token in one hour and status class.

    `latency_histogram` counts those that were answered, by their latency (proxy/request_log/histogram.py).
    """

    endpoint = models.ForeignKey(
        Endpoint, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="rollups"
    )
    token = models.ForeignKey(
        BearerToken, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="rollups"
    )
    hour = models.DateTimeField()
    status_class = models.PositiveSmallIntegerField(help_text="2 for 2xx, 4 for 4xx, …")
    count = models.PositiveIntegerField()
    latency_max_ms = models.PositiveIntegerField(help_text="The longest latency in the histogram, or 0.")
    latency_histogram: models.JSONField[Any, dict[str, int]] = models.JSONField(default=dict)

    class Meta:
        db_table = "proxy_rollup"
        constraints = [
            models.UniqueConstraint(
                fields=["endpoint", "hour", "token", "status_class"], name="proxy_rollup_unique_endpoint_hour_token"
            )
        ]
        indexes = [models.Index(fields=["hour"], name="proxy_rollup_hour")]

    def __str__(self) -> str:
        return f"{self.count} of {self.status_class}xx"


class OldRollup(models.Model):
    """The requests of one endpoint in one hour and status class, as earlier versions counted them.

    Their servers write it until they are restarted after an upgrade, and pages read it. Rows are removed after a year.
    `latency_histogram[i]` counts requests faster than `BOUNDS_MS[i]`, answered or not, that no earlier number counts.
    The last number counts the rest.
    """

    BOUNDS_MS = (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000)

    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, db_constraint=False, related_name="+")
    hour = models.DateTimeField()
    status_class = models.PositiveSmallIntegerField()
    count = models.PositiveIntegerField()
    latency_histogram: models.JSONField[Any, list[int]] = models.JSONField(default=list)

    class Meta:
        db_table = "proxy_requestrollup"
        constraints = [
            models.UniqueConstraint(
                fields=["endpoint", "hour", "status_class"], name="proxy_rollup_unique_endpoint_hour_class"
            )
        ]
        indexes = [models.Index(fields=["hour"], name="proxy_rollup_by_hour")]

    def __str__(self) -> str:
        return f"{self.count} of {self.status_class}xx"
