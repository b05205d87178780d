"""Request records and counts of refusals in the admin site: the same routing metadata that owners see."""

from __future__ import annotations

from datetime import timedelta

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from accounts.admin_site import ReadOnly
from proxy.models import RefusalCount, RequestRecord


@admin.register(RequestRecord)
class RequestRecordAdmin(ReadOnly):
    list_display = ("at", "endpoint", "token", "status", "error", "phase", "latency_ms", "first_byte_ms")
    list_select_related = ("endpoint", "token")
    list_display_links = None  # a page of one record would have nothing more, and there is no index by id
    search_fields = ("=endpoint__subdomain", "=token__id")
    search_help_text = "Without a subdomain or a token's id, the list has the last 24 hours."
    ordering = ("-at",)
    fields = ("at", "endpoint", "token", "status", "error", "phase", "latency_ms", "first_byte_ms")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Model], search_term: str
    ) -> tuple[QuerySet[Model], bool]:
        """There is no index by time alone, so the whole list would be sorted."""
        if not search_term:
            queryset = queryset.filter(at__gte=timezone.now() - timedelta(days=1))
        return super().get_search_results(request, queryset, search_term)


@admin.register(RefusalCount)
class RefusalCountAdmin(ReadOnly):
    # Not the token itself: it is "" if an endpoint's refusals in a minute are of too many tokens.
    list_display = ("last_at", "endpoint", "token_id", "code", "count")
    list_select_related = ("endpoint",)
    search_fields = ("=endpoint__subdomain", "=token__id")
    ordering = ("-minute", "-last_at")
    fields = ("minute", "last_at", "endpoint", "token_id", "code", "count")
