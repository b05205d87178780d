"""People, for staff: the list, one person, and suspending and resuming them. Nothing here shows a secret."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.db.models import F, Max, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods, require_safe

from accounts import audit_log, users
from accounts.audit import staff_of
from accounts.errors import OwnAccount
from accounts.models import AccessToken, BrowserSession, User
from accounts.plain_text import validate_label
from accounts.sessions import service as sessions
from accounts.sessions.decorators import recent_sign_in_required, staff_required
from accounts.shortcuts import see_other
from credentials.dashboard.views.common import posted, render_dialog
from credentials.models import BearerToken, Endpoint
from proxy.request_log.stats import last_day
from strake.pages.operators.common import Listing, record_read
from strake.pages.operators.endpoints import rows_of

MAX_ROWS = 25  # of each table on a person's page

PEOPLE = Listing(
    name="People",
    fields=("email",),
    states={"active": Q(suspended_at=None), "suspended": Q(suspended_at__isnull=False), "staff": Q(is_staff=True)},
    orders={
        "created": ("-created_at", "pk"),
        "email": ("email",),
        "suspended": (F("suspended_at").desc(nulls_last=True), "email"),
    },
)


@dataclass(frozen=True, slots=True)
class Row:
    """A person in the list, with figures."""

    person: User
    endpoints: int
    requests: int
    last_seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a person holds of what a setting limits."""

    kind: str
    held: int
    most: int
    setting: str


class SuspendForm(forms.Form):
    reason = forms.CharField(
        label="Reason",
        required=False,
        max_length=users.MAX_REASON_LENGTH,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        help_text="For the audit log, where this person can read it too.",
        validators=[validate_label],
    )


@staff_required
@require_safe
def people_list(request: HttpRequest) -> HttpResponse:
    context = PEOPLE.read(request, User.objects.all())
    return render(request, "strake/operators/people.html", {**context, "rows": _rows(list(context["page"]))})


@staff_required
@require_safe
def person(request: HttpRequest, person_id: UUID) -> HttpResponse:
    """One person: endpoints, sessions, access tokens, and how much of the quotas they use."""
    found = _person_or_404(person_id)
    record_read(request, "Person", found.pk)
    suspension = users.last_suspension(found) if found.suspended_at else None
    endpoints = Endpoint.objects.filter(owner=found).with_credential().order_by("-created_at", "subdomain")
    access_tokens = AccessToken.objects.filter(user=found).order_by(
        F("revoked_at").desc(nulls_first=True), "-created_at"
    )
    context = {
        "person": found,
        "is_self": found == request.user,
        "suspension": suspension,
        "suspended_by": audit_log.actor_label(suspension) if suspension else "",
        "rows": rows_of(list(endpoints[:MAX_ROWS])),
        "sessions": list(sessions.list_sessions(found)[:MAX_ROWS]),
        "access_tokens": list(access_tokens[:MAX_ROWS]),
        "max_rows": MAX_ROWS,
        "quotas": _quotas(found),
    }
    return render(request, "strake/operators/person.html", context)


@staff_required
@require_http_methods(["GET", "HEAD", "POST"])
def suspend(request: HttpRequest, person_id: UUID) -> HttpResponse:
    """Take all access from a person. A recent sign-in is not required, so that nothing delays it."""
    found = _person_or_404(person_id)
    form = SuspendForm(posted(request))
    if form.is_valid():
        try:
            done = users.suspend(actor=staff_of(request), user=found, reason=form.cleaned_data["reason"])
        except OwnAccount as error:
            form.add_error(None, str(error))
        else:
            ended = f"{done.sessions} session{'' if done.sessions == 1 else 's'} ended."
            messages.success(request, f"{found.email} is suspended. {ended}" if done.is_new else "Already suspended.")
            return see_other("operators:person", found.pk)
    context = {"person": found, "form": form}
    return render_dialog(request, "strake/operators/suspend.html", context, status=400 if form.errors else 200)


@staff_required
@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
def resume(request: HttpRequest, person_id: UUID) -> HttpResponse:
    """Give a suspended person their access back."""
    found = _person_or_404(person_id)
    if request.method != "POST":
        return render_dialog(request, "strake/operators/resume.html", {"person": found})
    if users.resume(actor=staff_of(request), user=found):
        messages.success(request, f"{found.email} has access again.")
    return see_other("operators:person", found.pk)


def _person_or_404(person_id: UUID) -> User:
    found = User.objects.filter(pk=person_id).first()
    if found is None:
        raise Http404("There is no such person.")
    return found


def _rows(people: Sequence[User]) -> list[Row]:
    """The people of one page with their figures, in a query for each figure."""
    endpoints = list(Endpoint.objects.filter(owner__in=people).only("pk", "owner_id"))
    held = Counter(endpoint.owner_id for endpoint in endpoints)
    by_endpoint = last_day(endpoints)
    requests: Counter[UUID] = Counter()
    for endpoint in endpoints:
        requests[endpoint.owner_id] += by_endpoint.get(endpoint.pk, 0)
    seen: dict[UUID, Any] = dict(
        BrowserSession.objects.filter(user__in=people).values_list("user").annotate(Max("last_seen_at"))
    )
    return [Row(one, held[one.pk], requests[one.pk], seen.get(one.pk)) for one in people]


def _quotas(person: User) -> list[Quota]:
    """What `accounts.quotas` limits, as the services count it."""
    held = {
        ("Endpoints", "STRAKE_MAX_ENDPOINTS"): Endpoint.objects.filter(owner=person),
        ("Tokens that work", "STRAKE_MAX_TOKENS"): BearerToken.objects.live().filter(endpoint__owner=person),
        ("Access tokens that work", "STRAKE_MAX_ACCESS_TOKENS"): AccessToken.objects.live().filter(user=person),
    }
    return [Quota(kind, rows.count(), getattr(settings, name), name) for (kind, name), rows in held.items()]
