"""Read-only admin pages for operators. They show nothing of a sealed key, not even its ciphertext."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from accounts.admin_site import ReadOnly
from credentials.models import BearerToken, Credential, Endpoint
from credentials.vault.models import MasterKeyCheck


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
    list_display = ("endpoint", "destination_url", "header_name", "master_key", "sealed_at")
    list_filter = ("sealed_key__master_key_id",)
    list_select_related = ("endpoint",)
    search_fields = ("endpoint__subdomain", "destination_url")
    ordering = ("-sealed_at",)
    fields = (
        "id",
        "endpoint",
        "destination_url",
        "header_name",
        "header_template",
        "master_key",
        "sealed_at",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        # Prefetched and not joined: a join would load the columns that the web half's database role may not read.
        return super().get_queryset(request).prefetch_related("sealed_key")

    @admin.display(empty_value="no sealed key")
    def master_key(self, credential: Credential) -> str | None:
        return credential.sealed_key.master_key_id if hasattr(credential, "sealed_key") else None


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
        "allow_minting",
        "allowed_origins",
    )


@admin.register(MasterKeyCheck)
class MasterKeyCheckAdmin(ReadOnly):
    list_display = ("key_id", "created_at", "retired_at")
    fields = ("key_id", "created_at", "retired_at")
