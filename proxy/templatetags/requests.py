"""Requests on the pages of endpoints. The templates of a lower layer load this; its code knows nothing of requests."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from django import template

from credentials.models import Endpoint
from proxy import dashboard
from proxy import traffic as numbers
from proxy.models import RequestRecord

register = template.Library()


@register.simple_tag
def requests_last_day(endpoints: Iterable[Endpoint]) -> dict[UUID, int]:
    """The counts of all endpoints of a page, for `requests_of`."""
    return numbers.last_day(endpoints)


@register.simple_tag
def requests_of(counts: dict[UUID, int], endpoint: Endpoint) -> str:
    return f"{counts.get(endpoint.pk, 0):,}"


@register.inclusion_tag("proxy/traffic_card.html", takes_context=True)
def traffic(context: template.Context, endpoint: Endpoint) -> dict[str, object]:
    """The charts of an endpoint, for the period in the page's address."""
    period = context["request"].GET.get("period", "")
    return {**dashboard.traffic_context(endpoint, period), "request": context["request"]}


@register.inclusion_tag("proxy/recent_card.html")
def recent_requests(endpoint: Endpoint) -> dict[str, object]:
    return dashboard.recent_context(endpoint)


@register.filter
def outcome(record: RequestRecord) -> str:
    """The class of a status chip."""
    return "bad" if record.status >= 500 else "warn" if record.status >= 400 else "good"


@register.filter
def thousands(value: int) -> str:
    """A number as people read it: 10,101."""
    return f"{value:,}"


@register.filter
def milliseconds(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,} ms" if value < 10_000 else f"{value / 1000:,.1f} s"
