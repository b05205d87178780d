"""The documentation pages: how to use an endpoint from each client, topics, and the error codes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.audit import actor_of
from accounts.models import User
from accounts.notices.kinds import KINDS
from credentials import providers
from credentials.dashboard.snippets import Text, snippets_for
from credentials.dashboard.token_forms import TokenForm
from credentials.models import Endpoint
from credentials.providers import Dialect
from proxy.http.error_response import error_classes
from proxy.request_log.stats import PERIODS, Step
from strake.pages.charts import draw
from strake.pages.error_help import HELP
from strake.pages.guides import BASE_URLS, DIALECT_NAMES, GUIDES, TOPICS, Guide, Topic, compatible, grouped, topic_texts

_BROWSER_EXAMPLE = """\
const client = new OpenAI({
  baseURL: "https://strake.example.org/p/abc123def456/v1",
  apiKey: "strk_…",
  dangerouslyAllowBrowser: true,
});"""
# The token comes from standard input, so that it gets into no list of processes and no history.
_REVOKE = "curl --data-urlencode token@- {url}/api/v1/tokens/revoke"
SAMPLE_SUBDOMAIN = "abc123def456"
MAX_ENDPOINTS = 200


@dataclass(frozen=True, slots=True)
class Section:
    """The lines for one API. `heading` is empty if the page has one section."""

    heading: str
    texts: tuple[Text, ...]


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    context = {
        "groups": grouped(),
        "topics": TOPICS.values(),
        "endpoint": request.GET.get("endpoint", "")[:12],
    }
    return render(request, "strake/docs/index.html", context)


@require_safe
def tool(request: HttpRequest, slug: str) -> HttpResponse:
    """The page of one client, or of a topic."""
    if slug in GUIDES:
        return _guide(request, GUIDES[slug])
    if slug in TOPICS:
        return _topic(request, TOPICS[slug])
    raise Http404("There is no such page.")


def _topic(request: HttpRequest, topic: Topic) -> HttpResponse:
    sample = _sample("anthropic")
    context = {
        "topic": topic,
        "sample": sample,
        "clients": BASE_URLS,
        "compatible": compatible(),
        "notice_kinds": KINDS.values(),
        "revoke": _REVOKE.format(url=settings.STRAKE_BASE_URL),
        **{name.replace("-", "_"): text for name, text in topic_texts(sample).items()},
    }
    return render(request, f"strake/docs/topics/{topic.slug}.html", context)


def _guide(request: HttpRequest, guide: Guide) -> HttpResponse:
    """The lines for one client, with an endpoint of the reader filled in, or with samples if none of them fits."""
    fitting = list(_fitting_endpoints(request, guide))
    subdomain = request.GET.get("endpoint", "")
    chosen = next((one for one in fitting if one[0].subdomain == subdomain), fitting[0] if fitting else None)
    if chosen is not None:
        endpoint, dialect = chosen
        sections = [Section("", guide.texts(endpoint, providers.get(endpoint.provider), dialect))]
    else:
        examples = list(guide.examples())
        sections = [
            Section(
                DIALECT_NAMES[dialect] if len(examples) > 1 else "",
                guide.texts(_sample(provider.slug), provider, dialect),
            )
            for dialect, provider in examples
        ]
    context = {
        "guide": guide,
        "endpoints": [endpoint for endpoint, _ in fitting],
        "endpoint": chosen[0] if chosen else None,
        "sections": sections,
        "intro": f"strake/docs/tools/{guide.slug}.html",
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


def api(request: HttpRequest) -> HttpResponse:
    """The reference of the management API."""
    from credentials.api.reference import api_docs  # loads the API

    return api_docs(request)


@login_required
@require_safe
def ui(request: HttpRequest) -> HttpResponse:
    """All components on one page, for people who write pages."""
    if not (isinstance(request.user, User) and request.user.is_staff):
        raise PermissionDenied
    sample = _sample("openai")
    example = TokenForm({"requests_per_minute": "0"})
    example.auto_id = "ui_%s"
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
            latency = 120 * 2 ** (hour % 4)
            for one in (step, total):
                one.add(status_class, count, latency)
                one.latencies[latency] += count
        step.stopped = hour % 4
        total.stopped += step.stopped
        steps.append(step)
    return {"steps": steps, "total": total, "chart": draw(steps), "period": period}


def _fitting_endpoints(request: HttpRequest, guide: Guide) -> Iterator[tuple[Endpoint, Dialect]]:
    """The reader's endpoints that work with the client, each with the API that it calls."""
    if not request.user.is_authenticated:
        return
    known = {provider.slug: provider for provider in providers.available()}
    for endpoint in Endpoint.objects.visible_to(actor_of(request)).order_by("-created_at")[:MAX_ENDPOINTS]:
        provider = known.get(endpoint.provider)
        dialect = guide.dialect_for(provider) if provider is not None else None
        if dialect is not None:
            yield endpoint, dialect


def _sample(provider: str) -> Endpoint:
    """An unsaved endpoint."""
    return Endpoint(id=uuid.UUID(int=0), subdomain=SAMPLE_SUBDOMAIN, label="Example", provider=provider)
