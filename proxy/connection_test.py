"""The connection test behind the button "Test it": one request through an endpoint, like a tool's.

It goes to the running proxy over a Unix socket, so it meets the same limits, and it is recorded and counted as in
flight. No key is opened in the process that calls it. Its latency is the one that the proxy records, read from there.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from time import perf_counter, sleep, time
from typing import NamedTuple

import httpx
from django.conf import settings

from accounts import tokens
from accounts.transactions import without_connection
from credentials import outbound
from credentials.models import BearerToken, Endpoint
from credentials.providers import Dialect, Provider
from proxy.access.minting import mints
from proxy.access.path_patterns import PathPatterns
from proxy.models import RequestRecord

MAX_SECONDS = 20.0
CONNECT_SECONDS = 2.0
BODY_SILENCE_SECONDS = 1.0
RECORD_SECONDS = 3.0  # how long to wait for the record: the log writes twice a second
# Where tools send most requests, behind the part of the base URL that their SDK adds.
_USUAL_POST = {
    Dialect.OPENAI: "/chat/completions",
    Dialect.ANTHROPIC: "/v1/messages",
    Dialect.GEMINI: "/v1beta/models/gemini-flash-latest:generateContent",
}
_NOT_VISIBLE = re.compile(r"[^!-~]")


class Problem(StrEnum):
    """Why there is no response."""

    NOTHING_TO_TRY = "nothing_to_try"
    PROXY_UNREACHABLE = "proxy_unreachable"
    TIMEOUT = "timeout"


class Attempt(NamedTuple):
    """A request that a test may send. A POST has an empty JSON object as its body."""

    method: str
    target: str

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


@dataclass(frozen=True, slots=True)
class Result:
    """What was tried, and the response or the problem. `error` is the code of an error from Strake.

    `latency_ms` is None if the request log is behind.
    """

    attempt: Attempt | None
    status: int = 0
    latency_ms: int | None = None
    error: str = ""
    problem: Problem | None = None

    @property
    def works(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_refused_as_empty(self) -> bool:
        """Whether the provider complains about the empty body, as it should."""
        return self.attempt is not None and self.attempt.method == "POST" and self.status in {400, 422}


def call(*, endpoint: Endpoint, provider: Provider, token: str, address: str | None) -> Result:
    """Send one request through an endpoint as the client at `address` would. Discards the body of the response.

    Blocks for up to `MAX_SECONDS`. Raises `TooManyRequests`, `ServerBusy` or `SessionStoreUnavailable` if the owner
    may not start a check now (`credentials.outbound`).
    """
    with outbound.check_of(endpoint.owner_id):
        known = BearerToken.objects.filter(endpoint=endpoint, digest=tokens.digest(token)).first()
        allowed_paths = known.allowed_paths if known is not None else ()
        attempt = choose(provider, allowed_paths, endpoint.credential.destination_url)
        if attempt is None:
            return Result(None, problem=Problem.NOTHING_TO_TRY)
        started_at = datetime.fromtimestamp(time(), UTC)
        result = _send(attempt, endpoint, provider, token, address)
        if known is None or result.error or result.problem is not None:
            return result
        return replace(result, latency_ms=_recorded_latency(known, started_at))


def choose(provider: Provider, allowed_paths: Sequence[str], destination_url: str = "") -> Attempt | None:
    """Return a harmless request that a token with these `allowed_paths` may send, or None if there is none.

    The key check of the provider comes first, then other GETs, then POSTs. None of them mints a credential at
    `destination_url`.
    """
    check = Attempt("GET", provider.check_path_at(destination_url) or "/")
    if not allowed_paths:
        return check
    if provider.example is not None:
        usual_post = Attempt(provider.example.method, provider.example.path or "/")
    else:
        usual_post = Attempt("POST", provider.suffix_at(destination_url) + _USUAL_POST[provider.dialect])
    attempts = [check, *_filled("GET", allowed_paths), usual_post, *_filled("POST", allowed_paths)]
    patterns = PathPatterns(tuple(allowed_paths))
    for attempt in attempts:
        path = attempt.target.partition("?")[0].encode()
        if patterns.match(attempt.method, path) and not mints(provider.slug, destination_url, attempt.method, path):
            return attempt
    return None


def _filled(method: str, allowed_paths: Sequence[str]) -> Iterator[Attempt]:
    """Yield a request for each pattern that allows `method`, those without wildcards first."""
    for entry in sorted(allowed_paths, key=lambda entry: "*" in entry):
        allowed, _, pattern = entry.partition(" ")
        if allowed in {method, "*"}:
            yield Attempt(method, re.sub(r"\*+", "models", pattern))  # many providers list their models there


def _send(attempt: Attempt, endpoint: Endpoint, provider: Provider, token: str, address: str | None) -> Result:
    host, prefix = settings.STRAKE_BASE.netloc, f"/p/{endpoint.subdomain}"
    if settings.STRAKE_PROXY_DOMAIN:
        host, prefix = f"{endpoint.subdomain}.{settings.STRAKE_PROXY_DOMAIN}", ""
    headers = {
        "Host": host,
        "Authorization": f"Bearer {_NOT_VISIBLE.sub('?', token) or '?'}",
        "User-Agent": "Strake",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        **dict(provider.key_check.headers if provider.key_check else ()),
    }
    if address is not None:
        headers["X-Strake-Client"] = address
    timeouts = dict.fromkeys(("pool", "read", "write"), MAX_SECONDS) | {"connect": CONNECT_SECONDS}
    started = perf_counter()
    try:
        with (
            without_connection(),
            httpx.Client(
                transport=httpx.HTTPTransport(uds=str(settings.STRAKE_PROXY_SOCKET)), trust_env=False
            ) as client,
            client.stream(
                attempt.method,
                f"http://localhost{prefix}{attempt.target}",
                headers=headers,
                json={} if attempt.method == "POST" else None,
                extensions={"timeout": timeouts},
            ) as response,
        ):
            timeouts["read"] = BODY_SILENCE_SECONDS
            _discard(response, started + MAX_SECONDS - BODY_SILENCE_SECONDS)
            return Result(attempt, response.status_code, error=response.headers.get("x-strake-error", ""))
    except httpx.ReadTimeout:
        return Result(attempt, problem=Problem.TIMEOUT)
    except httpx.TransportError:
        return Result(attempt, problem=Problem.PROXY_UNREACHABLE)


def _recorded_latency(token: BearerToken, started_at: datetime) -> int | None:
    """Return the latency that the proxy recorded for the first request with this token since `started_at`.

    The proxy runs on this host, so the two clocks are one.
    """
    since = started_at - timedelta(milliseconds=1)
    records = RequestRecord.objects.filter(endpoint=token.endpoint_id, token=token, at__gte=since).order_by("at")
    end = perf_counter() + RECORD_SECONDS
    while True:
        found = records.values_list("latency_ms", flat=True).first()
        if found is not None or perf_counter() > end:
            return found
        with without_connection():
            sleep(0.1)


def _discard(response: httpx.Response, end: float) -> None:
    """Read the body while it arrives, until `end`: the proxy would record a client that disconnects."""
    chunks = response.iter_raw()
    with contextlib.suppress(httpx.TransportError):
        while perf_counter() < end and next(chunks, b""):
            pass
