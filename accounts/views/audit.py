"""The audit trail as a page and as CSV."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from accounts import trail
from accounts.forms import TrailForm
from accounts.models import AuditEvent
from accounts.views.common import signed_in

PER_PAGE = 50


@login_required
@require_safe
def audit_trail(request: HttpRequest) -> HttpResponse:
    """One's own trail; for staff also everybody's. Wrong filters are named and ignored."""
    form, events = _chosen(request)
    page = Paginator(events, PER_PAGE).get_page(request.GET.get("page"))
    rows = [(event, trail.what(event), trail.who(event)) for event in page]
    context = {"form": form, "page": page, "rows": rows, "is_filtered": bool(form.chosen())}
    return render(request, "accounts/audit.html", context, status=400 if form.errors else 200)


@login_required
@require_safe
def audit_csv(request: HttpRequest) -> StreamingHttpResponse:
    """The same events, all of them."""
    _, events = _chosen(request)
    response = StreamingHttpResponse(trail.csv_lines(events), content_type="text/csv; charset=utf-8")
    response.headers["Content-Disposition"] = 'attachment; filename="strake-audit.csv"'
    return response


def _chosen(request: HttpRequest) -> tuple[TrailForm, QuerySet[AuditEvent]]:
    viewer = signed_in(request)
    form = TrailForm(request.GET, viewer=viewer)
    form.is_valid()
    chosen = form.chosen()
    everybody = chosen.pop("everybody", False)
    return form, trail.narrow(trail.events_for(viewer, everybody=bool(everybody)), **chosen)
