"""Browser and API routes. Proxy traffic (`/p/…` or the endpoint's own host) never gets here: see strake/asgi.py."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from credentials.api import api
from credentials.api_docs import api_docs
from strake import docs, health, views

urlpatterns = [
    path("", views.front_page, name="front_page"),
    path("healthz", views.healthz, name="healthz"),
    path("security/", views.security, name="security"),
    path("privacy/", views.privacy, name="privacy"),
    path("docs/", docs.index, name="docs"),
    path("docs/errors/", docs.errors, name="docs_errors"),
    path("docs/ui/", docs.ui, name="docs_ui"),
    path("docs/<slug:slug>/", docs.tool, name="docs_tool"),
    path("", include("accounts.urls")),
    path("", include("credentials.urls")),
    path("", include("proxy.urls")),
    path("api/v1/docs/", api_docs, name="api_docs"),
    path("api/v1/", api.urls),
    path("admin/login/", views.admin_sign_in, name="admin_sign_in"),
    path("admin/health/", admin.site.admin_view(health.page), name="health"),
    path("admin/", admin.site.urls),
]

handler400 = "strake.error_pages.bad_request"
handler403 = "strake.error_pages.permission_denied"
handler404 = "strake.error_pages.not_found"
handler500 = "strake.error_pages.server_error"
