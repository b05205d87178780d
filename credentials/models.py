"""Endpoints, their sealed provider keys, and the bearer tokens that open them."""

from __future__ import annotations

import secrets
import string
import uuid
from typing import Any, NoReturn

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from accounts import tokens
from accounts.models import User
from credentials import keyring, sealing
from credentials.envelope import Binding, SealedKey, WrappedKey, stored_bytes

BEARER_TOKEN_PREFIX = "strk_"  # noqa: S105
SUBDOMAIN_ALPHABET = string.ascii_lowercase + string.digits
SUBDOMAIN_LENGTH = 12


def new_subdomain() -> str:
    return "".join(secrets.choice(SUBDOMAIN_ALPHABET) for _ in range(SUBDOMAIN_LENGTH))


def new_token_id() -> str:
    return tokens.random_id("ctok_")


class Endpoint(models.Model):
    """A disposable address in front of one provider account."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="endpoints")
    subdomain = models.CharField(max_length=SUBDOMAIN_LENGTH, default=new_subdomain, editable=False)
    label = models.CharField(max_length=100)
    provider = models.CharField(max_length=32)
    paused_at = models.DateTimeField(null=True)
    max_streams = models.PositiveIntegerField(
        null=True, help_text="Requests in flight in one server process; without it, only STRAKE_MAX_STREAMS counts."
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["subdomain"], name="credentials_endpoint_unique_subdomain"),
            models.CheckConstraint(
                condition=Q(subdomain__regex=r"^[a-z0-9]{12}$"), name="credentials_endpoint_subdomain_form"
            ),
            models.CheckConstraint(
                condition=Q(max_streams__isnull=True) | Q(max_streams__gte=1),
                name="credentials_endpoint_max_streams_is_positive",
            ),
        ]
        indexes = [models.Index(fields=["owner", "-created_at"], name="credentials_endpoint_by_owner")]

    def __str__(self) -> str:
        return f"{self.label} ({self.subdomain})"

    @property
    def url(self) -> str:
        """The address that tools get, without a trailing slash."""
        if settings.STRAKE_PROXY_DOMAIN:
            base = settings.STRAKE_BASE
            port = f":{base.port}" if base.port else ""
            return f"{base.scheme}://{self.subdomain}.{settings.STRAKE_PROXY_DOMAIN}{port}"
        return f"{settings.STRAKE_BASE_URL}/p/{self.subdomain}"


class WriteOnlySecret:
    """The `secret` of a `Credential`: assigning seals it into the record's columns, reading raises."""

    def __get__(self, instance: Credential | None, owner: type[Credential]) -> NoReturn:
        raise AttributeError("The secret of a credential cannot be read. Only the proxy opens it.")

    def __set__(self, instance: Credential, key: str) -> None:
        instance.store(sealing.seal(key, instance.binding(), keyring.current()))


class Credential(models.Model):
    """One provider key, sealed, and where and how it is sent."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    endpoint = models.OneToOneField(Endpoint, on_delete=models.CASCADE, related_name="credential")
    destination_url = models.CharField(max_length=512)
    header_name = models.CharField(max_length=64)
    header_template = models.CharField(max_length=256)
    format = models.PositiveSmallIntegerField(editable=False)
    master_key_id = models.CharField(max_length=64, editable=False)
    wrapped_dek = models.BinaryField()
    wrapped_dek_iv = models.BinaryField(max_length=12)
    ciphertext = models.BinaryField()
    iv = models.BinaryField(max_length=12)
    sealed_at = models.DateTimeField(editable=False)

    class Meta:
        indexes = [models.Index(fields=["master_key_id", "id"], name="credentials_by_master_key")]

    secret = WriteOnlySecret()

    def __str__(self) -> str:
        return f"credential {self.pk}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        super().save(*args, **kwargs)
        if hasattr(self.sealed_at, "resolve_expression"):
            self.refresh_from_db(fields=["sealed_at"])  # the database's clock has been read now

    def binding(self) -> Binding:
        """What the seal is bound to, from this row and its endpoint as they are now. SQLite takes any type of value."""
        return Binding(
            credential_id=self.id,
            endpoint_id=self.endpoint.id,
            owner_id=self.endpoint.owner_id,
            provider=str(self.endpoint.provider),
            destination_url=str(self.destination_url),
            header_name=str(self.header_name),
            header_template=str(self.header_template),
        )

    def store(self, sealed: SealedKey) -> None:
        self.format = sealed.format
        self.master_key_id = sealed.wrap.master_key_id
        self.wrapped_dek = sealed.wrap.wrapped_dek
        self.wrapped_dek_iv = sealed.wrap.wrapped_dek_iv
        self.ciphertext = sealed.ciphertext
        self.iv = sealed.iv
        # The database's clock, which also times the first use of each master key: the two are compared.
        self.sealed_at = Now()

    @property
    def needs_key_again(self) -> bool:
        """Whether the keyring lacks the master key of this record. Nothing is opened to find out."""
        return self.master_key_id not in keyring.current().ids

    def sealed(self) -> SealedKey:
        """The record as the database holds it: ciphertext only."""
        wrap = WrappedKey(str(self.master_key_id), stored_bytes(self.wrapped_dek), stored_bytes(self.wrapped_dek_iv))
        return SealedKey(self.format, wrap, stored_bytes(self.ciphertext), stored_bytes(self.iv))


class BearerToken(models.Model):
    """A token that opens one endpoint, stored as its SHA-256 digest, with limits of its own.

    `allowed_paths` are `METHOD glob` strings, `allowed_networks` CIDRs; an empty list means no limit.
    """

    id = models.CharField(primary_key=True, max_length=32, default=new_token_id, editable=False)
    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="tokens")
    label = models.CharField(max_length=100)
    digest = models.BinaryField(max_length=32)
    preview = models.CharField(max_length=16)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    last_used_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    requests_per_minute = models.PositiveIntegerField(null=True)
    allowed_paths: models.JSONField[Any, list[str]] = models.JSONField(default=list)
    allowed_networks: models.JSONField[Any, list[str]] = models.JSONField(default=list)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["digest"], name="credentials_bearertoken_unique_digest"),
            models.CheckConstraint(
                condition=Q(requests_per_minute__isnull=True) | Q(requests_per_minute__gte=1),
                name="credentials_bearertoken_rate_is_positive",
            ),
            models.CheckConstraint(
                condition=Q(expires_at__isnull=True) | Q(expires_at__gt=F("created_at")),
                name="credentials_bearertoken_expires_later",
            ),
        ]
        indexes = [models.Index(fields=["endpoint", "-created_at"], name="credentials_token_by_endpoint")]

    def __str__(self) -> str:
        return f"{self.label} ({self.preview})"


class MasterKeyCheck(models.Model):
    """Proof, per master key id, of which key it is; made when the id first seals. Reveals nothing of the key."""

    key_id = models.CharField(primary_key=True, max_length=64)
    check_value = models.BinaryField(max_length=16)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    retired_at = models.DateTimeField(null=True, editable=False, help_text="From then on nothing is sealed under it.")

    def __str__(self) -> str:
        return self.key_id


class ServerProcess(models.Model):
    """A running server process and the master keys it has loaded, so that rotation can wait for every process.

    A process writes its row at start, on every change of its keyring and every few seconds (`credentials.presence`).
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, help_text="Host and process id, for the operator.")
    primary_key_id = models.CharField(max_length=64)
    key_ids: models.JSONField[Any, dict[str, str]] = models.JSONField(
        default=dict, help_text="The id of each master key with its check value, in hexadecimal."
    )
    seen_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.name
