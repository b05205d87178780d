"""The stored access token of a cloud credential, and the row that decides which process renews it.

A row is changed only in the state in which it was read, so of all processes one gets the renewal. It holds it for
`LEASE`: if it is killed meanwhile, another process goes on after that. What touches the database here blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self
from uuid import UUID

from django.db import transaction

from credentials import vault
from credentials.cloud_tokens import REFUSALS
from credentials.models import DerivedToken
from credentials.vault.envelope import SealedRecord, WrappedKey, stored_bytes

RENEW_AFTER = 0.8  # of a token's life
# A token is not sent in its last moments: the provider's clock may be ahead, and the request has to get there.
EXPIRY_MARGIN = timedelta(seconds=30)
MAX_MARGIN = 0.1  # of a token's life
LEASE = timedelta(seconds=30)
# How long a failure is told without another attempt. A refused secret stays refused until somebody does something.
PAUSE_AFTER_REFUSAL = timedelta(seconds=60)
PAUSE_AFTER_TROUBLE = timedelta(seconds=10)


_BINARY = ("wrapped_dek", "wrapped_dek_iv", "ciphertext", "iv", "source_iv")
_TIMES = ("issued_at", "expires_at", "renewing_until", "failed_at")


class DerivedRecord(NamedTuple):
    """A row of `credentials.models.DerivedToken`, with its fields."""

    format: int
    master_key_id: str
    wrapped_dek: bytes
    wrapped_dek_iv: bytes
    ciphertext: bytes
    iv: bytes
    source_iv: bytes
    issued_at: datetime | None
    expires_at: datetime | None
    renewing_until: datetime | None
    failed_at: datetime | None
    failure: str

    @classmethod
    def of(cls, columns: Sequence[Any]) -> Self:
        """Make a record of columns as any driver returns them."""
        values = dict(zip(cls._fields, columns, strict=True))
        values |= {name: stored_bytes(values[name]) for name in _BINARY}
        values |= {name: _time(values[name]) for name in _TIMES}
        return cls(**values)

    @property
    def sealed(self) -> SealedRecord:
        wrap = WrappedKey(self.master_key_id, self.wrapped_dek, self.wrapped_dek_iv)
        return SealedRecord(self.format, wrap, self.ciphertext, self.iv)

    def works(self, source_iv: bytes, key_ids: Collection[str], now: datetime) -> bool:
        """Whether the token can be sent: it was bought with the current key, can be opened, and has not expired."""
        if self.issued_at is None or self.expires_at is None or self.source_iv != source_iv:
            return False
        margin = min(EXPIRY_MARGIN, (self.expires_at - self.issued_at) * MAX_MARGIN)
        return now < self.expires_at - margin and self.master_key_id in key_ids

    def is_due(self, now: datetime) -> bool:
        """Whether it is time to renew a token that works."""
        if self.issued_at is None or self.expires_at is None:
            return True
        return now >= self.issued_at + (self.expires_at - self.issued_at) * RENEW_AFTER

    def is_being_renewed(self, now: datetime) -> bool:
        return self.renewing_until is not None and now < self.renewing_until

    def has_just_failed(self, now: datetime) -> bool:
        """Whether the last attempt failed so recently that there is no other yet."""
        pause = PAUSE_AFTER_REFUSAL if self.failure in REFUSALS else PAUSE_AFTER_TROUBLE
        return bool(self.failure) and self.failed_at is not None and now < self.failed_at + pause


class Claim(NamedTuple):
    """The renewal that this process has to do. `until` identifies it."""

    credential_id: UUID
    source_iv: bytes
    until: datetime


def claim(credential_id: UUID, source_iv: bytes, key_ids: Collection[str]) -> Claim | DerivedRecord:
    """Take the renewal of a token that was bought with the key `source_iv`, if it is due and nobody else has it.

    Otherwise returns the row: of a token that works, of a renewal by another process, or of one that has just failed.
    Raises Django's database errors, `IntegrityError` if the credential has been deleted.
    """
    while True:
        now = datetime.now(UTC)
        row = _read(credential_id)
        if row is None:
            new = DerivedToken(credential_id=credential_id, source_iv=source_iv)
            DerivedToken.objects.bulk_create([new], ignore_conflicts=True)
            continue
        changes: dict[str, Any] = {"renewing_until": now + LEASE}
        if row.source_iv == source_iv:
            if row.works(source_iv, key_ids, now) and not row.is_due(now):
                return row
            if row.is_being_renewed(now) or row.has_just_failed(now):
                return row
        else:
            changes |= _EMPTY | {"source_iv": source_iv}
        as_read = DerivedToken.objects.filter(
            pk=credential_id, iv=row.iv, source_iv=row.source_iv, renewing_until=row.renewing_until
        )
        if as_read.update(**changes):
            return Claim(credential_id, source_iv, now + LEASE)


def store(claimed: Claim, sealed: vault.Sealed, issued_at: datetime, expires_at: datetime) -> DerivedRecord:
    """End a renewal with a new token. If the claim is no longer valid, nothing is stored.

    Raises as `vault.Sealed.check` does, and Django's database errors.
    """
    with transaction.atomic():
        record = sealed.check()
        row = DerivedRecord(
            format=record.format,
            master_key_id=record.wrap.master_key_id,
            wrapped_dek=record.wrap.wrapped_dek,
            wrapped_dek_iv=record.wrap.wrapped_dek_iv,
            ciphertext=record.ciphertext,
            iv=record.iv,
            source_iv=claimed.source_iv,
            issued_at=issued_at,
            expires_at=expires_at,
            renewing_until=None,
            failed_at=None,
            failure="",
        )
        _of(claimed).update(**row._asdict())
    return row


def fail(claimed: Claim, code: str) -> None:
    """End a renewal without a token. One that still works stays. Raises Django's database errors."""
    _of(claimed).update(renewing_until=None, failed_at=datetime.now(UTC), failure=code)


def release(claimed: Claim) -> None:
    """End a renewal that was not tried. Raises Django's database errors."""
    _of(claimed).update(renewing_until=None)


def expire(credential_id: UUID, iv: bytes) -> None:
    """Let the token with this IV expire now, in every process. Raises Django's database errors."""
    DerivedToken.objects.filter(pk=credential_id, iv=iv).update(expires_at=datetime.now(UTC))


_EMPTY: dict[str, Any] = {
    "format": 0,
    "master_key_id": "",
    **dict.fromkeys(("wrapped_dek", "wrapped_dek_iv", "ciphertext", "iv"), b""),
    **dict.fromkeys(("issued_at", "expires_at", "failed_at"), None),
    "failure": "",
}


def _of(claimed: Claim) -> Any:
    return DerivedToken.objects.filter(
        pk=claimed.credential_id, source_iv=claimed.source_iv, renewing_until=claimed.until
    )


def _read(credential_id: UUID) -> DerivedRecord | None:
    row = DerivedToken.objects.filter(pk=credential_id).values_list(*DerivedRecord._fields).first()
    return None if row is None else DerivedRecord.of(row)


def _time(value: datetime | str | None) -> datetime | None:
    """Return a time as SQLite stores it, as text in UTC, or as Django and PostgreSQL return it."""
    return datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else value
