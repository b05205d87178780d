"""The list of endpoints, the page of one, and the actions on an endpoint as a whole."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Count, F, Max, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.audit import actor_of
from accounts.errors import ConfirmationMismatch
from accounts.sessions.decorators import recent_sign_in_required
from accounts.shortcuts import see_other
from credentials import cloud_tokens, providers, services
from credentials.dashboard import panels
from credentials.dashboard.forms import DeleteForm, LabelForm, LimitsForm
from credentials.dashboard.panels import Place
from credentials.dashboard.views.common import not_found_is_404, page_of, posted, render_dialog
from credentials.models import Endpoint
from credentials.querysets import EndpointQuerySet, live_tokens
from credentials.vault import heartbeats, wrapper

# What the list can be sorted by, in the order that is useful first. The others follow in the opposite order.
SORTS = {
    "label": ("label", "subdomain"),
    "provider": ("provider", "label"),
    "status": ("-paused_at", "label"),
    "tokens": ("-live_tokens", "label"),
    "used": ("-last_used_at", "-created_at"),
    "created": ("-created_at", "subdomain"),
}
STALE_DAYS = 30


@login_required
@require_safe
def endpoint_list(request: HttpRequest) -> HttpResponse:
    """The endpoints of this person: filtered, sorted, one page at a time."""
    query, state = request.GET.get("q", "").strip()[:100], request.GET.get("state", "")
    own = Endpoint.objects.visible_to(actor_of(request))
    found, sort = _sorted(_filtered(own, query, state), request.GET.get("sort", ""))
    page = page_of(found, request)
    endpoints = list(page)
    figures = [column.figures(endpoints) for column in panels.columns]
    context = {
        "page": page,
        "columns": panels.columns,
        "rows": [(endpoint, [column[index] for column in figures]) for index, endpoint in enumerate(endpoints)],
        "query": query,
        "state": state,
        "states": [("", "All"), ("active", "Active"), ("paused", "Paused"), ("stale", f"Unused for {STALE_DAYS} days")],
        "sort": sort,
        "is_filtered": bool(query or state),
        "stale_before": _stale_before(),
        "vault_is_unavailable": wrapper.known_ids() is None,
    }
    return render(request, "credentials/endpoints.html", context)


@login_required
@require_safe
@not_found_is_404
def endpoint(request: HttpRequest, subdomain: str) -> HttpResponse:
    """One endpoint with its tokens."""
    found = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    tokens = found.tokens.order_by("revoked_at", "-created_at")
    show_ended = request.GET.get("tokens") == "all"
    live = tokens.filter(live_tokens())
    renewal = found.credential.renewal()
    context = {
        "endpoint": found,
        "provider": providers.get(found.provider),
        "tokens": page_of(tokens if show_ended else live, request),
        "ended": tokens.exclude(live_tokens()).count(),
        "show_ended": show_ended,
        "renewal": renewal,
        "renewal_advice": cloud_tokens.REASONS.get(renewal.failure, "") if renewal is not None else "",
        "open_now": heartbeats.in_flight_of(found.pk),
        "vault_is_unavailable": wrapper.known_ids() is None,
        "below_facts": panels.render(Place.BELOW_ENDPOINT_FACTS, request, found),
        "below_tokens": panels.render(Place.BELOW_ENDPOINT_TOKENS, request, found),
    }
    return render(request, "credentials/endpoint.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def rename(request: HttpRequest, subdomain: str) -> HttpResponse:
    found = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    form = LabelForm(posted(request), initial={"label": found.label})
    if form.is_valid():
        services.rename(actor=actor_of(request), subdomain=subdomain, label=form.cleaned_data["label"])
        messages.success(request, "The endpoint has its new name.")
        return see_other("credentials:endpoint", subdomain)
    context = {"endpoint": found, "form": form}
    return render_dialog(request, "credentials/rename.html", context, status=400 if form.errors else 200)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def limits(request: HttpRequest, subdomain: str) -> HttpResponse:
    found = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    form = LimitsForm(posted(request), initial={"max_streams": found.max_streams})
    if form.is_valid():
        limit = form.cleaned_data["max_streams"]
        services.limit_endpoint(actor=actor_of(request), subdomain=subdomain, max_streams=limit)
        if limit is None:
            messages.success(request, "The limit of the endpoint is removed.")
        else:
            plural = "" if limit == 1 else "s"
            messages.success(request, f"The endpoint is limited to {limit:,} request{plural} at a time.")
        return see_other("credentials:endpoint", subdomain)
    context = {"endpoint": found, "form": form}
    return render_dialog(request, "credentials/limits.html", context, status=400 if form.errors else 200)


@login_required
@require_POST
@not_found_is_404
def pause(request: HttpRequest, subdomain: str) -> HttpResponse:
    services.pause(actor=actor_of(request), subdomain=subdomain)
    return see_other("credentials:endpoint", subdomain)


@login_required
@require_POST
@not_found_is_404
def resume(request: HttpRequest, subdomain: str) -> HttpResponse:
    services.resume(actor=actor_of(request), subdomain=subdomain)
    messages.success(request, "Resumed. Requests are forwarded again.")
    return see_other("credentials:endpoint", subdomain)


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def delete(request: HttpRequest, subdomain: str) -> HttpResponse:
    found = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    form = DeleteForm(posted(request))
    if form.is_valid():
        try:
            services.delete_endpoint(
                actor=actor_of(request), subdomain=subdomain, confirmation=form.cleaned_data["confirmation"]
            )
        except ConfirmationMismatch as error:
            form.add_error("confirmation", str(error))
        else:
            messages.success(request, f"{found.label} is deleted, together with its sealed key and its tokens.")
            return redirect("credentials:endpoints")
    context = {"endpoint": found, "form": form, "provider": providers.get(found.provider)}
    return render_dialog(request, "credentials/delete.html", context, status=400 if form.errors else 200)


def _filtered(endpoints: EndpointQuerySet[Endpoint], query: str, state: str) -> EndpointQuerySet[Endpoint]:
    if query:
        endpoints = endpoints.filter(
            Q(label__icontains=query) | Q(subdomain__icontains=query) | Q(provider__icontains=query)
        )
    if state in {"active", "paused"}:
        endpoints = endpoints.filter(paused_at__isnull=state == "active")
    endpoints = endpoints.with_credential().annotate(
        last_used_at=Max("tokens__last_used_at"), live_tokens=Count("tokens", filter=live_tokens("tokens__"))
    )
    if state == "stale":
        unused = Q(last_used_at=None) | Q(last_used_at__lt=_stale_before())
        endpoints = endpoints.filter(unused, created_at__lt=_stale_before())
    return endpoints


def _stale_before() -> datetime:
    return timezone.now() - timedelta(days=STALE_DAYS)


def _sorted(endpoints: EndpointQuerySet[Endpoint], wanted: str) -> tuple[EndpointQuerySet[Endpoint], str]:
    """The endpoints in the order of the URL, and its name. A minus in front of it turns the order around."""
    key = wanted.removeprefix("-")
    columns = {column.key: column for column in panels.columns}
    if key in columns:
        endpoints = endpoints.annotate(number=columns[key].number())
        names: tuple[str, ...] = ("-number", "label")
    elif key in SORTS:
        names = SORTS[key]
    else:
        wanted, names = "created", SORTS["created"]
    order = [F(name.removeprefix("-")).desc(nulls_last=True) if name[0] == "-" else F(name).asc() for name in names]
    found = endpoints.order_by(*order, "pk")
    return (found.reverse() if wanted.startswith("-") else found), wanted
