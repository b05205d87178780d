"""Django's admin under /admin/, read-only and without passwords."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver

from accounts.audit import actor_of, record_reading

if TYPE_CHECKING:
    Base = admin.ModelAdmin[Model]
else:
    Base = admin.ModelAdmin


class ReadOnly(Base):
    """A model admin that lists, searches and shows rows. Subclasses leave digests and sealed keys out of `fields`."""

    actions = None
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False

    # Staff read other people's records here, so the audit log says who did and what they looked for.

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        self._record_reading(request, "", {name: str(value) for name, value in request.GET.items()})
        return super().changelist_view(request, extra_context)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        self._record_reading(request, object_id or "")
        return super().changeform_view(request, object_id, form_url, extra_context)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        self._record_reading(request, object_id)
        return super().history_view(request, object_id, extra_context)

    def _record_reading(self, request: HttpRequest, subject: str, filters: dict[str, str] | None = None) -> None:
        page = f"Records: {self.model._meta.verbose_name_plural}"
        record_reading(actor_of(request), page, subject=subject[:64] or "list", filters=filters)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class OperatorSite(admin.AdminSite):
    """Django's admin without its password pages, and without models that other packages register."""

    site_header = "Strake records"
    site_title = "Strake"
    index_title = "Records"
    site_url = "/endpoints/"

    def register(
        self,
        model_or_iterable: type[Model] | Iterable[type[Model]],
        admin_class: type[admin.ModelAdmin[Any]] | None = None,
        **options: Any,
    ) -> None:
        """Ignore every model admin that is not read-only: `django.contrib.auth` registers editable groups."""
        if admin_class is not None and issubclass(admin_class, ReadOnly):
            super().register(model_or_iterable, admin_class, **options)

    def get_urls(self) -> list[URLPattern | URLResolver]:
        passwords = {"password_change", "password_change_done"}
        return [url for url in super().get_urls() if getattr(url, "name", None) not in passwords]
