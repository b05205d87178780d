"""Access tokens of cloud credentials: bought when the first request needs one, and renewed before they expire.

A cloud credential is not sent to the provider. This opens it for one request to its cloud's token server, seals the
access token that comes back, and stores it. Requests then open that one, as they open a key. From 80 % of its life on,
the next request starts its renewal in the background and is sent with the old one. Only requests without a token that
works wait, all of one process for the same renewal. Nothing renews a token that no request asks for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import NamedTuple
from uuid import UUID

from django.db import IntegrityError

from credentials import cloud_tokens, vault
from credentials.cloud_tokens import AccessToken, TokenRequest
from credentials.errors import CloudTokenError, InvalidDestination, SealError
from credentials.vault import keyring
from credentials.vault.envelope import Binding, SealedRecord, derived_binding
from credentials.vault.keyring import Keyring
from credentials.vault.sealing import wipe
from proxy.access import derived_token
from proxy.access.derived_token import Claim, DerivedRecord
from proxy.access.route import Route
from proxy.cloud_errors import CloudSecretRefused, TokenServerUnavailable
from proxy.database_thread import DatabaseThread
from proxy.errors import (
    NeedsKeyAgain,
    ProxyError,
    StoreUnavailable,
    UnknownEndpoint,
    UpstreamInvalid,
)
from proxy.unsealing import open_key
from proxy.upstream.connection import UpstreamBroken
from proxy.upstream.origin import destination
from proxy.upstream.pool import ConnectionPool, UpstreamResponse

logger = logging.getLogger(__name__)

RENEWAL_SECONDS = 20.0  # less than the lease
POLL_SECONDS = 0.1
# How often the provider's 401 leads to a new token: a provider may also say 401 to a token that lacks a permission.
MAX_REFUSED = 3
REFUSED_SECONDS = 60.0
MAX_REMEMBERED = 10_000

_Key = tuple[UUID, bytes]  # a credential, and the IV of its sealed key


class DerivedSecret(NamedTuple):
    """An access token that a request may open and send."""

    record: SealedRecord
    binding: Binding
    ring: Keyring


class Renewals:
    """The access tokens of one process. Create it inside the running event loop."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._database = DatabaseThread("renewals")
        self._tasks: dict[_Key, asyncio.Task[DerivedRecord]] = {}
        self._refused: dict[UUID, list[float]] = {}

    async def current(self, route: Route, ring: Keyring) -> DerivedSecret:
        """Return the access token of an authorized request. Waits for one if there is none that works.

        Raises `CloudSecretRefused`, `TokenServerUnavailable`, `NeedsKeyAgain`, `StoreUnavailable` or
        `UnknownEndpoint`.
        """
        if route.sealed is None or route.binding is None:
            raise NeedsKeyAgain
        binding = derived_binding(route.binding, route.iv)
        now = datetime.now(UTC)
        found = route.derived
        if found is not None and found.works(route.iv, ring.ids, now):
            if found.is_due(now) and not found.is_being_renewed(now) and not found.has_just_failed(now):
                _ = self._start(route, ring)
            return DerivedSecret(found.sealed, binding, ring)
        if found is not None and found.source_iv == route.iv and found.has_just_failed(now):
            raise _failure(found)
        # The task goes on if this request ends: others wait for it too.
        record = await asyncio.shield(self._start(route, ring))
        return DerivedSecret(record.sealed, binding, keyring.current())

    async def refused(self, route: Route, ring: Keyring, record: SealedRecord) -> None:
        """Give up a token to which the provider has responded with 401.

        When this returns, the next request in every process has another one, or waits for it.
        """
        if not self._may_give_up(route.credential_id):
            return
        try:
            await self._database.run(lambda: derived_token.expire(route.credential_id, record.iv))
        except StoreUnavailable:
            return  # nothing is forwarded without the database, and afterwards the provider says 401 again
        _ = self._start(route, ring)

    async def close(self) -> None:
        """Give up every renewal that is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, route: Route, ring: Keyring) -> asyncio.Task[DerivedRecord]:
        """Return the task that renews the token of a credential. There is one at a time."""
        key = (route.credential_id, route.iv)
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(self._obtain(route, ring))
            task.add_done_callback(lambda done: self._finished(key, done))
        return task

    def _finished(self, key: _Key, task: asyncio.Task[DerivedRecord]) -> None:
        del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, ProxyError):
            logger.error("renewal_failed kind=%s", type(error).__name__)

    def _may_give_up(self, credential_id: UUID) -> bool:
        now = monotonic()
        if len(self._refused) >= MAX_REMEMBERED:
            self._refused = {key: times for key, times in self._refused.items() if times[-1] > now - REFUSED_SECONDS}
        times = [at for at in self._refused.get(credential_id, ()) if at > now - REFUSED_SECONDS]
        if len(times) >= MAX_REFUSED or len(self._refused) >= MAX_REMEMBERED:
            return False
        self._refused[credential_id] = [*times, now]
        return True

    async def _obtain(self, route: Route, ring: Keyring) -> DerivedRecord:
        """Return a token that works: renewed here, or by another process meanwhile. Raises as `current` does."""
        while True:
            try:
                claimed = await self._database.run(lambda: derived_token.claim(route.credential_id, route.iv, ring.ids))
            except IntegrityError:
                raise UnknownEndpoint from None  # deleted meanwhile
            if isinstance(claimed, Claim):
                return await self._renew(claimed, route, ring)
            if claimed.works(route.iv, ring.ids, now := datetime.now(UTC)):
                return claimed
            if claimed.has_just_failed(now):
                raise _failure(claimed)
            await asyncio.sleep(POLL_SECONDS)

    async def _renew(self, claimed: Claim, route: Route, ring: Keyring) -> DerivedRecord:
        if route.binding is None:
            raise NeedsKeyAgain
        issued_at = datetime.now(UTC)  # before the request, so that no token is thought to last longer than it does
        try:
            obtained = await self._ask(route, ring)
            sealed = vault.seal(obtained.token, derived_binding(route.binding, route.iv))
            expires_at = issued_at + timedelta(seconds=obtained.seconds)
            return await self._database.run(lambda: derived_token.store(claimed, sealed, issued_at, expires_at))
        except NeedsKeyAgain:
            await self._database.run(lambda: derived_token.release(claimed))
            raise
        except CloudTokenError as error:
            code = error.code
        except SealError:  # this process's keyring is outdated
            code = "not_stored"
        logger.warning("token_renewal_failed kind=%s code=%s", route.kind, code)
        await self._database.run(lambda: derived_token.fail(claimed, code))
        raise _error(code)

    async def _ask(self, route: Route, ring: Keyring) -> AccessToken:
        """Ask the token server once. Raises `CloudTokenError` or `NeedsKeyAgain`."""
        if route.sealed is None or route.binding is None:
            raise NeedsKeyAgain
        try:
            secret = open_key(route.sealed, route.binding, ring)
        except SealError:
            raise NeedsKeyAgain from None
        try:
            request = cloud_tokens.build_request(route.kind, route.parameter_values, secret)
        finally:
            wipe(secret)
        try:
            async with asyncio.timeout(RENEWAL_SECONDS):
                response = await self._send(request, route)
                try:
                    return cloud_tokens.read_response(response.status, await _read(response))
                finally:
                    response.close()
        except UpstreamInvalid:
            raise CloudTokenError("invalid_response") from None
        except (InvalidDestination, ProxyError, TimeoutError, UpstreamBroken):
            raise CloudTokenError("unreachable") from None
        finally:
            wipe(request.body)

    async def _send(self, request: TokenRequest, route: Route) -> UpstreamResponse:
        origin, netloc, path = destination(request.url)
        headers = [(name.lower().encode(), value.encode()) for name, value in cloud_tokens.HEADERS]
        headers += [
            (b"host", netloc),
            (b"content-length", b"%d" % len(request.body)),
            (b"connection", b"close"),
        ]
        return await self._pool.send(
            origin,
            "POST",
            path,
            headers,
            (b"content-type", bytearray(cloud_tokens.CONTENT_TYPE.encode())),
            _once(request.body),
            credential_id=(b"renewal", route.credential_id.bytes, route.iv),
            owner_id=route.owner_id,
            owner_email=route.owner_email,
        )


async def _once(body: bytearray) -> AsyncIterator[bytes | bytearray]:
    """Yield a body that is wiped later. As bytes, it could not be."""
    yield body


async def _read(response: UpstreamResponse) -> bytes:
    body = b""
    while part := await response.read():
        body += part
        if len(body) > cloud_tokens.MAX_RESPONSE_BYTES:
            raise CloudTokenError("invalid_response")
    return body


def _failure(record: DerivedRecord) -> ProxyError:
    return _error(record.failure)


def _error(code: str) -> ProxyError:
    return CloudSecretRefused() if code in cloud_tokens.REFUSALS else TokenServerUnavailable(retry_after=10)
