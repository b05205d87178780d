"""Requests for operators to look at: the same routing metadata that their owners see."""

from __future__ import annotations

from django.contrib import admin

from accounts.operators import ReadOnly
from proxy.models import RequestRecord


@admin.register(RequestRecord)
class RequestRecordAdmin(ReadOnly):
    list_display = ("at", "endpoint", "token", "status", "latency_ms", "first_byte_ms")
    list_select_related = ("endpoint", "token")
    search_fields = ("=endpoint__subdomain", "=token__id")
    ordering = ("-at",)
    fields = ("at", "endpoint", "token", "status", "latency_ms", "first_byte_ms")
