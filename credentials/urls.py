from __future__ import annotations

from django.urls import path

from credentials.dashboard import first_run
from credentials.dashboard.views import change_over, connect, endpoints, keys, tokens
from credentials.webhooks import views as webhooks

app_name = "credentials"
urlpatterns = [
    path("endpoints/", endpoints.endpoint_list, name="endpoints"),
    path("endpoints/connect/", connect.choose_provider, name="connect"),
    path("endpoints/connect/<slug:provider>/", connect.connect_provider, name="connect_provider"),
    path("endpoints/first-run/dismiss/", first_run.dismiss, name="dismiss_first_run"),
    path("endpoints/<slug:subdomain>/", endpoints.endpoint, name="endpoint"),
    path("endpoints/<slug:subdomain>/name/", endpoints.rename, name="rename"),
    path("endpoints/<slug:subdomain>/limits/", endpoints.limits, name="limits"),
    path("endpoints/<slug:subdomain>/pause/", endpoints.pause, name="pause"),
    path("endpoints/<slug:subdomain>/resume/", endpoints.resume, name="resume"),
    path("endpoints/<slug:subdomain>/delete/", endpoints.delete, name="delete"),
    path("endpoints/<slug:subdomain>/key/", keys.replace_key, name="replace_key"),
    path("endpoints/<slug:subdomain>/destination/", keys.change_destination, name="change_destination"),
    path("endpoints/<slug:subdomain>/tokens/", tokens.issue, name="issue_token"),
    path("endpoints/<slug:subdomain>/tokens/revoke/", tokens.revoke_selected, name="revoke_selected"),
    path("endpoints/<slug:subdomain>/tokens/revoke-all/", tokens.revoke_all, name="revoke_all"),
    path("endpoints/<slug:subdomain>/tokens/<slug:token_id>/edit/", tokens.edit, name="edit_token"),
    path("endpoints/<slug:subdomain>/tokens/<slug:token_id>/use/", tokens.use, name="use_token"),
    path("endpoints/<slug:subdomain>/tokens/<slug:token_id>/change-over/", change_over.change_over, name="change_over"),
    path("endpoints/<slug:subdomain>/tokens/<slug:token_id>/rotate/", tokens.rotate, name="rotate_token"),
    path("endpoints/<slug:subdomain>/tokens/<slug:token_id>/revoke/", tokens.revoke, name="revoke_token"),
    path("settings/notices/", webhooks.choose, name="choose_notices"),
    path("settings/notices/test/", webhooks.send_test, name="test_notice"),
    path("settings/webhook/", webhooks.set_webhook, name="webhook"),
    path("settings/webhook/rotate/", webhooks.rotate_webhook, name="rotate_webhook"),
    path("settings/webhook/resume/", webhooks.resume_webhook, name="resume_webhook"),
    path("settings/webhook/remove/", webhooks.remove_webhook, name="remove_webhook"),
]
