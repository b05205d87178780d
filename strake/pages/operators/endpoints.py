"""Every endpoint, for staff, and the limit of its concurrent requests. Nothing here reads a sealed column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from accounts.audit import staff_of
from accounts.sessions.decorators import staff_required
from accounts.shortcuts import see_other
from credentials import services
from credentials.dashboard.forms import LimitsForm
from credentials.dashboard.views.common import not_found_is_404, posted, render_dialog
from credentials.models import Endpoint
from credentials.vault import wrapper
from proxy.request_log.stats import last_day, total_last_day
from strake.pages.operators.common import Listing


@dataclass(frozen=True, slots=True)
class Row:
    """An endpoint in a list, and its requests of the last 24 hours."""

    endpoint: Endpoint
    requests: int


@staff_required
@require_safe
def endpoint_list(request: HttpRequest) -> HttpResponse:
    known = wrapper.known_ids()
    # Not joined: a database would join every endpoint before it takes the first few.
    endpoints = Endpoint.objects.prefetch_related("owner", "credential__sealed_key")
    context = _listing(known).read(request, endpoints)
    context |= {
        "rows": rows_of(list(context["page"])),
        "max_streams": settings.STRAKE_MAX_STREAMS,
        "vault_is_unavailable": known is None,
    }
    return render(request, "strake/operators/endpoints.html", context)


@staff_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def limits(request: HttpRequest, subdomain: str) -> HttpResponse:
    """Limit the concurrent requests of anybody's endpoint."""
    actor = staff_of(request)
    endpoint = services.get_endpoint(actor=actor, subdomain=subdomain)
    form = LimitsForm(posted(request), initial={"max_streams": endpoint.max_streams})
    if form.is_valid():
        limit = form.cleaned_data["max_streams"]
        services.limit_endpoint(actor=actor, subdomain=subdomain, max_streams=limit)
        shown = "no limit of its own" if limit is None else f"a limit of {limit:,}"
        messages.success(request, f'"{endpoint.label}" has {shown}.')
        return see_other(f"{reverse('operators:endpoints')}?{urlencode({'q': subdomain})}")
    context = {"endpoint": endpoint, "form": form}
    return render_dialog(request, "strake/operators/limits.html", context, status=400 if form.errors else 200)


def rows_of(endpoints: Sequence[Endpoint]) -> list[Row]:
    requests = last_day(endpoints)
    return [Row(endpoint, requests.get(endpoint.pk, 0)) for endpoint in endpoints]


def _listing(known: Sequence[str] | None) -> Listing:
    """The list. `known` are the ids of the master keys that the vault has, or None if it can't be reached."""
    keyless = Q(credential__sealed_key=None)
    if known is not None:
        keyless |= ~Q(credential__sealed_key__master_key_id__in=known)
    return Listing(
        name="Endpoints",
        fields=("label", "subdomain", "provider", "owner__email"),
        states={
            "active": Q(paused_at=None, owner__suspended_at=None),
            "paused": Q(paused_at__isnull=False),
            "suspended": Q(owner__suspended_at__isnull=False),
            "keyless": keyless,
            "limited": Q(max_streams__isnull=False),
        },
        orders={
            "created": ("-created_at", "subdomain"),
            "label": ("label", "subdomain"),
            "owner": ("owner__email", "label", "subdomain"),
            "requests": (total_last_day().desc(), "subdomain"),
        },
    )
