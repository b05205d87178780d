from __future__ import annotations

from django.urls import path

from strake.pages import health
from strake.pages.operators import endpoints, people

app_name = "operators"
urlpatterns = [
    path("", health.home, name="home"),
    path("health/", health.page, name="health"),
    path("people/", people.people_list, name="people"),
    path("people/<uuid:person_id>/", people.person, name="person"),
    path("people/<uuid:person_id>/suspend/", people.suspend, name="suspend"),
    path("people/<uuid:person_id>/resume/", people.resume, name="resume"),
    path("endpoints/", endpoints.endpoint_list, name="endpoints"),
    path("endpoints/<slug:subdomain>/limits/", endpoints.limits, name="limits"),
]
