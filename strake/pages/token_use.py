"""How much each token of an endpoint is used, and why its last request failed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import reduce
from operator import or_

from django.db.models import F, Max, Q, Sum, Value, Window
from django.db.models.functions import RowNumber
from django.utils import timezone

from credentials.dashboard.panels import EndpointUse, LastError, TokenUse
from credentials.models import BearerToken, Endpoint
from proxy.errors import InvalidToken
from proxy.models import RefusalCount, RequestRecord, RequestRollup
from strake.pages import error_help
from strake.pages.request_lines import status_of

Hours = dict[str, datetime]  # by token id: the newest hour with an error
Errors = list[tuple[str, LastError]]  # with the ids of their tokens
_FIELDS = ("token", "at", "status", "error")


def use_of(endpoint: Endpoint, tokens: Sequence[BearerToken]) -> EndpointUse:
    """Return the use of an endpoint in 7 days. The last errors are those of `tokens` and of the endpoint as a whole."""
    use: dict[str, TokenUse] = {}
    hours, errors = _count(endpoint, use)
    shown = {token.pk for token in tokens}
    newest = max(hours, key=lambda token: hours[token], default="")
    errors += _failures(endpoint, {token: hour for token, hour in hours.items() if token in shown or token == newest})
    last: LastError | None = None
    for token, error in errors:
        found = use.setdefault(token, TokenUse())
        if found.last_error is None or found.last_error.at < error.at:
            found.last_error = error
        if last is None or last.at < error.at:
            last = error
    return EndpointUse(use, last)


def _count(endpoint: Endpoint, use: dict[str, TokenUse]) -> tuple[Hours, Errors]:
    """Count forwarded and refused requests by token. Returns the hours in which to look for errors, and refusals."""
    now = timezone.now()
    week, day = now - timedelta(days=7), now - timedelta(hours=24)
    forwarded = (
        RequestRollup.objects.filter(endpoint=endpoint, hour__gte=week)
        .values("token")
        .annotate(
            reason=Value(""),
            day=Sum("count", filter=Q(hour__gte=day), default=0),
            week=Sum("count"),
            last=Max("hour", filter=Q(status_class__gte=4)),
        )
    )
    refused = (
        RefusalCount.objects.filter(endpoint=endpoint, minute__gte=week)
        .values("token", "code")
        .annotate(day=Value(0), week=Sum("count"), last=Max("last_at"))
    )
    hours: Hours = {}
    errors: Errors = []
    columns = ("day", "week", "last")
    rows = forwarded.values_list("token", "reason", *columns).union(
        refused.values_list("token", "code", *columns), all=True
    )
    for token, code, in_day, in_week, last in rows:
        found = use.setdefault(token, TokenUse())
        if code:
            found.refused += in_week
            found.tried += in_week if code == InvalidToken.code else 0
            errors.append((token, _error(last, status_of(code), code)))
        else:
            found.day, found.week = in_day, in_week
            if last is not None:
                hours[token] = last
    return hours, errors


def _failures(endpoint: Endpoint, hours: Hours) -> Errors:
    """The newest failed request of each token, in its hour."""
    by_hour: dict[datetime, list[str]] = {}
    for token, hour in hours.items():
        by_hour.setdefault(hour, []).append(token)
    # The endpoint is in each condition, so that a database looks up every hour in the index of endpoints and times.
    conditions = [
        Q(endpoint=endpoint, at__gte=hour, at__lt=hour + timedelta(hours=1), token__in=tokens, status__gte=400)
        for hour, tokens in by_hour.items()
    ]
    if not conditions:
        return []
    rows = (
        RequestRecord.objects.filter(reduce(or_, conditions))
        .annotate(place=Window(RowNumber(), partition_by="token", order_by=F("at").desc()))
        .filter(place=1)
    )
    return [(token, _error(at, status, code)) for token, at, status, code in rows.values_list(*_FIELDS)]


def _error(at: datetime, status: int, code: str) -> LastError:
    if not code:
        return LastError(at, status, "", is_of_provider=True)
    anchor = code if code in error_help.HELP else ""
    return LastError(at, status, error_help.reason(code), is_of_provider=False, anchor=anchor)
