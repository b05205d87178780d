from __future__ import annotations

from django.urls import path

from accounts import views

app_name = "accounts"
urlpatterns = [
    path("signin/", views.sign_in, name="sign_in"),
    path("signin/sent/", views.link_sent, name="link_sent"),
    path("signin/again/", views.sign_in_again, name="sign_in_again"),
    path("signin/link/<str:token>/", views.open_link, name="open_link"),
    path("signin/confirm/", views.confirm, name="confirm"),
    path("signout/", views.sign_out, name="sign_out"),
    path("settings/", views.settings_page, name="settings"),
]
