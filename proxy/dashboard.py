"""Pages and parts of pages about requests: activity, traffic of one endpoint, and "Test it"."""

from __future__ import annotations

from datetime import datetime

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_required
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.views.decorators.http import require_POST, require_safe

from accounts.audit import Actor, actor_of
from credentials import providers, services
from credentials.errors import NotFound
from credentials.models import Endpoint
from proxy import trial
from proxy.charts import draw
from proxy.models import RequestRecord
from proxy.traffic import PERIODS, newest, records_for, steps_of

PER_PAGE = 50
OUTCOMES = {"good": Q(status__lt=400), "refused": Q(status__range=(400, 499)), "failed": Q(status__gte=500)}


@login_required
@require_safe
def activity(request: HttpRequest) -> HttpResponse:
    """All requests of this person, newest first. Pages are found by time, which stays fast however many there are."""
    actor = actor_of(request)
    records = records_for(actor)
    subdomain, outcome = request.GET.get("endpoint", ""), request.GET.get("outcome", "")
    if subdomain:
        records = records.filter(endpoint=_endpoint(actor, subdomain))
    if outcome in OUTCOMES:
        records = records.filter(OUTCOMES[outcome])
    records, until = _older_than(records, request.GET.get("before", ""))
    found = newest(records, PER_PAGE + 1, until)
    context = {
        "records": found[:PER_PAGE],
        "older": _cursor(found[PER_PAGE - 1]) if len(found) > PER_PAGE else "",
        "newest": "before" not in request.GET,
        "endpoints": services.endpoints_for(actor).order_by("label")[:200],
        "endpoint": subdomain,
        "outcome": outcome,
        "is_filtered": bool(subdomain or outcome),
    }
    template = "proxy/records.html" if _is_part(request) else "proxy/activity.html"
    return render(request, template, context)


@login_required
@require_safe
def recent(request: HttpRequest, subdomain: str) -> HttpResponse:
    """The newest requests to one endpoint, as a part of its page that refreshes itself."""
    endpoint = _endpoint(actor_of(request), subdomain)
    return render(request, "proxy/recent.html", recent_context(endpoint))


@login_required
@require_safe
def traffic(request: HttpRequest, subdomain: str) -> HttpResponse:
    """The charts of one endpoint, as a part of its page that refreshes itself."""
    endpoint = _endpoint(actor_of(request), subdomain)
    return render(request, "proxy/traffic.html", traffic_context(endpoint, request.GET.get("period", "")))


@login_required
@require_POST
async def try_token(request: HttpRequest, subdomain: str) -> HttpResponse:
    """Send one call through an endpoint with the token in the form, which was shown on the page a moment ago."""
    endpoint = await sync_to_async(_endpoint)(await sync_to_async(actor_of)(request), subdomain)
    result = await trial.call(
        endpoint=endpoint,
        provider=providers.get(endpoint.provider),
        token=request.POST.get("token", "")[:200],
        peer=request.META.get("REMOTE_ADDR", ""),
        forwarded_for=request.META.get("HTTP_X_FORWARDED_FOR", ""),
    )
    template = "proxy/try_result.html" if _is_part(request) else "proxy/try_page.html"
    context = {"result": result, "endpoint": endpoint, "provider": providers.get(endpoint.provider)}
    return await sync_to_async(render)(request, template, context)


def recent_context(endpoint: Endpoint) -> dict[str, object]:
    records = RequestRecord.objects.filter(endpoint=endpoint).select_related("token").order_by("-at")
    return {"endpoint": endpoint, "records": records[:15]}


def traffic_context(endpoint: Endpoint, period: str) -> dict[str, object]:
    chosen = PERIODS.get(period, PERIODS["24h"])
    steps, total = steps_of(endpoint, chosen)
    return {
        "endpoint": endpoint,
        "period": chosen,
        "periods": PERIODS.values(),
        "steps": steps,
        "total": total,
        "chart": draw(steps),
    }


def _endpoint(actor: Actor, subdomain: str) -> Endpoint:
    try:
        return services.get_endpoint(actor=actor, subdomain=subdomain)
    except NotFound as error:
        raise Http404(str(error)) from None


def _is_part(request: HttpRequest) -> bool:
    """Whether strake.js asks for a part of a page only."""
    return bool(request.headers.get("X-Strake-Part"))


def _cursor(record: RequestRecord) -> str:
    return f"{record.at.isoformat()}_{record.pk}"


def _older_than(records: QuerySet[RequestRecord], cursor: str) -> tuple[QuerySet[RequestRecord], datetime]:
    """The records after the one of which `cursor` is, and its time; all of them where it is not a cursor of ours."""
    moment, _, pk = cursor.partition("_")
    try:
        at: datetime | None = parse_datetime(moment)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None or not (pk.isascii() and pk.isdigit() and len(pk) < 19):
        return records, timezone.now()
    return records.filter(Q(at__lt=at) | Q(at=at, pk__lt=int(pk))), at
