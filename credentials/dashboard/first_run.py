"""The first-run checklist: what a new person, and a new operator, still have to do."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.db.models import Count, Max
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_POST

from accounts.audit import actor_of
from accounts.shortcuts import see_other
from credentials.dashboard import panels
from credentials.dashboard.panels import Step
from credentials.models import BearerToken

COOKIE = settings.STRAKE_COOKIE.format("first-run")  # what a browser has dismissed is not worth a table
COOKIE_SECONDS = 365 * 24 * 3600


def steps(request: HttpRequest) -> list[Step]:
    """The steps, or none if all are done or the list was dismissed in this browser."""
    if COOKIE in request.COOKIES:
        return []
    user = actor_of(request).user
    found = BearerToken.objects.filter(endpoint__owner=user).aggregate(
        tokens=Count("pk"), endpoints=Count("endpoint", distinct=True), used=Max("last_used_at")
    )
    listed = [
        Step("Connect a provider", found["endpoints"] > 0),
        Step("Send a request with your token", found["used"] is not None),
        Step("Create a second token, so that each tool has its own", found["tokens"] > found["endpoints"]),
    ]
    if user.is_staff and panels.facts.operator_steps is not None:
        listed += panels.facts.operator_steps()
    return [] if all(step.is_done for step in listed) else listed


@login_required
@require_POST
def dismiss(request: HttpRequest) -> HttpResponse:
    """Hide the checklist in this browser."""
    response = see_other("credentials:endpoints")
    response.set_cookie(
        COOKIE,
        "dismissed",
        max_age=COOKIE_SECONDS,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )
    return response
