"""URLs of an endpoint in place of a provider's upload URLs.

A provider's upload URL works without a key, so whoever has it can upload even after their token was revoked. Clients
get `/_strake/uploads/SECRET` of their endpoint instead. It works for `LIFETIME` at most, and only as long as the token
with the secret that it had when the upload began. The row holds the provider's URL encrypted under a key derived from
the secret, so neither the database nor a master key reveals it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.db import IntegrityError

from accounts import tokens
from credentials.vault.envelope import IV_BYTES, stored_bytes
from proxy.access.route import Route
from proxy.database_thread import DatabaseThread
from proxy.errors import InvalidToken, StoreUnavailable
from proxy.models import UploadCapability

RESERVED = b"/_strake/"  # never forwarded to a provider
PATH_PREFIX = RESERVED + b"uploads/"
PREFIX = "upload_"
# Google keeps an upload session for a week, and a file for two days. An upload takes minutes.
LIFETIME = timedelta(hours=24)
MAX_PER_TOKEN = 250  # unfinished uploads; another one ends the oldest
_CONTEXT = b"strake/upload-url"

Result = TypeVar("Result")


class Upload(NamedTuple):
    """A provider's upload URL, which the client knows by `secret`. The token is live with this digest."""

    secret: str
    token_digest: bytes
    url: bytes


class SealedUpload(NamedTuple):
    """The row of an upload that has not expired."""

    secret: str
    token_id: str
    token_digest: bytes  # as it is now
    sealed_url: bytes
    iv: bytes
    expires_at: datetime

    def open(self, route: Route) -> Upload:
        """Decrypt the URL for a request that may use `route`.

        Raises `InvalidToken` if the upload began at another endpoint, or before its token was rotated.
        """
        if self.token_id != route.token_id or len(self.iv) != IV_BYTES:
            raise InvalidToken
        data = _associated_data(route.endpoint_id, self.token_id, self.token_digest, self.expires_at)
        try:
            url = AESGCM(_key(self.secret)).decrypt(self.iv, self.sealed_url, data)
        except InvalidTag:
            raise InvalidToken from None
        return Upload(self.secret, self.token_digest, url)


def secret_in(path: bytes) -> str | None:
    """Return the secret of an upload's path, or None for a path that is forwarded. Raises `InvalidToken`."""
    if path[: len(RESERVED)] != RESERVED:
        return None
    secret = path.removeprefix(PATH_PREFIX).removesuffix(b"/").decode("latin-1")
    if not tokens.is_well_formed(secret, PREFIX):
        raise InvalidToken
    return secret


async def find(secret: str) -> SealedUpload:
    """Look an upload up. Raises `InvalidToken` if it is unknown or expired, and `StoreUnavailable`."""
    row = await _in_thread(lambda: _select(tokens.digest(secret)))
    if row is None:
        raise InvalidToken
    token_id, token_digest, sealed_url, iv, expires_at = row
    return SealedUpload(
        secret, token_id, stored_bytes(token_digest), stored_bytes(sealed_url), stored_bytes(iv), expires_at
    )


async def create(endpoint_id: UUID, token_id: str, token_digest: bytes, urls: Sequence[bytes]) -> list[Upload]:
    """Store upload URLs for a token. Raises `StoreUnavailable`, and `InvalidToken` if the token has been deleted."""
    expires_at = datetime.now(UTC).replace(microsecond=0) + LIFETIME
    data = _associated_data(endpoint_id, token_id, token_digest, expires_at)
    uploads, rows = [], []
    for url in urls:
        secret, iv = tokens.mint(PREFIX), os.urandom(IV_BYTES)
        sealed_url = AESGCM(_key(secret)).encrypt(iv, url, data)
        uploads.append(Upload(secret, token_digest, url))
        rows.append(
            UploadCapability(
                digest=tokens.digest(secret), token_id=token_id, sealed_url=sealed_url, iv=iv, expires_at=expires_at
            )
        )
    await _in_thread(lambda: _insert(token_id, rows))
    return uploads


async def forget(upload: Upload) -> None:
    """Delete a finished upload. It stays until it expires if the database is not available."""
    with suppress(StoreUnavailable):
        await _in_thread(lambda: UploadCapability.objects.filter(digest=tokens.digest(upload.secret)).delete())


def is_credential(header: tuple[bytes, bytes], upload: Upload, header_name: str) -> bool:
    """Whether a request header is the endpoint's key header, or contains the secret."""
    name, value = header
    return name.replace(b"_", b"-") == header_name.lower().replace("_", "-").encode() or upload.secret.encode() in value


def _key(secret: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=_CONTEXT).derive(secret.encode())


def _associated_data(endpoint_id: UUID, token_id: str, token_digest: bytes, expires_at: datetime) -> bytes:
    """Bind a URL to its row's meaning. The digest changes when the token is rotated."""
    seconds = int(expires_at.timestamp()).to_bytes(8)
    fields = (_CONTEXT, endpoint_id.bytes, token_id.encode(), token_digest, seconds)
    return b"".join(len(field).to_bytes(4) + field for field in fields)


# --- The database ----------------------------------------------------------------------------------------------------

# Uploads are rare, so one thread is enough.
_thread = DatabaseThread("uploads")

_Bytes = bytes | memoryview
_Row = tuple[str, _Bytes, _Bytes, _Bytes, datetime]


async def _in_thread(work: Callable[[], Result]) -> Result:
    """Run `work` in the thread. Raises `StoreUnavailable`, and `InvalidToken` if the token has been deleted."""
    try:
        return await _thread.run(work)
    except IntegrityError:
        raise InvalidToken from None


def _select(digest: bytes) -> _Row | None:
    live = UploadCapability.objects.filter(digest=digest, expires_at__gt=datetime.now(UTC))
    return live.values_list("token_id", "token__digest", "sealed_url", "iv", "expires_at").first()


def _insert(token_id: str, rows: list[UploadCapability]) -> None:
    UploadCapability.objects.filter(expires_at__lte=datetime.now(UTC)).delete()
    others = UploadCapability.objects.filter(token_id=token_id).order_by("-created_at")
    surplus = list(others.values_list("pk", flat=True)[max(0, MAX_PER_TOKEN - len(rows)) :])
    if surplus:
        UploadCapability.objects.filter(pk__in=surplus).delete()
    UploadCapability.objects.bulk_create(rows)
