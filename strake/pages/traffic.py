"""Views about the requests of one endpoint: the panels that refresh themselves, and the connection test."""

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


@login_required
@require_safe
def recent(request: HttpRequest, subdomain: str) -> HttpResponse:
    """The newest requests to one endpoint, for the panel that refreshes itself."""
    endpoint = endpoint_or_404(actor_of(request), subdomain)
    return render(request, "strake/requests.html", recent_panel(request, endpoint))


@login_required
@require_safe
def traffic(request: HttpRequest, subdomain: str) -> HttpResponse:
    """The charts of one endpoint, for the panel that refreshes itself."""
    endpoint = endpoint_or_404(actor_of(request), subdomain)
    return render(request, "strake/traffic.html", traffic_panel(request, endpoint))


@login_required
@require_POST
def test_connection(request: HttpRequest, subdomain: str) -> HttpResponse:
    """Send one request through an endpoint, with the token that the form carries from the page that showed it."""
    actor = actor_of(request)
    endpoint = endpoint_or_404(actor, subdomain)
    provider = providers.get(endpoint.provider)
    token = request.POST.get("token", "")[:200]
    context = {"endpoint": endpoint, "provider": provider}
    try:
        context["result"] = connection_test.call(endpoint=endpoint, provider=provider, token=token, address=actor.ip)
    except (TooManyRequests, ServerBusy) as error:
        context["refusal"] = str(error)
    template = "strake/connection_test_result.html" if is_part(request) else "strake/connection_test.html"
    return render(request, template, context)


def endpoint_or_404(actor: Actor, subdomain: str) -> Endpoint:
    try:
        return services.get_endpoint(actor=actor, subdomain=subdomain)
    except NotFound as error:
        raise Http404(str(error)) from None


def is_part(request: HttpRequest) -> bool:
    """True if the script of the page asks for one part of the page."""
    return bool(request.headers.get("X-Strake-Part"))
