"""The panels about requests on the pages of endpoints, registered in strake/apps.py."""

from __future__ import annotations

from collections.abc import Sequence

from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from credentials.models import Endpoint
from proxy.request_log.stats import HOURS, PERIODS, hours_of_last_day, steps_of
from strake.pages.charts import draw, spark
from strake.pages.request_lines import recent_lines


def requests_last_day(endpoints: Sequence[Endpoint]) -> list[str]:
    """The requests of each endpoint in the last 24 hours, as a number and a line of small bars, one for each hour."""
    counts = hours_of_last_day(endpoints)
    idle = [0] * HOURS
    return [_with_sparkline(counts.get(endpoint.pk, idle)) for endpoint in endpoints]


def _with_sparkline(hours: Sequence[int]) -> SafeString:
    svg = (
        '<svg class="sparkline" viewBox="0 0 {} 16" preserveAspectRatio="none" aria-hidden="true"><path d="{}"/></svg>'
    )
    return format_html("{}" + svg, f"{sum(hours):,}", HOURS * 3, spark(hours))


def recent_panel(request: HttpRequest, endpoint: Endpoint) -> dict[str, object]:
    return {"endpoint": endpoint, "lines": recent_lines(endpoint, 15)}


def traffic_panel(request: HttpRequest, endpoint: Endpoint) -> dict[str, object]:
    """The charts of an endpoint for the period that the page's `?period=` names, 24 hours by default."""
    period = PERIODS.get(request.GET.get("period", ""), PERIODS["24h"])
    steps, total = steps_of(endpoint, period)
    return {
        "endpoint": endpoint,
        "period": period,
        "periods": PERIODS.values(),
        "steps": steps,
        "total": total,
        "chart": draw(steps),
    }
