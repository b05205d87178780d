"""What the database records about master keys and about the processes that hold them."""

from __future__ import annotations

import uuid
from typing import Any

from django.db import models
from django.db.models.functions import Now


class MasterKeyCheck(models.Model):
    """The check value of one master key, stored when its id first seals. It reveals nothing about the key."""

    key_id = models.CharField(primary_key=True, max_length=64)
    check_value = models.BinaryField(max_length=16)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    retired_at = models.DateTimeField(null=True, editable=False, help_text="From then on nothing is sealed under it.")

    def __str__(self) -> str:
        return self.key_id


class ServerProcess(models.Model):
    """A running server process: the master keys that it has loaded, and its load. `vault.heartbeats` writes it.

    A process of kind `web` holds no master key. The defaults in the database are for rows that an older version of
    Strake writes during an upgrade: its processes all hold master keys.
    """

    class Kind(models.TextChoices):
        PROXY = "proxy"
        WEB = "web"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=8, choices=Kind, db_default=Kind.PROXY)
    name = models.CharField(max_length=100, help_text="Host and process id, for the operator.")
    version = models.CharField(max_length=32, db_default="", help_text="The version of Strake.")
    primary_key_id = models.CharField(max_length=64)
    key_ids: models.JSONField[Any, dict[str, str]] = models.JSONField(
        default=dict, help_text="The id of each master key with its check value, in hexadecimal."
    )
    waiting = models.PositiveIntegerField(db_default=0, help_text="Request records that are not written yet.")
    lag_seconds = models.FloatField(db_default=0.0, help_text="The time since all request records were written.")
    lost = models.PositiveBigIntegerField(db_default=0, help_text="Request records dropped since the start.")
    in_flight: models.JSONField[Any, dict[str, int]] = models.JSONField(
        db_default={}, help_text="The ids of the busiest endpoints, each with its number of requests in flight."
    )
    in_flight_total = models.PositiveIntegerField(db_default=0, help_text="Requests in flight of all endpoints.")
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(kind="proxy") | models.Q(kind="web", primary_key_id=""),
                name="credentials_serverprocess_web_has_no_key",
            )
        ]

    def __str__(self) -> str:
        return self.name
