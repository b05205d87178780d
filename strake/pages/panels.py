"""The panels about requests on the pages of endpoints, registered in strake/apps.py."""

from __future__ import annotations

from collections.abc import Sequence

from django.http import HttpRequest

from credentials.models import Endpoint
from proxy.request_log.stats import PERIODS, last_day, steps_of
from strake.pages.charts import draw
from strake.pages.request_lines import recent_lines


def requests_last_day(endpoints: Sequence[Endpoint]) -> list[str]:
    """The requests of each endpoint in the last 24 hours."""
    counts = last_day(endpoints)
    return [f"{counts.get(endpoint.pk, 0):,}" for endpoint in endpoints]


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
        "refused": total.stopped,
        "chart": draw(steps),
    }
