from __future__ import annotations

from django.urls import path

from proxy import dashboard

app_name = "proxy"
urlpatterns = [
    path("activity/", dashboard.activity, name="activity"),
    path("endpoints/<slug:subdomain>/requests/", dashboard.recent, name="recent"),
    path("endpoints/<slug:subdomain>/traffic/", dashboard.traffic, name="traffic"),
    path("endpoints/<slug:subdomain>/test/", dashboard.try_token, name="try_token"),
]
