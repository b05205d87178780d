"""Routes of pages. strake/urls.py adds the API."""

from __future__ import annotations

from django.urls import include, path

from strake.pages import activity, docs, home, traffic

urlpatterns = [
    path("", home.front_page, name="front_page"),
    path("healthz", home.healthz, name="healthz"),
    path("security/", home.security, name="security"),
    path("privacy/", home.privacy, name="privacy"),
    path("docs/", docs.index, name="docs"),
    path("docs/browsers/", docs.browsers, name="docs_browsers"),
    path("docs/errors/", docs.errors, name="docs_errors"),
    path("docs/ui/", docs.ui, name="docs_ui"),
    path("docs/<slug:slug>/", docs.tool, name="docs_tool"),
    path("", include("accounts.urls")),
    path("", include("credentials.urls")),
    path("activity/", activity.activity, name="activity"),
    path("activity/requests.csv", activity.activity_csv, name="activity_csv"),
    path("theme/", home.theme, name="theme"),
    path("endpoints/<slug:subdomain>/requests/", traffic.recent, name="recent_requests"),
    path("endpoints/<slug:subdomain>/traffic/", traffic.traffic, name="endpoint_traffic"),
    path("endpoints/<slug:subdomain>/test/", traffic.test_connection, name="connection_test"),
    path("api/v1/docs/", docs.api, name="api_docs"),
    path("admin/", include("strake.pages.operators.urls")),
]

handler400 = "strake.pages.error_pages.bad_request"
handler403 = "strake.pages.error_pages.permission_denied"
handler404 = "strake.pages.error_pages.not_found"
handler500 = "strake.pages.error_pages.server_error"
