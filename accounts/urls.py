from __future__ import annotations

from django.urls import path

from accounts import device_views, views
from accounts.notices.views import unsubscribe
from accounts.sign_in import views as sign_in

app_name = "accounts"
urlpatterns = [
    path("signin/", sign_in.sign_in, name="sign_in"),
    path("signin/sent/", sign_in.link_sent, name="link_sent"),
    path("signin/again/", sign_in.sign_in_again, name="sign_in_again"),
    path("signin/link/<str:token>/", sign_in.open_link, name="open_link"),
    path("signin/confirm/", sign_in.confirm, name="confirm"),
    path("signout/", sign_in.sign_out, name="sign_out"),
    path("device/", device_views.device, name="device"),
    path("settings/", views.settings_page, name="settings"),
    path("settings/sessions/others/end/", views.end_other_sessions, name="end_other_sessions"),
    path("settings/sessions/<slug:session_id>/end/", views.end_session, name="end_session"),
    path("settings/delete/", views.delete_account, name="delete_account"),
    path("notices/unsubscribe/<str:token>/", unsubscribe, name="unsubscribe"),
    path("access-tokens/", views.access_token_list, name="access_tokens"),
    path("access-tokens/new/", views.create_access_token, name="new_access_token"),
    path("access-tokens/<slug:token_id>/revoke/", views.revoke_access_token, name="revoke_access_token"),
    path("audit/", views.audit_page, name="audit"),
    path("audit/checkpoint", views.audit_checkpoint, name="audit_checkpoint"),
    path("audit.csv", views.audit_csv, name="audit_csv"),
]
