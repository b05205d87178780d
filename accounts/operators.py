"""The operators' pages under /admin/: everything to look at, nothing to change, and no password anywhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from django.urls import URLPattern, URLResolver

if TYPE_CHECKING:
    Base = admin.ModelAdmin[Model]
else:
    Base = admin.ModelAdmin


class ReadOnly(Base):
    """A list to search and single rows to read. Digests and sealed keys are left out of `fields` everywhere."""

    actions = None
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class OperatorSite(admin.AdminSite):
    """Django's admin without what does not belong here: its passwords, and the models of other packages."""

    site_header = "Strake records"
    site_title = "Strake"
    index_title = "What this Strake keeps"
    site_url = "/endpoints/"

    def register(
        self,
        model_or_iterable: type[Model] | Iterable[type[Model]],
        admin_class: type[admin.ModelAdmin[Any]] | None = None,
        **options: Any,
    ) -> None:
        """Take what is read-only, and nothing else: Django's own apps register groups that could be added."""
        if admin_class is not None and issubclass(admin_class, ReadOnly):
            super().register(model_or_iterable, admin_class, **options)

    def get_urls(self) -> list[URLPattern | URLResolver]:
        passwords = {"password_change", "password_change_done"}
        return [url for url in super().get_urls() if getattr(url, "name", None) not in passwords]
