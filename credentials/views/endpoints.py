"""The list of endpoints, one endpoint, and what can be done with it as a whole."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Page, Paginator
from django.db.models import Count, Max, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.audit import actor_of
from accounts.decorators import recent_sign_in_required
from credentials import keyring, providers, services
from credentials.errors import ConfirmationMismatch
from credentials.forms import DeleteForm, LabelForm, LimitsForm
from credentials.models import BearerToken, Endpoint
from credentials.views.common import ask, missing_is_404, see_other

PER_PAGE = 25
SORTS = {
    "label": ("label", "subdomain"),
    "provider": ("provider", "label"),
    "used": ("-last_used_at", "-created_at"),
    "created": ("-created_at", "subdomain"),
}


@login_required
@require_safe
def endpoint_list(request: HttpRequest) -> HttpResponse:
    """All endpoints of this person, filtered, sorted, a page at a time."""
    mine = services.endpoints_for(actor_of(request))
    query, state = request.GET.get("q", "").strip()[:100], request.GET.get("state", "")
    sort = request.GET.get("sort", "created")
    found = _filtered(mine, query, state).order_by(*SORTS.get(sort, SORTS["created"]))
    context = {
        "page": _page(found, request.GET.get("page")),
        "query": query,
        "state": state,
        "sort": sort if sort in SORTS else "created",
        "is_filtered": bool(query or state),
        "master_key_ids": keyring.current().ids,
    }
    return render(request, "credentials/endpoints.html", context)


@login_required
@require_safe
@missing_is_404
def endpoint(request: HttpRequest, subdomain: str) -> HttpResponse:
    """One endpoint with its tokens."""
    found = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    tokens = found.tokens.order_by("revoked_at", "-created_at")
    show_ended = request.GET.get("tokens") == "all"
    live = _live(tokens)
    context = {
        "endpoint": found,
        "provider": providers.get(found.provider),
        "tokens": _page(tokens if show_ended else live, request.GET.get("page")),
        "ended": tokens.count() - live.count(),
        "show_ended": show_ended,
        "master_key_ids": keyring.current().ids,
    }
    return render(request, "credentials/endpoint.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@missing_is_404
def rename(request: HttpRequest, subdomain: str) -> HttpResponse:
    found = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    form = LabelForm(request.POST or None, initial={"label": found.label})
    if request.method == "POST" and form.is_valid():
        services.rename(actor=actor_of(request), subdomain=subdomain, label=form.cleaned_data["label"])
        messages.success(request, "The endpoint has its new name.")
        return see_other(_url(subdomain))
    context = {"endpoint": found, "form": form}
    return ask(request, "credentials/rename.html", context, status=400 if form.errors else 200)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@missing_is_404
def limits(request: HttpRequest, subdomain: str) -> HttpResponse:
    found = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    form = LimitsForm(request.POST or None, initial={"max_streams": found.max_streams})
    if request.method == "POST" and form.is_valid():
        most = form.cleaned_data["max_streams"]
        services.limit_endpoint(actor=actor_of(request), subdomain=subdomain, max_streams=most)
        messages.success(
            request,
            "The endpoint has no limit of its own any more."
            if most is None
            else f"The endpoint is limited to {most:,} request{'' if most == 1 else 's'} at a time.",
        )
        return see_other(_url(subdomain))
    context = {"endpoint": found, "form": form}
    return ask(request, "credentials/limits.html", context, status=400 if form.errors else 200)


@login_required
@require_POST
@missing_is_404
def pause(request: HttpRequest, subdomain: str) -> HttpResponse:
    services.pause(actor=actor_of(request), subdomain=subdomain)
    return see_other(_url(subdomain))


@login_required
@require_POST
@missing_is_404
def resume(request: HttpRequest, subdomain: str) -> HttpResponse:
    services.resume(actor=actor_of(request), subdomain=subdomain)
    messages.success(request, "Resumed. Requests are forwarded again.")
    return see_other(_url(subdomain))


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
@missing_is_404
def delete(request: HttpRequest, subdomain: str) -> HttpResponse:
    found = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    form = DeleteForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            services.delete_endpoint(
                actor=actor_of(request), subdomain=subdomain, confirmation=form.cleaned_data["confirmation"]
            )
        except ConfirmationMismatch as error:
            form.add_error("confirmation", str(error))
        else:
            messages.success(request, f"{found.label} is deleted, and with it its sealed key and its tokens.")
            return redirect("credentials:endpoints")
    context = {"endpoint": found, "form": form, "provider": providers.get(found.provider)}
    return ask(request, "credentials/delete.html", context, status=400 if form.errors else 200)


def _url(subdomain: str) -> str:
    return reverse("credentials:endpoint", args=[subdomain])


def _live(tokens: QuerySet[BearerToken]) -> QuerySet[BearerToken]:
    return tokens.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()), revoked_at=None)


def _filtered(endpoints: QuerySet[Endpoint], query: str, state: str) -> QuerySet[Endpoint]:
    if query:
        endpoints = endpoints.filter(
            Q(label__icontains=query) | Q(subdomain__icontains=query) | Q(provider__icontains=query)
        )
    if state:
        endpoints = endpoints.filter(paused_at__isnull=state != "paused")
    now = timezone.now()
    live = Q(tokens__revoked_at=None) & (Q(tokens__expires_at=None) | Q(tokens__expires_at__gt=now))
    return endpoints.select_related("credential").annotate(
        last_used_at=Max("tokens__last_used_at"), live_tokens=Count("tokens", filter=live)
    )


def _page(found: QuerySet[Endpoint] | QuerySet[BearerToken], number: str | None) -> Page[Any]:
    return Paginator(found, PER_PAGE).get_page(number)
