"""The model of device grants (`accounts.device_grants`)."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from accounts.plain_text import plain_constraint


class DeviceGrant(models.Model):
    """A program's request for an access token, which a person allows or denies on a page (RFC 8628).

    Both codes are stored as digests. The user code is short, so its digest is keyed with the secret key.
    """

    device_digest = models.BinaryField(max_length=32)
    user_code_digest = models.BinaryField(max_length=32)
    client = models.CharField(max_length=100, help_text="What the program calls itself.")
    device = models.CharField(max_length=100, blank=True, help_text="Where it runs, as it says.")
    scopes = models.JSONField(help_text="The scopes that it asked for.")
    ip = models.GenericIPAddressField(null=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    interval = models.PositiveSmallIntegerField(help_text="Seconds that the program must wait between its questions.")
    asked_at = models.DateTimeField(null=True, help_text="When it asked last.")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE, related_name="+")
    allowed_at = models.DateTimeField(null=True)
    denied_at = models.DateTimeField(null=True)
    used_at = models.DateTimeField(null=True, help_text="When it got its token.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["device_digest"], name="accounts_devicegrant_unique_device"),
            models.UniqueConstraint(fields=["user_code_digest"], name="accounts_devicegrant_unique_user_code"),
            models.CheckConstraint(
                condition=Q(expires_at__gt=F("created_at")), name="accounts_devicegrant_expires_later"
            ),
            models.CheckConstraint(
                condition=Q(allowed_at=None, used_at=None) | Q(user__isnull=False, denied_at=None),
                name="accounts_devicegrant_allowed_by_somebody",
            ),
            models.CheckConstraint(
                condition=Q(used_at=None) | Q(allowed_at__isnull=False), name="accounts_devicegrant_used_if_allowed"
            ),
            plain_constraint("client", "accounts_devicegrant_client_is_plain"),
            plain_constraint("device", "accounts_devicegrant_device_is_plain"),
        ]

    def __str__(self) -> str:
        return f"device grant {self.pk}"
