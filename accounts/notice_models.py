"""Models of notices: what each person wants, what they were told, and their webhooks."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models.functions import Now

from accounts import tokens

MAX_URL_LENGTH = 512


class NoticeChoices(models.Model):
    """The kinds of notices that a person does not want, by channel. Without a row they get all of them."""

    person = models.ForeignKey("accounts.User", on_delete=models.CASCADE, related_name="+")
    muted_mail: models.JSONField[Any, list[str]] = models.JSONField(default=list)
    muted_webhook: models.JSONField[Any, list[str]] = models.JSONField(default=list)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["person"], name="accounts_noticechoices_unique_person")]

    def __str__(self) -> str:
        return f"choices of {self.person_id}"


class Notice(models.Model):
    """Something that a person was told once. While it goes on, only `seen_at` changes."""

    person = models.ForeignKey("accounts.User", on_delete=models.CASCADE, related_name="+")
    kind = models.CharField(max_length=32)
    subject = models.CharField(max_length=64, help_text="What it is about: a token or an endpoint, and since when.")
    first_at = models.DateTimeField()
    seen_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["person", "kind", "subject"], name="accounts_notice_unique_subject")
        ]
        indexes = [models.Index(fields=["seen_at"], name="accounts_notice_by_seen_at")]

    def __str__(self) -> str:
        return f"{self.kind} of {self.subject}"


class NoticeWatch(models.Model):
    """How far one watcher has looked. `due_at` is when the next look is due, or the end of the lease of one."""

    name = models.CharField(primary_key=True, max_length=32)
    looked_until = models.DateTimeField()
    due_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


def _webhook_id() -> str:
    return tokens.random_id("wh_")


class Webhook(models.Model):
    """The URL that a person's notices are posted to, and how the last delivery went.

    The secret that signs deliveries is not stored. It is derived from the secret key, `id` and `version`
    (`credentials.webhooks.signing`). `secret_digest` shows whether the secret key is still the one it was made with.
    """

    id = models.CharField(primary_key=True, max_length=32, default=_webhook_id, editable=False)
    person = models.ForeignKey("accounts.User", on_delete=models.CASCADE, related_name="webhooks")
    url = models.CharField(max_length=MAX_URL_LENGTH)
    version = models.PositiveIntegerField(default=1)
    rotated_at = models.DateTimeField(null=True)
    secret_digest = models.CharField(max_length=64)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    failures = models.PositiveIntegerField(default=0, help_text="Failed attempts since the last delivery.")
    failing_since = models.DateTimeField(null=True)
    disabled_at = models.DateTimeField(null=True)
    last_at = models.DateTimeField(null=True, help_text="When the last attempt was made.")
    last_result = models.CharField(max_length=100, default="", help_text="How it went, in words of Strake's.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["person"], name="accounts_webhook_unique_person")]

    def __str__(self) -> str:
        return f"webhook {self.pk}"
