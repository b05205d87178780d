"""The ASGI handler of proxy traffic.

Django's own ASGI handler is not used here: it reads every request body into a temporary file before a view runs, and
hops between threads for its signals. This one builds a Django-style request over the raw receive channel, calls the
view, and relays what it returns.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from proxy import lookup, rates, tunnel, websocket
from proxy.errors import Headers, InvalidToken, ProxyError, TooManyWrongTokens, UnknownEndpoint, response_of
from proxy.guesses import Guesses
from proxy.http1 import UpstreamBroken
from proxy.journal import Entry, Journal, milliseconds_since
from proxy.limits import InFlight
from proxy.lookup import Lookup
from proxy.rates import Rates
from proxy.relay import relay
from proxy.request import ClientGone, ProxyRequest
from proxy.tunnel import UpgradeProtocol
from proxy.upstream import Upstream
from proxy.views import Answer, admit, forward

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

logger = logging.getLogger(__name__)

CLIENT_GONE = 499  # as nginx writes it; never sent, only journalled


class ProxyApplication:
    """What a process needs to forward: the look-up, what is counted, the connections to providers, the journal."""

    lookup: Lookup
    rates: Rates
    guesses: Guesses
    in_flight: InFlight
    upstream: Upstream
    journal: Journal

    async def startup(self) -> None:
        self.lookup = lookup.configured()
        self.rates = rates.configured()
        self.guesses = Guesses()
        self.in_flight = InFlight()
        self.upstream = Upstream()
        self.journal = Journal()
        self.journal.start()

    async def shutdown(self) -> None:
        self.upstream.close()
        await self.journal.stop()
        await self.rates.close()
        await self.lookup.close()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        started = time.time()
        clock = time.perf_counter()
        request = ProxyRequest(scope, receive)
        status, first_byte = 500, None
        try:
            if scope["type"] == "websocket":
                status = await self._websocket(request)
            else:
                answer = await self._answer(request)
                status = answer.status
                first_byte = milliseconds_since(clock)
                await relay(answer, send)
        except ClientGone:
            status = CLIENT_GONE
        except asyncio.CancelledError:
            if not request.client_gone:
                raise
            status = CLIENT_GONE
        except (UpstreamBroken, ProxyError):
            # The head is out. Returning without an end makes the server cut the connection, so that the client sees
            # a broken answer and not a short one.
            status = 502
        finally:
            route = request.route
            if route is not None and request.in_flight:
                self.in_flight.leave(route.endpoint_id)
            if route is not None and route.token_id is not None:
                self.journal.add(
                    Entry(route.endpoint_id, route.token_id, status, milliseconds_since(clock), first_byte, started)
                )

    async def _answer(self, request: ProxyRequest) -> Answer:
        try:
            return await forward(
                request, lookup=self.lookup, rates=self.rates, in_flight=self.in_flight, upstream=self.upstream
            )
        except Exception as error:  # noqa: BLE001  (the edge: nothing of a message may reach a log or a client)
            status, headers, body = self._refusal(error, request)
        if request.has_unread_body:
            # What the client is still sending is not going to be read.
            headers.append((b"connection", b"close"))
        return Answer(status, headers, body)

    def _refusal(self, error: Exception, request: ProxyRequest) -> tuple[int, Headers, bytes]:
        """What Strake answers itself. Anything that is no `ProxyError` is a defect, and is logged as one."""
        if isinstance(error, ClientGone):
            raise error
        if isinstance(error, InvalidToken | UnknownEndpoint):
            try:
                self.guesses.count(request.address)
            except TooManyWrongTokens as too_many:
                error = too_many
        elif not isinstance(error, ProxyError):
            logger.error("proxy_failed kind=%s where=%s", type(error).__name__, _where(error))
            error = ProxyError()
        return response_of(error, request.dialect)

    async def _websocket(self, request: ProxyRequest) -> int:
        """Answer a handshake and stay with its connection. Returns the status of the handshake."""
        client: UpgradeProtocol = request.extensions[tunnel.EXTENSION]
        try:
            admitted = await admit(request, lookup=self.lookup, rates=self.rates, in_flight=self.in_flight)
            return await websocket.forward(request, client, admitted, upstream=self.upstream)
        except asyncio.CancelledError:
            request.client_gone = client.gone
            raise
        except Exception as error:  # noqa: BLE001  (as above)
            status, headers, body = self._refusal(error, request)
        client.respond(status, headers, body)
        return status


def _where(error: BaseException) -> str:
    """The innermost places an error passed, without its message, which may quote a request."""
    trace, places = error.__traceback__, []
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return ">".join(places[-4:])
