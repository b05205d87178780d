"""Watches the request log for endpoints that fail, keys that providers refuse, and revoked tokens in use.

Every look asks by indexes, and only about the last 15 minutes. It finds the endpoints with failures in this hour or the
last one, then those of which no request succeeded, and reads only the newest requests of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.db.models import Exists, F, OuterRef

from accounts.notices.kinds import ENDPOINT_FAILING, KEY_REFUSED, TOKEN_REVOKED_IN_USE
from accounts.notices.publishing import Sighting
from accounts.notices.watch import Watcher
from credentials.models import BearerToken, Endpoint
from credentials.notices import describe_endpoint, describe_token, text_of_time
from proxy.cloud_errors import CloudSecretRefused
from proxy.errors import InvalidToken
from proxy.models import RefusalCount, RequestRecord, RequestRollup

# A request is logged at its end under the time of its start, and a silent provider ends one after ten minutes.
WINDOW = timedelta(minutes=15)
MIN_FAILURES = 5
GRACE = timedelta(minutes=1)  # for programs that were at work when their token was revoked
NEWEST = 100
_BATCH = 500
_SUCCESS = {"status__lt": 400, "error": ""}


def _failing(since: datetime, until: datetime) -> Iterator[Sighting]:
    """Endpoints of which no request succeeded: with failures at the provider, or with a key that it refuses."""
    start = until - WINDOW
    hour = start.replace(minute=0, second=0, microsecond=0)
    rollups = RequestRollup.objects.filter(hour__gte=hour, status_class__in=(4, 5))
    candidates = sorted(set(rollups.values_list("endpoint", flat=True)))  # DISTINCT would read a whole index
    for first in range(0, len(candidates), _BATCH):
        succeeded = RequestRecord.objects.filter(endpoint=OuterRef("pk"), at__gt=start, **_SUCCESS)
        endpoints = Endpoint.objects.filter(
            ~Exists(succeeded), pk__in=candidates[first : first + _BATCH], paused_at=None
        ).select_related("credential")
        for endpoint in endpoints:
            yield from _troubles(endpoint, start)


def _troubles(endpoint: Endpoint, start: datetime) -> Iterator[Sighting]:
    """Return what is wrong with an endpoint without success since `start`. Requests with a former key do not count."""
    sealed_at = endpoint.credential.sealed_at
    newest = list(
        RequestRecord.objects.filter(endpoint=endpoint, at__gt=max(start, sealed_at))
        .order_by("-at")
        .values_list("status", "error")[:NEWEST]
    )
    refused = [(status, error) for status, error in newest if _is_refusal(status, error)]
    failed = [(status, error) for status, error in newest if _is_failure(status, error)]
    described = {"endpoint": describe_endpoint(endpoint)}
    if refused:
        status, error = refused[0]
        facts = {**described, "status": None if error else status, "error": error}
        yield Sighting(endpoint.owner_id, KEY_REFUSED, f"{endpoint.pk.hex} {int(sealed_at.timestamp())}", facts)
    if len(failed) >= MIN_FAILURES:
        status, error = failed[0]
        facts = {**described, "status": None if error else status, "error": error, "failures": len(failed)}
        yield Sighting(endpoint.owner_id, ENDPOINT_FAILING, endpoint.pk.hex, facts)


def _is_refusal(status: int, error: str) -> bool:
    """Return whether the provider, or the token server of a cloud, refused the stored key."""
    return error == CloudSecretRefused.code or (status in {401, 403} and not error)


def _is_failure(status: int, error: str) -> bool:
    """Return whether a request failed at the provider or on the way to it."""
    return error != CloudSecretRefused.code and (status >= 500 or error.startswith("upstream_"))


def _revoked_in_use(since: datetime, until: datetime) -> Iterator[Sighting]:
    """The revoked tokens that were refused since the last look."""
    # Counts of a minute are written after it began, and late ones during an outage of the database.
    rows = RefusalCount.objects.filter(
        minute__gte=since - WINDOW, code=InvalidToken.code, last_at__gt=F("token__revoked_at") + GRACE
    )
    found: set[str] = set(rows.values_list("token", flat=True))
    for token in BearerToken.objects.filter(pk__in=found).select_related("endpoint"):
        facts = {
            "endpoint": describe_endpoint(token.endpoint),
            "token": describe_token(token) | {"revoked_at": text_of_time(token.revoked_at)},
        }
        yield Sighting(token.endpoint.owner_id, TOKEN_REVOKED_IN_USE, token.pk, facts)


WATCHERS = (Watcher("endpoints", _failing), Watcher("revoked-tokens", _revoked_in_use))
