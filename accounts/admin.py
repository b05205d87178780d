"""Read-only admin pages of users, access tokens and audit events. Operators make changes with commands."""

from __future__ import annotations

from django.contrib import admin

from accounts import audit_log
from accounts.admin_site import ReadOnly
from accounts.models import AccessToken, AuditEvent, User


@admin.register(User)
class UserAdmin(ReadOnly):
    list_display = ("email", "is_staff", "suspended_at", "created_at")
    list_filter = ("is_staff",)
    search_fields = ("email",)
    ordering = ("-created_at",)
    fields = ("id", "email", "is_staff", "suspended_at", "created_at")


@admin.register(AccessToken)
class AccessTokenAdmin(ReadOnly):
    list_display = ("label", "user", "preview", "created_at", "last_used_at", "expires_at", "revoked_at")
    list_select_related = ("user",)
    search_fields = ("label", "user__email", "preview")
    ordering = ("-created_at",)
    fields = (
        "id",
        "user",
        "label",
        "preview",
        "scopes",
        "allowed_networks",
        "created_at",
        "last_used_at",
        "expires_at",
        "revoked_at",
    )


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnly):
    list_display = ("at", "action", "subject_label", "account", "actor", "ip", "via", "changes")
    list_select_related = ("account", "actor")
    search_fields = ("action", "subject_id", "subject_label", "account__email", "ip", "via")
    ordering = ("-at",)
    fields = ("at", "action", "subject_type", "subject_id", "subject_label", "account", "actor", "ip", "via", "changes")

    @admin.display(description="what changed")
    def changes(self, event: AuditEvent) -> str:
        return audit_log.changes(event)
