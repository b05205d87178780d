"""The first-run checklist, default names, and the marks of providers."""

from __future__ import annotations

import re
from http import HTTPStatus

from django.conf import settings
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from credentials import providers
from credentials.dashboard import first_run
from credentials.labels import default_label
from credentials.models import BearerToken
from tests.support import factories
from tests.support.pages import text


def done(client: Client) -> list[bool]:
    """Whether each step of the list is done. Empty without a list."""
    page = client.get("/endpoints/").content.decode()
    found = re.search(r'aria-labelledby="first-run".*?</section>', page, re.DOTALL)
    return [] if found is None else ["(done)" in step for step in re.findall(r"<li.*?</li>", found[0], re.DOTALL)]


def test_checklist_follows_what_was_done_and_goes(signed_in: Client, alice: User) -> None:
    assert done(signed_in) == [False, False, False]
    made = factories.make_endpoint(owner=alice)
    assert done(signed_in) == [True, False, False]
    BearerToken.objects.update(last_used_at=timezone.now())
    assert done(signed_in) == [True, True, False]
    factories.make_token(endpoint=made.endpoint)
    assert done(signed_in) == []


def test_operator_gets_more_steps(signed_in: Client, alice: User, settings: Settings) -> None:
    alice.is_staff = True
    alice.save()
    settings.STRAKE_SIGNUP_IS_CHOSEN = False
    assert done(signed_in) == [False] * 5
    settings.STRAKE_SIGNUP_IS_CHOSEN = True
    assert done(signed_in) == [False] * 4 + [True]


def test_checklist_can_be_dismissed(signed_in: Client) -> None:
    sent = signed_in.post("/endpoints/first-run/dismiss/")
    assert sent.status_code == HTTPStatus.SEE_OTHER
    assert sent.cookies[first_run.COOKIE]["httponly"]
    assert done(signed_in) == []
    assert signed_in.get("/endpoints/first-run/dismiss/").status_code == HTTPStatus.METHOD_NOT_ALLOWED


def test_unnamed_endpoints_get_different_names(alice: User, bob: User) -> None:
    demo, custom = providers.demo(), providers.get("custom")
    assert default_label(alice, demo, demo.destination_url) == "Demo"
    factories.make_endpoint(owner=alice, provider="demo", label="Demo")
    assert default_label(alice, demo, demo.destination_url) == "Demo 2"
    factories.make_endpoint(owner=alice, provider="demo", label="Demo 2")
    assert default_label(alice, demo, demo.destination_url) == "Demo 3"
    assert default_label(bob, demo, demo.destination_url) == "Demo"
    assert default_label(alice, custom, "https://api.example.com/v1") == "api.example.com"


def test_every_provider_has_its_own_mark() -> None:
    sprite = (settings.ROOT / "strake/static/strake/marks.svg").read_text()
    marks = dict(re.findall(r'<symbol id="([\w-]+)"[^>]*>(.*?)</symbol>', sprite))
    assert set(marks) == {*providers.PROVIDERS, providers.DEMO_SLUG}
    assert len(set(marks.values())) == len(marks)
    assert "http" not in sprite.replace("http://www.w3.org/2000/svg", "")


def test_demo_is_a_banner_above_the_providers(signed_in: Client) -> None:
    page = text(signed_in.get("/endpoints/connect/"))
    assert "No API key yet? Try the built-in demo. Any text works as the key." in page
    assert page.index("built-in demo") < page.index("Model makers")
