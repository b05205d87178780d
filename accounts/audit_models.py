"""Models of the audit log: the events, the hash chain over them, and its signed checkpoints."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from django.db import connection, models, transaction
from django.db.models.functions import Now
from django.utils import timezone

from accounts import audit_chain
from accounts.errors import AppendOnly
from accounts.querysets import AuditEventQuerySet


def new_nonce() -> bytes:
    return os.urandom(audit_chain.NONCE_BYTES)


class AuditEvent(models.Model):
    """A record of who did what, when and from which IP address. Rows are append-only and contain no secrets.

    Each has a link in the hash chain, which stays when the row is deleted (`AuditLink`).

    `account` is the user in whose audit log the event appears. `actor` is the user who acted, or None for an operator
    and for somebody who was not signed in. Neither has a database constraint, because events outlive users.
    """

    account = models.ForeignKey(
        "accounts.User", null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="audit_trail"
    )
    actor = models.ForeignKey(
        "accounts.User", null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="audit_actions"
    )
    action = models.CharField(max_length=64)
    subject_type = models.CharField(max_length=32)
    subject_id = models.CharField(max_length=64)
    subject_label = models.CharField(max_length=254, blank=True)
    ip = models.GenericIPAddressField(null=True)
    via = models.CharField(
        max_length=80, blank=True, db_default="", help_text="The session or access token that acted, or the command."
    )
    details: models.JSONField[Any, dict[str, Any]] = models.JSONField(
        default=dict, db_default={}, help_text="What changed, such as from and to. Never a secret."
    )
    nonce = models.BinaryField(
        max_length=audit_chain.NONCE_BYTES, default=new_nonce, help_text="Random, part of the hash of the content."
    )
    at = models.DateTimeField(db_default=Now(), editable=False)

    objects = AuditEventQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["account", "-at"], name="accounts_auditevent_by_account"),
            models.Index(fields=["-at"], name="accounts_auditevent_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.subject_label or self.subject_id}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise AppendOnly
        if connection.vendor == "postgresql":
            super().save(*args, **kwargs)  # triggers add the link when the transaction commits
            return
        at: object = self.at  # an expression, unless the caller has set a time
        if not isinstance(at, datetime):
            self.at = timezone.now()
        with transaction.atomic():  # holds SQLite's only write lock
            super().save(*args, **kwargs)
            AuditLink.append(self)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise AppendOnly

    def content(self) -> dict[str, Any]:
        """What `audit_chain.content_hash` takes. The migration accounts.0009 has the same in SQL."""
        return {
            "account": None if self.account_id is None else str(self.account_id),
            "actor": None if self.actor_id is None else str(self.actor_id),
            "action": self.action,
            "subject_type": self.subject_type,
            "subject_id": self.subject_id,
            "subject_label": self.subject_label,
            "ip": self.ip,
            "via": self.via,
            "details": self.details,
            "nonce": bytes(self.nonce).hex(),
        }


class AuditLink(models.Model):
    """One link of the hash chain over all audit events. Rows are never changed or deleted.

    On PostgreSQL only triggers insert them, as the last thing that a transaction does, so that nobody waits for a lock
    while holding the chain's. The link of an event whose content has been erased stays.
    """

    sequence = models.BigIntegerField(primary_key=True)
    event_id = models.BigIntegerField()
    at = models.DateTimeField()
    content_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["event_id"], name="accounts_auditlink_unique_event")]

    def __str__(self) -> str:
        return f"link {self.sequence}"

    @classmethod
    def append(cls, event: AuditEvent) -> None:
        """Add the link of an event that was just inserted. The caller holds SQLite's write lock."""
        last = cls.objects.order_by("-sequence").values_list("sequence", "hash").first()
        sequence, previous_hash = last or (0, audit_chain.GENESIS)
        content_hash = audit_chain.content_hash(event.content())
        digest = audit_chain.link_hash(
            sequence=sequence + 1,
            at=audit_chain.timestamp(event.at),
            content_hash=content_hash,
            previous_hash=previous_hash,
        )
        cls.objects.create(
            sequence=sequence + 1, event_id=event.pk, at=event.at, content_hash=content_hash, hash=digest
        )


class AuditCheckpoint(models.Model):
    """A signed statement of how long the hash chain is and what its last hash is. The proxy half writes them."""

    size = models.BigIntegerField(help_text="The number of events.")
    note = models.TextField(help_text="The signed note, as `accounts.audit_chain` writes it.")
    key = models.CharField(max_length=300, help_text="The public key, as a verifier key.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    def __str__(self) -> str:
        return f"checkpoint at {self.size}"

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the public key, or "" if somebody has stored something else in its place."""
        try:
            return audit_chain.VerifierKey.parse(self.key).fingerprint
        except audit_chain.NotAKey:
            return ""
