"""People, their tokens and what they did, for operators to look at. Nothing is changed here: commands do that."""

from __future__ import annotations

from django.contrib import admin

from accounts.models import AccessToken, AuditEvent, User
from accounts.operators import ReadOnly


@admin.register(User)
class UserAdmin(ReadOnly):
    list_display = ("email", "is_staff", "created_at")
    list_filter = ("is_staff",)
    search_fields = ("email",)
    ordering = ("-created_at",)
    fields = ("id", "email", "is_staff", "created_at")


@admin.register(AccessToken)
class AccessTokenAdmin(ReadOnly):
    list_display = ("label", "user", "preview", "created_at", "last_used_at", "expires_at", "revoked_at")
    list_select_related = ("user",)
    search_fields = ("label", "user__email", "preview")
    ordering = ("-created_at",)
    fields = ("id", "user", "label", "preview", "created_at", "last_used_at", "expires_at", "revoked_at")


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnly):
    list_display = ("at", "action", "subject_label", "account", "actor", "ip")
    list_select_related = ("account", "actor")
    search_fields = ("action", "subject_id", "subject_label", "account__email", "ip")
    ordering = ("-at",)
    fields = ("at", "action", "subject_type", "subject_id", "subject_label", "account", "actor", "ip")
