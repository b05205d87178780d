"""The documentation pages and the error pages."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from django.test import Client

from accounts.models import User
from credentials.dashboard.snippets import TOOLS
from proxy.http.error_response import error_classes
from strake.pages.error_help import HELP
from tests.support import factories
from tests.support.pages import element, text


def test_every_error_code_has_an_anchor_and_help(client: Client) -> None:
    codes = {error.code: error for error in error_classes()}
    assert HELP.keys() == codes.keys()
    page = client.get("/docs/errors/")
    for code, error in codes.items():
        assert f'id="{code}"' in page.content.decode()
        assert " ".join(error.message.split()) in text(page)
        assert HELP[code] in text(page)


@pytest.mark.parametrize("slug", [tool.slug for tool in TOOLS])
def test_every_tool_has_a_public_page(client: Client, slug: str) -> None:
    page = client.get(f"/docs/{slug}/")
    assert page.status_code == HTTPStatus.OK
    assert "/p/abc123def456" in page.content.decode()


def test_unknown_tool_returns_404(client: Client) -> None:
    assert client.get("/docs/abacus/").status_code == HTTPStatus.NOT_FOUND


def test_tool_pages_use_the_readers_own_endpoint(client: Client, alice: User, bob: User) -> None:
    mine = factories.make_endpoint(owner=alice, provider="openai").endpoint
    other = factories.make_endpoint(owner=alice, provider="groq").endpoint
    factories.make_endpoint(owner=alice, provider="anthropic")
    his = factories.make_endpoint(owner=bob, provider="openai").endpoint
    client.force_login(alice)
    assert other.url in element(client.get("/docs/openai-python/"), "openai-python")
    assert mine.url in element(client.get(f"/docs/openai-python/?endpoint={mine.subdomain}"), "openai-python")
    page = client.get(f"/docs/openai-python/?endpoint={his.subdomain}")
    assert his.subdomain not in page.content.decode()
    assert "None of your endpoints fits" in text(client.get("/docs/gemini-cli/"))


def test_components_page_is_for_staff(client: Client, alice: User) -> None:
    client.force_login(alice)
    assert client.get("/docs/ui/").status_code == HTTPStatus.FORBIDDEN
    staff = Client()
    staff.force_login(factories.make_user(is_staff=True))
    assert staff.get("/docs/ui/").status_code == HTTPStatus.OK


def test_error_pages_explain_404_and_csrf_failure(client: Client, alice: User) -> None:
    missing = client.get("/nothing/here/")
    assert (missing.status_code, "There is nothing here" in text(missing)) == (HTTPStatus.NOT_FOUND, True)
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    stale = strict.post("/signout/")
    assert (stale.status_code, "This form has expired" in text(stale)) == (HTTPStatus.FORBIDDEN, True)
