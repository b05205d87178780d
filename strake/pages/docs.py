"""The documentation pages: how to use an endpoint from each tool, and the error codes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.audit import actor_of
from accounts.models import User
from credentials import providers
from credentials.dashboard.forms import TokenForm
from credentials.dashboard.snippets import TOOLS, Tool, dialects_of, snippet, snippets_for
from credentials.models import Endpoint
from proxy.http.error_response import error_classes
from proxy.request_log.stats import BUCKETS, PERIODS, Step
from strake.pages.charts import draw
from strake.pages.error_help import HELP

_BROWSER_EXAMPLE = """\
const client = new OpenAI({
  baseURL: "https://strake.example.org/p/abc123def456/v1",
  apiKey: "strk_…",
  dangerouslyAllowBrowser: true,
});"""
SAMPLE_SUBDOMAIN = "abc123def456"
MAX_ENDPOINTS = 200


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    context = {"tools": TOOLS, "endpoint": request.GET.get("endpoint", "")[:12]}
    return render(request, "strake/docs/index.html", context)


@require_safe
def tool(request: HttpRequest, slug: str) -> HttpResponse:
    """The page of one tool, with an endpoint of the reader filled in, or a sample if none of them fits."""
    found = next((tool for tool in TOOLS if tool.slug == slug), None)
    if found is None:
        raise Http404("There is no page about this tool.")
    fitting = list(_fitting_endpoints(request, found))
    subdomain = request.GET.get("endpoint", "")
    endpoint = next((endpoint for endpoint in fitting if endpoint.subdomain == subdomain), None)
    endpoint = endpoint or (fitting[0] if fitting else _sample_endpoint(found))
    context = {
        "tool": found,
        "tools": TOOLS,
        "endpoints": fitting,
        "endpoint": endpoint,
        "is_sample": not fitting,
        "snippet": snippet(found, endpoint, providers.get(endpoint.provider)),
        "intro": f"strake/docs/tools/{found.slug}.html",
    }
    return render(request, "strake/docs/tool.html", context)


@require_safe
def errors(request: HttpRequest) -> HttpResponse:
    """Every value of `x-strake-error`, each with an anchor of the same name."""
    found = sorted((error.status, error.code, error.message) for error in error_classes())
    listed = [(status, code, message, HELP.get(code, "")) for status, code, message in found]
    return render(request, "strake/docs/errors.html", {"errors": listed})


@require_safe
def browsers(request: HttpRequest) -> HttpResponse:
    """How web pages call an endpoint."""
    return render(request, "strake/docs/browsers.html", {"openai": _BROWSER_EXAMPLE})


@login_required
@require_safe
def ui(request: HttpRequest) -> HttpResponse:
    """All components on one page, for people who write pages."""
    if not (isinstance(request.user, User) and request.user.is_staff):
        raise PermissionDenied
    sample = _sample_endpoint(TOOLS[0])
    example = TokenForm({"requests_per_minute": "0"}, auto_id="ui_%s")
    context = {
        "form": [example[name] for name in ("label", "expires", "requests_per_minute", "allowed_paths")],
        "snippets": snippets_for(sample, providers.get(sample.provider)),
        "sample": sample,
        "now": timezone.now(),
        **_example_traffic(),
    }
    return render(request, "strake/docs/ui.html", context)


def _example_traffic() -> dict[str, object]:
    """A day of requests with all outcomes, for the chart on the page of components."""
    period = PERIODS["24h"]
    total = Step(timezone.now())
    steps = []
    for hour, start in enumerate(period.starts(timezone.now())):
        step = Step(start)
        for status_class, count in ((2, 20 + 7 * hour % 40), (4, hour % 5), (5, hour % 3)):
            histogram = [0] * BUCKETS
            histogram[4 + hour % 4] = count
            step.add(status_class, count, histogram)
            total.add(status_class, count, histogram)
        steps.append(step)
    return {"steps": steps, "total": total, "refused": 14, "chart": draw(steps), "period": period}


def _fitting_endpoints(request: HttpRequest, tool: Tool) -> Iterator[Endpoint]:
    """The reader's endpoints that work with the tool."""
    if not request.user.is_authenticated:
        return
    known = {provider.slug: provider for provider in providers.available()}
    for endpoint in Endpoint.objects.visible_to(actor_of(request)).order_by("-created_at")[:MAX_ENDPOINTS]:
        provider = known.get(endpoint.provider)
        if provider is not None and any(dialect in tool.parts for dialect in dialects_of(provider)):
            yield endpoint


def _sample_endpoint(tool: Tool) -> Endpoint:
    """An unsaved endpoint of a provider that works with the tool."""
    dialect = next(iter(tool.parts))
    return Endpoint(id=uuid.UUID(int=0), subdomain=SAMPLE_SUBDOMAIN, label="Example", provider=str(dialect))
