"""The documentation inside the product: how to point each tool at an endpoint, and what each error code means."""

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
from credentials import providers, services
from credentials.forms import TokenForm
from credentials.models import Endpoint
from credentials.snippets import TOOLS, Tool, dialects_of, snippet, snippets_for
from proxy.charts import draw
from proxy.errors import ProxyError
from proxy.traffic import CLASSES, PERIODS, Step
from strake.advice import ADVICE

SAMPLE_SUBDOMAIN = "abc123def456"
MOST_ENDPOINTS = 200


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    context = {"tools": TOOLS, "endpoint": request.GET.get("endpoint", "")[:12]}
    return render(request, "docs/index.html", context)


@require_safe
def tool(request: HttpRequest, slug: str) -> HttpResponse:
    """One tool, filled in with the reader's endpoint, or with a sample where there is none that fits."""
    found = next((tool for tool in TOOLS if tool.slug == slug), None)
    if found is None:
        raise Http404("There is no page about this tool.")
    fitting = list(_fitting(request, found))
    wanted = request.GET.get("endpoint", "")
    endpoint = next((endpoint for endpoint in fitting if endpoint.subdomain == wanted), None)
    endpoint = endpoint or (fitting[0] if fitting else _sample(found))
    context = {
        "tool": found,
        "tools": TOOLS,
        "endpoints": fitting,
        "endpoint": endpoint,
        "is_sample": not fitting,
        "snippet": snippet(found, endpoint, providers.get(endpoint.provider)),
        "intro": f"docs/tools/{found.slug}.html",
    }
    return render(request, "docs/tool.html", context)


@require_safe
def errors(request: HttpRequest) -> HttpResponse:
    """Every `x-strake-error`, each with an anchor of its name."""
    found = sorted((error.status, error.code, error.message) for error in error_classes())
    listed = [(status, code, message, ADVICE.get(code, "")) for status, code, message in found]
    return render(request, "docs/errors.html", {"errors": listed})


@login_required
@require_safe
def ui(request: HttpRequest) -> HttpResponse:
    """Every component of the pages on one, for those who write pages."""
    if not (isinstance(request.user, User) and request.user.is_staff):
        raise PermissionDenied
    sample = _sample(TOOLS[0])
    example = TokenForm({"requests_per_minute": "0"}, auto_id="ui_%s")
    context = {
        "form": [example[name] for name in ("label", "expires", "requests_per_minute", "allowed_paths")],
        "snippets": snippets_for(sample, providers.get(sample.provider)),
        "sample": sample,
        "now": timezone.now(),
        **_example_traffic(),
    }
    return render(request, "docs/ui.html", context)


def _example_traffic() -> dict[str, object]:
    """A day with a bit of everything, for the chart on the page of components."""
    period = PERIODS["24h"]
    total = Step(timezone.now())
    steps = []
    for hour, start in enumerate(period.starts(timezone.now())):
        step = Step(start)
        for status_class, count in ((2, 20 + 7 * hour % 40), (4, hour % 5), (5, hour % 3)):
            histogram = [0] * CLASSES
            histogram[4 + hour % 4] = count
            step.add(status_class, count, histogram)
            total.add(status_class, count, histogram)
        steps.append(step)
    return {"steps": steps, "total": total, "chart": draw(steps), "period": period}


def error_classes(base: type[ProxyError] = ProxyError) -> Iterator[type[ProxyError]]:
    """Every error of the proxy that has a code of its own."""
    if "code" in vars(base):
        yield base
    for error in base.__subclasses__():
        yield from error_classes(error)


def _fitting(request: HttpRequest, tool: Tool) -> Iterator[Endpoint]:
    """The reader's endpoints whose provider speaks the tool's language."""
    if not request.user.is_authenticated:
        return
    known = {provider.slug: provider for provider in providers.available()}
    for endpoint in services.endpoints_for(actor_of(request))[:MOST_ENDPOINTS]:
        provider = known.get(endpoint.provider)
        if provider is not None and any(dialect in tool.parts for dialect in dialects_of(provider)):
            yield endpoint


def _sample(tool: Tool) -> Endpoint:
    """An endpoint that does not exist, of a provider that the tool fits best."""
    dialect = next(iter(tool.parts))
    return Endpoint(id=uuid.UUID(int=0), subdomain=SAMPLE_SUBDOMAIN, label="Example", provider=str(dialect))
