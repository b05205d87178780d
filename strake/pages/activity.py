"""Activity: every request of a person, filtered, on pages and as CSV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from django import forms
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, QueryDict, StreamingHttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.actors import Actor
from accounts.audit import actor_of
from accounts.csv_export import csv_line
from credentials.models import BearerToken, Endpoint
from strake.pages import error_help
from strake.pages.request_lines import ANY_ERROR, Filters, Line, all_lines, newest_lines, position
from strake.pages.traffic import endpoint_or_404, is_part

PER_PAGE = 50
MAX_CHOICES = 200
# New columns go to the end, so that scripts which count them keep working.
CSV_COLUMNS = (
    "at", "endpoint", "subdomain", "token", "token_id", "status", "error", "reason", "count", "phase", "first_byte_ms",
    "total_ms",
)  # fmt: skip


class FilterForm(forms.Form):
    """The filters of Activity. A token can be chosen once an endpoint is."""

    endpoint = forms.CharField(required=False)
    token = forms.ChoiceField(required=False)
    outcome = forms.ChoiceField(
        required=False,
        choices=[("", "All"), ("good", "Answered"), ("refused", "Refused (4xx)"), ("failed", "Failed (5xx)")],
    )
    error = forms.ChoiceField(
        label="Reason",
        required=False,
        choices=[("", "All"), (ANY_ERROR, "Any by Strake"), *error_help.reasons()],
    )
    status = forms.IntegerField(
        required=False,
        min_value=100,
        max_value=599,
        widget=forms.TextInput(attrs={"inputmode": "numeric", "maxlength": "3", "placeholder": "429", "size": "4"}),
        error_messages=dict.fromkeys(("invalid", "min_value", "max_value"), "Enter a status code, such as 429."),
    )
    since = forms.DateField(label="From", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(label="To", required=False, widget=forms.DateInput(attrs={"type": "date"}))

    def __init__(self, data: QueryDict, *, endpoints: QuerySet[Endpoint], chosen: Endpoint | None) -> None:
        super().__init__(data)
        own = {row.subdomain: f"{row.label} ({row.subdomain})" for row in endpoints.order_by("label")[:MAX_CHOICES]}
        if chosen is not None:
            own.setdefault(chosen.subdomain, f"{chosen.label} ({chosen.subdomain})")
        widget = forms.Select(choices=[("", "All"), *own.items()])
        self.fields["endpoint"] = forms.CharField(required=False, widget=widget)
        if chosen is None:
            del self.fields["token"]
        else:
            tokens = BearerToken.objects.filter(endpoint=chosen).order_by("label", "-created_at")[:MAX_CHOICES]
            choices = [("", "All"), *((token.pk, f"{token.label} ({token.preview})") for token in tokens)]
            self.fields["token"] = forms.ChoiceField(required=False, choices=choices)

    def filters(self) -> Filters:
        """The filters that are set and valid. Call `is_valid` first."""
        found = self.cleaned_data
        return Filters(
            outcome=found.get("outcome", ""),
            status=found.get("status"),
            error=found.get("error", ""),
            token_id=found.get("token", ""),
            since=_start(found.get("since")),
            until=_start(found.get("until"), days=1),
        )


@dataclass(frozen=True, slots=True)
class _Choice:
    form: FilterForm
    endpoints: QuerySet[Endpoint] | Endpoint
    filters: Filters
    is_filtered: bool


def _chosen(request: HttpRequest, actor: Actor) -> _Choice:
    """What the filters in the URL choose. Invalid ones are reported by the form and ignored."""
    subdomain = request.GET.get("endpoint", "")
    endpoint = endpoint_or_404(actor, subdomain) if subdomain else None
    own = Endpoint.objects.visible_to(actor)
    form = FilterForm(request.GET, endpoints=own, chosen=endpoint)
    form.is_valid()
    filters = form.filters()
    return _Choice(
        form,
        own if endpoint is None else endpoint,
        filters,
        is_filtered=endpoint is not None or filters != Filters(),
    )


@login_required
@require_safe
def activity(request: HttpRequest) -> HttpResponse:
    """All requests of this person, newest first. Those that Strake refused are one line a minute.

    Pages continue from a point in time and not from a row number, so that late pages cost no more than the first.
    """
    choice = _chosen(request, actor_of(request))
    after = position(request.GET.get("before", ""))
    lines = newest_lines(choice.endpoints, PER_PAGE + 1, filters=choice.filters, after=after)
    context = {
        "form": choice.form,
        "lines": lines[:PER_PAGE],
        "all_endpoints": True,
        "older": lines[PER_PAGE - 1].position if len(lines) > PER_PAGE else "",
        "newest": after is None,
        "is_filtered": choice.is_filtered,
        "retention_days": settings.STRAKE_RETENTION_DAYS,
    }
    template = "strake/requests.html" if is_part(request) else "strake/activity.html"
    return render(request, template, context, status=400 if choice.form.errors else 200)


@login_required
@require_safe
def activity_csv(request: HttpRequest) -> StreamingHttpResponse:
    """Every request that matches the filters, on all pages."""
    choice = _chosen(request, actor_of(request))
    response = StreamingHttpResponse(
        _csv_lines(all_lines(choice.endpoints, choice.filters)), content_type="text/csv; charset=utf-8"
    )
    response.headers["Content-Disposition"] = 'attachment; filename="strake-activity.csv"'
    return response


def _csv_lines(lines: Iterator[Line]) -> Iterator[str]:
    yield csv_line(CSV_COLUMNS)
    for line in lines:
        yield csv_line(
            (
                line.at.astimezone(UTC).isoformat(),
                line.endpoint.label,
                line.endpoint.subdomain,
                line.token,
                line.token_id,
                str(line.status),
                line.error,
                error_help.reason(line.error) if line.error else "",
                str(line.count),
                line.phase,
                "" if line.first_byte_ms is None else str(line.first_byte_ms),
                "" if line.latency_ms is None else str(line.latency_ms),
            )
        )


def _start(day: date | None, days: int = 0) -> datetime | None:
    """The first moment of a day, or of one some days later, in the time zone of the reader."""
    if day is None or not date(1971, 1, 1) < day < date(9000, 1, 1):
        return None
    return datetime.combine(day + timedelta(days=days), time.min, timezone.get_current_timezone())
