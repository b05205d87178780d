"""Request records and counts of refusals in the admin site: the same routing metadata that owners see."""

from __future__ import annotations

from django.contrib import admin

from accounts.admin_site import ReadOnly
from proxy.models import RefusalCount, RequestRecord


@admin.register(RequestRecord)
class RequestRecordAdmin(ReadOnly):
    list_display = ("at", "endpoint", "token", "status", "error", "phase", "latency_ms", "first_byte_ms")
    list_select_related = ("endpoint", "token")
    search_fields = ("=endpoint__subdomain", "=token__id")
    ordering = ("-at",)
    fields = ("at", "endpoint", "token", "status", "error", "phase", "latency_ms", "first_byte_ms")


@admin.register(RefusalCount)
class RefusalCountAdmin(ReadOnly):
    # Not the token itself: it is "" if an endpoint's refusals in a minute are of too many tokens.
    list_display = ("last_at", "endpoint", "token_id", "code", "count")
    list_select_related = ("endpoint",)
    search_fields = ("=endpoint__subdomain", "=token__id")
    ordering = ("-minute", "-last_at")
    fields = ("minute", "last_at", "endpoint", "token_id", "code", "count")
