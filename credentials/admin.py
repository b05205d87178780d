"""Endpoints and tokens for operators to look at. A sealed key is not among it, not even as ciphertext."""

from __future__ import annotations

from django.contrib import admin

from accounts.operators import ReadOnly
from credentials.models import BearerToken, Credential, Endpoint, MasterKeyCheck


@admin.register(Endpoint)
class EndpointAdmin(ReadOnly):
    list_display = ("subdomain", "label", "provider", "owner", "paused_at", "created_at")
    list_filter = ("provider",)
    list_select_related = ("owner",)
    search_fields = ("subdomain", "label", "owner__email")
    ordering = ("-created_at",)
    fields = ("id", "owner", "subdomain", "label", "provider", "paused_at", "max_streams", "created_at")


@admin.register(Credential)
class CredentialAdmin(ReadOnly):
    list_display = ("endpoint", "destination_url", "header_name", "master_key_id", "sealed_at")
    list_filter = ("master_key_id",)
    list_select_related = ("endpoint",)
    search_fields = ("endpoint__subdomain", "destination_url")
    ordering = ("-sealed_at",)
    fields = (
        "id",
        "endpoint",
        "destination_url",
        "header_name",
        "header_template",
        "format",
        "master_key_id",
        "sealed_at",
    )


@admin.register(BearerToken)
class BearerTokenAdmin(ReadOnly):
    list_display = ("preview", "label", "endpoint", "created_at", "last_used_at", "expires_at", "revoked_at")
    list_select_related = ("endpoint",)
    search_fields = ("id", "preview", "label", "endpoint__subdomain")
    ordering = ("-created_at",)
    fields = (
        "id",
        "endpoint",
        "label",
        "preview",
        "created_at",
        "last_used_at",
        "expires_at",
        "revoked_at",
        "requests_per_minute",
        "allowed_paths",
        "allowed_networks",
    )


@admin.register(MasterKeyCheck)
class MasterKeyCheckAdmin(ReadOnly):
    list_display = ("key_id", "created_at", "retired_at")
    fields = ("key_id", "created_at", "retired_at")
