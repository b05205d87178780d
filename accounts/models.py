"""Models of users, sign-in links, sessions, access tokens, the outbox and the cache, and by import the others."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower, Now
from django.utils.crypto import salted_hmac

from accounts import addresses, tokens
from accounts.audit_models import AuditCheckpoint as AuditCheckpoint
from accounts.audit_models import AuditEvent as AuditEvent
from accounts.audit_models import AuditLink as AuditLink
from accounts.device_models import DeviceGrant as DeviceGrant
from accounts.notice_models import Notice as Notice
from accounts.notice_models import NoticeChoices as NoticeChoices
from accounts.notice_models import NoticeWatch as NoticeWatch
from accounts.notice_models import Webhook as Webhook
from accounts.plain_text import plain_constraint
from accounts.querysets import (
    AccessTokenQuerySet,
    BrowserSessionQuerySet,
    SignInLinkQuerySet,
)

ACCESS_TOKEN_PREFIX = "pat_"  # noqa: S105
LINK_TOKEN_PREFIX = "link_"  # noqa: S105
SCOPES = ("read", "tokens", "endpoints")  # of access tokens; `accounts.access_tokens` says what they allow


class UserManager(BaseUserManager["User"]):
    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(email=addresses.normalise_email(username or ""))


class User(AbstractBaseUser):
    """A user. There are no passwords: users sign in with a link sent to `email`."""

    password = None  # type: ignore[assignment]
    last_login = None

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(max_length=254)
    is_staff = models.BooleanField(default=False, help_text="May see the operators' pages under /admin/.")
    suspended_at = models.DateTimeField(null=True, help_text="Since then, this person and their tokens have no access.")
    session_epoch = models.PositiveIntegerField(default=0, help_text="Raising it ends every session of this person.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    objects: ClassVar[UserManager] = UserManager()

    EMAIL_FIELD = "email"
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["email"], name="accounts_user_unique_email"),
            models.CheckConstraint(condition=Q(email=Lower("email")), name="accounts_user_email_is_folded"),
            plain_constraint("email", "accounts_user_email_is_plain"),
        ]

    def __str__(self) -> str:
        return self.email

    def get_session_auth_hash(self) -> str:
        """Django stores this in each session and ends the session when it changes. There is no password to hash."""
        return self._epoch_hash()

    def get_session_auth_fallback_hash(self) -> Any:
        # `SECRET_KEY_FALLBACKS` is ignored on purpose: changing the secret key signs everybody out.
        return iter(())

    def _epoch_hash(self) -> str:
        return salted_hmac("strake.accounts.session", f"{self.pk}:{self.session_epoch}", algorithm="sha256").hexdigest()

    def has_usable_password(self) -> bool:
        return False


class SignInLink(models.Model):
    """A link that signs one user in, once. The token itself is only in the email."""

    email = models.EmailField(max_length=254)
    token_digest = models.BinaryField(max_length=32)
    browser_digest = models.BinaryField(
        max_length=32, default=b"", help_text="Of the cookie of the browser that asked."
    )
    next_path = models.CharField(max_length=512, blank=True, help_text="Where to go after sign-in; a path of ours.")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    objects = SignInLinkQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["token_digest"], name="accounts_signinlink_unique_token_digest"),
            models.CheckConstraint(
                condition=Q(expires_at__gt=F("created_at")), name="accounts_signinlink_expires_later"
            ),
        ]
        indexes = [models.Index(fields=["email", "created_at"], name="accounts_signinlink_by_email")]

    def __str__(self) -> str:
        return f"sign-in link {self.pk}"


def _session_id() -> str:
    return tokens.random_id("ses_")


class BrowserSession(models.Model):
    """A browser in which a user is signed in. A stored session without its row here is not valid.

    The session data is in the session store. This row lets people list and end sessions without knowing their keys.
    """

    id = models.CharField(primary_key=True, max_length=32, default=_session_id, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="browser_sessions")
    key_digest = models.CharField(max_length=40, help_text="Digest of the session key.")
    browser = models.CharField(max_length=64)
    ip = models.GenericIPAddressField(null=True)
    created_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    objects = BrowserSessionQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["key_digest"], name="accounts_browsersession_unique_key_digest"),
            plain_constraint("browser", "accounts_browsersession_browser_is_plain"),
        ]

    def __str__(self) -> str:
        return f"session {self.pk}"


def _access_token_id() -> str:
    return tokens.random_id("patid_")


def all_scopes() -> list[str]:
    return list(SCOPES)


class AccessToken(models.Model):
    """A token for the management API, stored as a digest. An empty list of networks means no limit."""

    id = models.CharField(primary_key=True, max_length=32, default=_access_token_id, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="access_tokens")
    label = models.CharField(max_length=100)
    digest = models.BinaryField(max_length=32)
    preview = models.CharField(max_length=16)
    scopes: models.JSONField[Any, list[str]] = models.JSONField(default=all_scopes, db_default=list(SCOPES))
    allowed_networks: models.JSONField[Any, list[str]] = models.JSONField(default=list, db_default=[])
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    last_used_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    objects = AccessTokenQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["digest"], name="accounts_accesstoken_unique_digest"),
            plain_constraint("label", "accounts_accesstoken_label_is_plain"),
        ]

    def __str__(self) -> str:
        return f"{self.label} ({self.preview})"


class OutboxMail(models.Model):
    """An email to a person, or a message to their webhook, that waits to be sent (`accounts.outbox`).

    The row holds what it is composed from, never a link, a token or a signature. Those are made when it is sent.
    """

    kind = models.CharField(max_length=32)
    email = models.EmailField(max_length=254)
    details = models.JSONField(default=dict)
    attempts = models.PositiveSmallIntegerField(default=0, help_text="How many times a process has claimed it.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    due_at = models.DateTimeField(db_default=Now(), help_text="When it may be claimed: now, after a pause or a lease.")

    class Meta:
        indexes = [models.Index(fields=["due_at"], name="accounts_outboxmail_by_due_at")]

    def __str__(self) -> str:
        return f"{self.kind} email {self.pk}"


class CacheEntry(models.Model):
    """A counter or another value with a lifetime (`accounts.database_cache`), if there is no Redis."""

    key_digest = models.CharField(primary_key=True, max_length=64)
    number = models.BigIntegerField(null=True, help_text="The value, if it is a whole number.")
    value = models.JSONField(null=True, help_text="Any other value.")
    expires_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index(fields=["expires_at"], name="accounts_cacheentry_by_expiry")]

    def __str__(self) -> str:
        return f"cache entry {self.key_digest[:8]}"
