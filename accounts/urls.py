from __future__ import annotations

from django.urls import path

from accounts.views import access_tokens, audit, settings, sign_in

app_name = "accounts"
urlpatterns = [
    path("signin/", sign_in.sign_in, name="sign_in"),
    path("signin/sent/", sign_in.link_sent, name="link_sent"),
    path("signin/again/", sign_in.sign_in_again, name="sign_in_again"),
    path("signin/link/<str:token>/", sign_in.open_link, name="open_link"),
    path("signin/confirm/", sign_in.confirm, name="confirm"),
    path("signout/", sign_in.sign_out, name="sign_out"),
    path("settings/", settings.settings_page, name="settings"),
    path("settings/sessions/others/end/", settings.end_other_sessions, name="end_other_sessions"),
    path("settings/sessions/<slug:session_id>/end/", settings.end_session, name="end_session"),
    path("settings/delete/", settings.delete_account, name="delete_account"),
    path("access-tokens/", access_tokens.token_list, name="access_tokens"),
    path("access-tokens/new/", access_tokens.create, name="new_access_token"),
    path("access-tokens/<slug:token_id>/revoke/", access_tokens.revoke, name="revoke_access_token"),
    path("audit/", audit.audit_trail, name="audit"),
    path("audit.csv", audit.audit_csv, name="audit_csv"),
]
