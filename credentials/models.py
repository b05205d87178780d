"""Endpoints, their sealed provider keys, and the bearer tokens that give access to them."""

from __future__ import annotations

import secrets
import string
import uuid
from typing import Any, ClassVar, NoReturn

from django.conf import settings
from django.db import models, transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from accounts import tokens
from accounts.models import User
from accounts.plain_text import plain_constraint
from credentials import vault
from credentials.errors import CannotOpen
from credentials.querysets import BearerTokenQuerySet, EndpointQuerySet, SealedKeyManager
from credentials.vault import wrapper
from credentials.vault.envelope import Binding, SealedRecord, WrappedKey, extras_of, stored_bytes
from credentials.vault.models import MasterKeyCheck, ServerProcess
from credentials.vault.provider_key import ProviderKey

__all__ = [
    "BEARER_TOKEN_PREFIX",
    "BearerToken",
    "Credential",
    "DerivedToken",
    "Endpoint",
    "MasterKeyCheck",
    "SealedKey",
    "ServerProcess",
]

BEARER_TOKEN_PREFIX = "strk_"  # noqa: S105
SUBDOMAIN_ALPHABET = string.ascii_lowercase + string.digits
SUBDOMAIN_LENGTH = 12
_STAGED = "_staged_key"
_SEALED = "_sealed_key"


def new_subdomain() -> str:
    return "".join(secrets.choice(SUBDOMAIN_ALPHABET) for _ in range(SUBDOMAIN_LENGTH))


def new_token_id() -> str:
    return tokens.random_id("ctok_")


def endpoint_url(subdomain: str) -> str:
    """The base URL of an endpoint, without a trailing slash. It follows the settings and not a request."""
    if settings.STRAKE_PROXY_DOMAIN:
        base = settings.STRAKE_BASE
        port = f":{base.port}" if base.port else ""
        return f"{base.scheme}://{subdomain}.{settings.STRAKE_PROXY_DOMAIN}{port}"
    return f"{settings.STRAKE_BASE_URL}/p/{subdomain}"


class Endpoint(models.Model):
    """A disposable URL in front of one provider account."""

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

    objects = EndpointQuerySet.as_manager()

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
            plain_constraint("label", "credentials_endpoint_label_is_plain"),
        ]
        indexes = [models.Index(fields=["owner", "-created_at"], name="credentials_endpoint_by_owner")]

    def __str__(self) -> str:
        return f"{self.label} ({self.subdomain})"

    @property
    def url(self) -> str:
        """The base URL for tools, without a trailing slash."""
        return endpoint_url(self.subdomain)


class WriteOnlySecret:
    """The provider key of a `Credential`. An assignment stages the key until `save` seals it. Reading it raises.

    Assigning raises `InvalidKey` if no header can carry the key.
    """

    def __get__(self, instance: Credential | None, owner: type[Credential]) -> NoReturn:
        raise AttributeError("The secret of a credential cannot be read. Only the proxy opens it.")

    def __set__(self, instance: Credential, key: str | ProviderKey) -> None:
        instance.__dict__[_STAGED] = ProviderKey(key)
        instance.__dict__.pop(_SEALED, None)


