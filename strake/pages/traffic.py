"""Views about requests: Activity, the panels that refresh themselves, and the connection test."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from accounts.actors import Actor
from accounts.audit import actor_of
from accounts.errors import NotFound, ServerBusy, TooManyRequests
from credentials import providers, services
from credentials.models import Endpoint
from proxy import connection_test
from strake.pages.panels import recent_panel, traffic_panel
from strake.pages.request_lines import newest_lines, position

PER_PAGE = 50


@login_required
@require_safe
def activity(request: HttpRequest) -> HttpResponse:
    """All requests of this person, newest first. Those that Strake refused are one line a minute.

    Pages continue from a point in time and not from a row number, so that late pages cost no more than the first.
    """
    actor = actor_of(request)
    endpoints = Endpoint.objects.visible_to(actor)
    subdomain, outcome = request.GET.get("endpoint", ""), request.GET.get("outcome", "")
    chosen = endpoints.filter(pk=_endpoint_or_404(actor, subdomain).pk) if subdomain else endpoints
    lines = newest_lines(chosen, PER_PAGE + 1, outcome=outcome, after=position(request.GET.get("before", "")))
    context = {
        "lines": lines[:PER_PAGE],
        "all_endpoints": True,
        "older": lines[PER_PAGE - 1].position if len(lines) > PER_PAGE else "",
        "newest": "before" not in request.GET,
        "endpoints": endpoints.order_by("label")[:200],
        "endpoint": subdomain,
        "outcome": outcome,
        "is_filtered": bool(subdomain or outcome),
    }
    template = "strake/requests.html" if _is_part(request) else "strake/activity.html"
    return render(request, template, context)


@login_required
@require_safe
def recent(request: HttpRequest, subdomain: str) -> HttpResponse:
    """The newest requests to one endpoint, for the panel that refreshes itself."""
    endpoint = _endpoint_or_404(actor_of(request), subdomain)
    return render(request, "strake/requests.html", recent_panel(request, endpoint))


@login_required
@require_safe
def traffic(request: HttpRequest, subdomain: str) -> HttpResponse:
    """The charts of one endpoint, for the panel that refreshes itself."""
    endpoint = _endpoint_or_404(actor_of(request), subdomain)
    return render(request, "strake/traffic.html", traffic_panel(request, endpoint))


@login_required
@require_POST
def test_connection(request: HttpRequest, subdomain: str) -> HttpResponse:
    """Send one request through an endpoint, with the token that the form carries from the page that showed it."""
    actor = actor_of(request)
    endpoint = _endpoint_or_404(actor, subdomain)
    provider = providers.get(endpoint.provider)
    token = request.POST.get("token", "")[:200]
    context = {"endpoint": endpoint, "provider": provider}
    try:
        context["result"] = connection_test.call(endpoint=endpoint, provider=provider, token=token, address=actor.ip)
    except (TooManyRequests, ServerBusy) as error:
        context["refusal"] = str(error)
    template = "strake/connection_test_result.html" if _is_part(request) else "strake/connection_test.html"
    return render(request, template, context)


def _endpoint_or_404(actor: Actor, subdomain: str) -> Endpoint:
    try:
        return services.get_endpoint(actor=actor, subdomain=subdomain)
    except NotFound as error:
        raise Http404(str(error)) from None


def _is_part(request: HttpRequest) -> bool:
    """True if the script of the page asks for one part of the page."""
    return bool(request.headers.get("X-Strake-Part"))
