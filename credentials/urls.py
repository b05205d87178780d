from __future__ import annotations

from django.urls import path

from credentials.dashboard.views import connect, endpoints, keys, tokens

app_name = "credentials"
urlpatterns = [
    path("endpoints/", endpoints.endpoint_list, name="endpoints"),
    path("endpoints/connect/", connect.choose_provider, name="connect"),
    path("endpoints/connect/<slug:provider>/", connect.connect_provider, name="connect_provider"),
    path("endpoints/<slug:subdomain>/", endpoints.endpoint, name="endpoint"),
    path("endpoints/<slug:subdomain>/name/", endpoints.rename, name="rename"),
    path("endpoints/<slug:subdomain>/limits/", endpoints.limits, name="limits"),
    path("endpoints/<slug:subdomain>/pause/", endpoints.pause, name="pause"),
    path("endpoints/<slug:subdomain>/resume/", endpoints.resume, name="resume"),
    path("endpoints/<slug:subdomain>/delete/", endpoints.delete, name="delete"),
    path("endpoints/<slug:subdomain>/key/", keys.replace_key, name="replace_key"),
    path("endpoints/<slug:subdomain>/destination/", keys.change_destination, name="change_destination"),
    path("endpoints/<slug:subdomain>/tokens/", tokens.issue, name="issue_token"),
    path("endpoints/<slug:subdomain>/tokens/<slug:token_id>/rotate/", tokens.rotate, name="rotate_token"),
    path("endpoints/<slug:subdomain>/tokens/<slug:token_id>/revoke/", tokens.revoke, name="revoke_token"),
]