class Credential(models.Model):
    """The destination of an endpoint's provider key, and the places it is sent in. `SealedKey` holds the key.

    A key of a kind other than `static` is not sent itself. It buys access tokens, and `DerivedToken` holds one.
    """

    class Kind(models.TextChoices):
        STATIC = "static"
        AZURE_ENTRA = "azure_entra"
        GOOGLE_SERVICE_ACCOUNT = "google_service_account"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    endpoint = models.OneToOneField(Endpoint, on_delete=models.CASCADE, related_name="credential")
    destination_url = models.CharField(max_length=512)
    header_name = models.CharField(max_length=64)
    header_template = models.CharField(max_length=256)
    kind = models.CharField(max_length=24, choices=Kind, default=Kind.STATIC, db_default=Kind.STATIC)
    places: models.JSONField[Any, list[list[str]]] = models.JSONField(
        default=list, db_default=[], help_text="Further places: `header` or `query`, its name, and its template."
    )
    parameters: models.JSONField[Any, dict[str, str]] = models.JSONField(
        default=dict, db_default={}, help_text="What else the token server of a cloud needs. Nothing of it is secret."
    )
    sealed_at = models.DateTimeField(editable=False)

    secret = WriteOnlySecret()

    def __str__(self) -> str:
        return f"credential {self.pk}"

    def __getstate__(self) -> dict[str, Any]:
        """The state for copying and pickling, without a key that has not been saved yet."""
        return {name: value for name, value in super().__getstate__().items() if name not in {_STAGED, _SEALED}}

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row, and seal the key first if one was assigned to `secret`.

        A save that seals writes every column, because the seal is bound to them. Raises as `vault.seal` and
        `vault.Sealed.register` do. Then nothing is saved and the key stays assigned.
        """
        key: ProviderKey | None = self.__dict__.get(_STAGED)
        if key is None:
            super().save(*args, **kwargs)
            return
        sealed: vault.Sealed | None = self.__dict__.pop(_SEALED, None)
        if sealed is None or sealed.binding != self.binding():
            sealed = vault.seal(key, self.binding())
        with transaction.atomic():
            if not self._state.adding:
                # Lock in the order in which a deletion and a rotation lock: the sealed row, then this row or the
                # registry. Another order could deadlock with them.
                SealedKey.objects.select_for_update().filter(pk=self.pk).first()
                Credential.objects.select_for_update().only("pk").get(pk=self.pk)
            record = sealed.register()
            # The first use of a master key is timed by the database's clock too, and the two times are compared.
            self.sealed_at = Now()
            super().save(*args, **kwargs | {"update_fields": None})
            DerivedToken.objects.filter(pk=self.pk).delete()  # it was bought with the key that is replaced now
            SealedKey.of(self, record).save()  # UPDATE, and INSERT if there was no row: never a SELECT
            self.refresh_from_db(fields=["sealed_at"])
        del self.__dict__[_STAGED]

    def seal(self) -> None:
        """Seal the key that was assigned to `secret`, before a transaction in which `save` stores it.

        The web half waits for the proxy half here, which it may not do in a transaction. Raises as `vault.seal` does.
        """
        self.__dict__[_SEALED] = vault.seal(self.__dict__[_STAGED], self.binding())

    def binding(self) -> Binding:
        """The values that the seal is bound to, as this row and its endpoint hold them now."""
        # SQLite accepts values of any type in a text column.
        return Binding(
            credential_id=self.id,
            endpoint_id=self.endpoint.id,
            owner_id=self.endpoint.owner_id,
            provider=str(self.endpoint.provider),
            destination_url=str(self.destination_url),
            header_name=str(self.header_name),
            header_template=str(self.header_template),
            extras=extras_of(self.kind, self.places, self.parameters),
        )

    @property
    def needs_key_again(self) -> bool:
        """True if there is no sealed key, or if the keyring lacks its master key. This opens nothing.

        False if the ids of the master keys cannot be known, because the vault can't be reached.
        """
        try:
            master_key_id = self.sealed_key.master_key_id
        except SealedKey.DoesNotExist:
            return True
        known = wrapper.known_ids()
        return known is not None and master_key_id not in known

    def renewal(self) -> DerivedToken | None:
        """The state of a cloud credential's access token, with what the web half's database role may read of it."""
        if self.kind == self.Kind.STATIC:
            return None
        return DerivedToken.objects.only("expires_at", "failed_at", "failure").filter(pk=self.pk).first()

    def sealed(self) -> SealedRecord:
        """The sealed record. Raises `CannotOpen` if there is none. The web half's database role may not read it."""
        try:
            return self.sealed_key.record()
        except SealedKey.DoesNotExist:
            raise CannotOpen from None


class SealedKey(models.Model):
    """A sealed provider key.

    It has its own table because the web half's database role may write it, but may read only `credential_id` and
    `master_key_id`. A query loads only these two columns, unless it starts with `SealedKey.objects.whole()`.
    """

    credential = models.OneToOneField(
        Credential, primary_key=True, on_delete=models.CASCADE, related_name="sealed_key", editable=False
    )
    format = models.PositiveSmallIntegerField(editable=False)
    master_key_id = models.CharField(max_length=64, editable=False)
    wrapped_dek = models.BinaryField()
    wrapped_dek_iv = models.BinaryField(max_length=12)
    ciphertext = models.BinaryField()
    iv = models.BinaryField(max_length=12)

    objects: ClassVar[SealedKeyManager[SealedKey]] = SealedKeyManager()

    class Meta:
        base_manager_name = "objects"  # for the relation from `Credential`
        indexes = [models.Index(fields=["master_key_id", "credential"], name="credentials_by_master_key")]

    def __str__(self) -> str:
        return f"sealed key {self.pk}"

    @classmethod
    def of(cls, credential: Credential, record: SealedRecord) -> SealedKey:
        """An unsaved row that holds `record`."""
        return cls(
            credential=credential,
            format=record.format,
            master_key_id=record.wrap.master_key_id,
            wrapped_dek=record.wrap.wrapped_dek,
            wrapped_dek_iv=record.wrap.wrapped_dek_iv,
            ciphertext=record.ciphertext,
            iv=record.iv,
        )

    def record(self) -> SealedRecord:
        """The record that the proxy opens."""
        wrap = WrappedKey(str(self.master_key_id), stored_bytes(self.wrapped_dek), stored_bytes(self.wrapped_dek_iv))
        return SealedRecord(self.format, wrap, stored_bytes(self.ciphertext), stored_bytes(self.iv))


