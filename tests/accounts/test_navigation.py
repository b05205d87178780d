"""The main menu: who sees which link, and which link is current."""

from __future__ import annotations

import re

import pytest
from django.template import engines
from django.test import Client, RequestFactory

from accounts import navigation
from accounts.models import User
from accounts.navigation import Audience, Link, Menu
from tests.support import factories


def labels(page: str) -> list[str]:
    """The labels of the main menu, with the value of `aria-current` in brackets."""
    menu = page.partition('<ul id="menu"')[2].partition("</ul>")[0]
    links = re.findall(r'<a href="[^"]*"(?: aria-current="(\w+)")?><svg.*?</svg>([^<]+)</a>', menu)
    return [f"{label} ({current})" if current else label for current, label in links]


def test_menu_shows_the_links_of_the_audience(client: Client, alice: User) -> None:
    assert labels(client.get("/docs/").content.decode()) == ["Docs (page)", "Security", "Privacy"]
    client.force_login(alice)
    own = ["Endpoints", "Activity", "Audit", "Access tokens", "Settings", "Docs"]
    assert labels(client.get("/security/").content.decode()) == own
    staff = Client()
    staff.force_login(factories.make_user(is_staff=True))
    assert labels(staff.get("/security/").content.decode()) == [*own, "Health", "People", "All endpoints"]


def test_only_the_nearest_link_is_current(client: Client, db: None) -> None:
    client.force_login(factories.make_user(is_staff=True))
    assert "Endpoints (true)" in labels(client.get("/endpoints/connect/").content.decode())
    assert labels(client.get("/admin/people/").content.decode())[-2:] == ["People (page)", "All endpoints"]


def test_menus_sort_by_order() -> None:
    menu = Menu()
    menu.add(Link("b", "B", 2))
    menu.add(Link("c", "C", 3, audience=Audience.STAFF), Link("a", "A", 1))
    assert [link.label for link in menu.links] == ["A", "B", "C"]


def test_page_url_refuses_an_unregistered_route(rf: RequestFactory) -> None:
    template = engines["django"].from_string('{% load ui %}{% page_url "healthz" %}')
    assert "healthz" not in navigation.pages
    with pytest.raises(LookupError, match="healthz"):
        template.render({}, rf.get("/"))
