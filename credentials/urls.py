from __future__ import annotations

from django.urls import path

from credentials.dashboard.views import connect, endpoints, keys, tokens
from credentials.webhooks import views as webhooks

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
    path("settings/notices/", webhooks.choose, name="choose_notices"),
    path("settings/notices/test/", webhooks.send_test, name="test_notice"),
    path("settings/webhook/", webhooks.set_webhook, name="webhook"),
    path("settings/webhook/rotate/", webhooks.rotate_webhook, name="rotate_webhook"),
    path("settings/webhook/resume/", webhooks.resume_webhook, name="resume_webhook"),
    path("settings/webhook/remove/", webhooks.remove_webhook, name="remove_webhook"),
]