class DerivedToken(models.Model):
    """The access token that a cloud's token server gave for a sealed key, sealed as that is, and its renewal.

    The proxy half writes it. `source_iv` is the IV of the sealed key that it was derived from. A token that was never
    obtained has the empty format 0.
    """

    credential = models.OneToOneField(
        Credential, primary_key=True, on_delete=models.CASCADE, related_name="derived_token", editable=False
    )
    format = models.PositiveSmallIntegerField(default=0, editable=False)
    master_key_id = models.CharField(max_length=64, default="", editable=False)
    wrapped_dek = models.BinaryField(default=b"")
    wrapped_dek_iv = models.BinaryField(max_length=12, default=b"")
    ciphertext = models.BinaryField(default=b"")
    iv = models.BinaryField(max_length=12, default=b"")
    source_iv = models.BinaryField(max_length=12, default=b"")
    issued_at = models.DateTimeField(null=True, editable=False)
    expires_at = models.DateTimeField(null=True, editable=False)
    renewing_until = models.DateTimeField(null=True, editable=False, help_text="Until then, one process renews it.")
    failed_at = models.DateTimeField(null=True, editable=False, help_text="When the last renewal failed.")
    failure = models.CharField(max_length=64, default="", editable=False, help_text="Why: a code, never a response.")

    class Meta:
        indexes = [models.Index(fields=["master_key_id"], name="credentials_derived_by_key")]

    def __str__(self) -> str:
        return f"derived token {self.pk}"


class BearerToken(models.Model):
    """A token for one endpoint, stored as its SHA-256 digest, and its limits.

    `allowed_paths` holds `METHOD glob` strings and `allowed_networks` holds CIDRs. An empty list means no limit.
    `allowed_origins` holds the origins of web pages that may use the token. An empty list means none.

    A child token has a parent of the same endpoint, which has none itself. The limits of both apply to it.
    """

    id = models.CharField(primary_key=True, max_length=32, default=new_token_id, editable=False)
    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="tokens")
    parent = models.ForeignKey("self", null=True, on_delete=models.CASCADE, related_name="children", editable=False)
    label = models.CharField(max_length=100)
    digest = models.BinaryField(max_length=32)
    preview = models.CharField(max_length=16)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    last_used_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    requests_per_minute = models.PositiveIntegerField(null=True)
    requests_per_day = models.PositiveIntegerField(null=True, help_text="In a day of UTC, by the request log.")
    requests_per_month = models.PositiveIntegerField(null=True, help_text="In a month of UTC, by the request log.")
    concurrent_requests = models.PositiveIntegerField(null=True, help_text="In flight in one server process.")
    allowed_paths: models.JSONField[Any, list[str]] = models.JSONField(default=list)
    allowed_networks: models.JSONField[Any, list[str]] = models.JSONField(default=list)
    allowed_origins: models.JSONField[Any, list[str]] = models.JSONField(default=list, db_default=[])
    allow_minting = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Allows calls that give the caller a credential of the provider, which outlives this token.",
    )

    objects = BearerTokenQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["digest"], name="credentials_bearertoken_unique_digest"),
            models.CheckConstraint(
                condition=Q(requests_per_minute__isnull=True) | Q(requests_per_minute__gte=1),
                name="credentials_bearertoken_rate_is_positive",
            ),
            *(
                models.CheckConstraint(
                    condition=Q(**{f"{name}__isnull": True}) | Q(**{f"{name}__gte": 1}),
                    name=f"credentials_bearertoken_{name}_is_positive",
                )
                for name in ("requests_per_day", "requests_per_month", "concurrent_requests")
            ),
            models.CheckConstraint(
                condition=Q(parent__isnull=True) | ~Q(parent=F("id")), name="credentials_bearertoken_not_its_own_parent"
            ),
            models.CheckConstraint(
                condition=Q(expires_at__isnull=True) | Q(expires_at__gt=F("created_at")),
                name="credentials_bearertoken_expires_later",
            ),
            plain_constraint("label", "credentials_bearertoken_label_is_plain"),
        ]
        indexes = [
            models.Index(fields=["endpoint", "-created_at"], name="credentials_token_by_endpoint"),
            models.Index(
                fields=["expires_at"],
                name="credentials_token_by_expiry",
                condition=Q(expires_at__isnull=False, revoked_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.label} ({self.preview})"
