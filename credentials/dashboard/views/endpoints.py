"""The list of endpoints, the page of one, and the actions on an endpoint as a whole."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Count, F, Max, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.audit import actor_of
from accounts.errors import ConfirmationMismatch
from accounts.sessions.decorators import recent_sign_in_required
from accounts.shortcuts import see_other
from credentials import cloud_tokens, providers, services
from credentials.dashboard import first_run, panels, rejected
from credentials.dashboard.forms import ConfirmationForm, LabelForm, LimitsForm
from credentials.dashboard.panels import Place
from credentials.dashboard.token_list import token_list
from credentials.dashboard.views.common import not_found_is_404, page_of, render_dialog
from credentials.dashboard.views.tokens import snippet_context
from credentials.models import BearerToken, Endpoint
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
        "first_run": first_run.steps(request),
        "vault_is_unavailable": wrapper.known_ids() is None,
    }
    return render(request, "credentials/endpoints.html", context)


@login_required
@require_safe
@not_found_is_404
def endpoint(request: HttpRequest, subdomain: str) -> HttpResponse:
    """One endpoint with its tokens."""
    found = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    renewal = found.credential.renewal()
    context = {
        "endpoint": found,
        "tokens": token_list(request, found),
        **snippet_context(found),
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
    form = LabelForm(rejected.posted(request), initial={"label": found.label})
    if request.method == "POST" and form.is_valid():
        services.rename(actor=actor_of(request), subdomain=subdomain, label=form.cleaned_data["label"])
        messages.success(request, f"Renamed to “{form.cleaned_data['label']}”.")
        return see_other("credentials:endpoint", subdomain)
    if (shown := rejected.redirect(request, form)) is not None:
        return shown
    context = {"endpoint": found, "form": form}
    return render_dialog(request, "credentials/rename.html", context, status=400 if form.errors else 200)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def limits(request: HttpRequest, subdomain: str) -> HttpResponse:
    found = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    form = LimitsForm(rejected.posted(request), initial={"max_streams": found.max_streams})
    if request.method == "POST" and form.is_valid():
        limit = form.cleaned_data["max_streams"]
        services.limit_endpoint(actor=actor_of(request), subdomain=subdomain, max_streams=limit)
        if limit is None:
            messages.success(request, "Removed the limit. The server default applies.")
        else:
            plural = "" if limit == 1 else "s"
            messages.success(request, f"Limited to {limit:,} concurrent request{plural}.")
        return see_other("credentials:endpoint", subdomain)
    if (shown := rejected.redirect(request, form)) is not None:
        return shown
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
    messages.success(request, "Resumed. Strake forwards requests again.")
    return see_other("credentials:endpoint", subdomain)


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def delete(request: HttpRequest, subdomain: str) -> HttpResponse:
    found = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    form = ConfirmationForm(rejected.posted(request))
    if request.method == "POST" and form.is_valid():
        try:
            services.delete_endpoint(
                actor=actor_of(request), subdomain=subdomain, confirmation=form.cleaned_data["confirmation"]
            )
        except ConfirmationMismatch as error:
            form.add_error("confirmation", str(error))
        else:
            messages.success(request, f"Deleted “{found.label}”, its encrypted key and its tokens.")
            return redirect("credentials:endpoints")
    if (shown := rejected.redirect(request, form)) is not None:
        return shown
    context = {"endpoint": found, "form": form, "provider": providers.get(found.provider)}
    return render_dialog(request, "credentials/delete.html", context, status=400 if form.errors else 200)


def _filtered(endpoints: EndpointQuerySet[Endpoint], query: str, state: str) -> EndpointQuerySet[Endpoint]:
    if query:
        endpoints = endpoints.filter(
            Q(label__icontains=query) | Q(subdomain__icontains=query) | Q(provider__icontains=query)
        )
    if state in {"active", "paused"}:
        endpoints = endpoints.filter(paused_at__isnull=state == "active")
    # As subqueries: with a join, a database would compute the other columns once for each token.
    tokens = BearerToken.objects.filter(endpoint=OuterRef("pk")).order_by().values("endpoint")
    endpoints = endpoints.with_credential().annotate(
        last_used_at=Subquery(tokens.annotate(last=Max("last_used_at")).values("last")),
        live_tokens=Coalesce(Subquery(tokens.annotate(live=Count("pk", filter=live_tokens())).values("live")), 0),
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
