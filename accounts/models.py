"""People, their sign-in links and access tokens, and the audit trail."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower, Now
from django.utils.crypto import salted_hmac

from accounts import addresses, tokens
from accounts.errors import AppendOnly

ACCESS_TOKEN_PREFIX = "pat_"  # noqa: S105
LINK_TOKEN_PREFIX = "link_"  # noqa: S105


class UserManager(BaseUserManager["User"]):
    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(email=addresses.normalise_email(username or ""))


class User(AbstractBaseUser):
    """A person. There is no password: the only way in is a link sent to `email`."""

    password = None  # type: ignore[assignment]
    last_login = None

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(max_length=254)
    is_staff = models.BooleanField(default=False, help_text="May see the operators' pages under /admin/.")
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
        ]

    def __str__(self) -> str:
        return self.email

    def get_session_auth_hash(self) -> str:
        """Part of every session, which ends when this changes. Without passwords the epoch takes their place."""
        return self._epoch_hash()

    def get_session_auth_fallback_hash(self) -> Any:
        # `SECRET_KEY_FALLBACKS` is not used: changing the secret key signs everybody out, on purpose.
        return iter(())

    def _epoch_hash(self) -> str:
        return salted_hmac("strake.accounts.session", f"{self.pk}:{self.session_epoch}", algorithm="sha256").hexdigest()

    # What Django's admin asks of a user. Staff may look at everything there and change nothing sealed.

    def has_usable_password(self) -> bool:
        return False

    def has_perm(self, perm: str, obj: models.Model | None = None) -> bool:
        return self.is_staff

    def has_module_perms(self, app_label: str) -> bool:
        return self.is_staff


class SignInLink(models.Model):
    """A link that signs one person in, once. The token itself is only in the mail."""

    email = models.EmailField(max_length=254)
    token_digest = models.BinaryField(max_length=32)
    browser_digest = models.BinaryField(
        max_length=32, default=b"", help_text="Of the cookie of the browser that asked."
    )
    next_path = models.CharField(max_length=512, blank=True, help_text="Where to go after sign-in; a path of ours.")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

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
    """A browser in which somebody is signed in. A session without its row here is over, whatever the store says.

    The store keeps the session itself; this is what can be listed, and ended, without knowing its key.
    """

    id = models.CharField(primary_key=True, max_length=32, default=_session_id, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="browser_sessions")
    key_digest = models.CharField(max_length=40, help_text="accounts.stores.session_digest of the session's key.")
    browser = models.CharField(max_length=64)
    ip = models.GenericIPAddressField(null=True)
    created_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["key_digest"], name="accounts_browsersession_unique_key_digest"),
        ]

    def __str__(self) -> str:
        return f"session {self.pk}"


def _access_token_id() -> str:
    return tokens.random_id("patid_")


class AccessToken(models.Model):
    """A token for the management API, made in the settings page, stored as its digest."""

    id = models.CharField(primary_key=True, max_length=32, default=_access_token_id, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="access_tokens")
    label = models.CharField(max_length=100)
    digest = models.BinaryField(max_length=32)
    preview = models.CharField(max_length=16)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    last_used_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["digest"], name="accounts_accesstoken_unique_digest")]

    def __str__(self) -> str:
        return f"{self.label} ({self.preview})"


class AuditEvent(models.Model):
    """Who did what to what, when and from where. Rows are added and never changed; none holds a secret.

    `account` says whose trail the event belongs to, `actor` who acted (none: an operator with `manage.py`).
    Neither is a database reference, since the trail outlives accounts.
    """

    account = models.ForeignKey(
        User, null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="audit_trail"
    )
    actor = models.ForeignKey(
        User, null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="audit_actions"
    )
    action = models.CharField(max_length=64)
    subject_type = models.CharField(max_length=32)
    subject_id = models.CharField(max_length=64)
    subject_label = models.CharField(max_length=254, blank=True)
    ip = models.GenericIPAddressField(null=True)
    at = models.DateTimeField(db_default=Now(), editable=False)

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
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise AppendOnly
