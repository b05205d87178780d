"""The documentation pages and the error pages."""

from __future__ import annotations

import re
from http import HTTPStatus

import pytest
from django.test import Client

from accounts.models import User
from credentials.dashboard.snippets import TOOLS
from proxy.http.error_response import error_classes
from strake.pages.error_help import HELP
from strake.pages.guides import GROUPS, GUIDES, TOPICS, grouped
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


@pytest.mark.parametrize("slug", GUIDES)
def test_every_client_has_a_public_page(client: Client, slug: str) -> None:
    page = client.get(f"/docs/{slug}/")
    assert page.status_code == HTTPStatus.OK
    assert "/p/abc123def456" in page.content.decode()
    ids = re.findall(r' id="([^"]+)"', page.content.decode())
    assert len(ids) == len(set(ids))


def test_index_leads_to_every_page(client: Client) -> None:
    index = client.get("/docs/").content.decode()
    for slug in (*GUIDES, *TOPICS):
        assert f'href="/docs/{slug}/"' in index
    assert {tool.slug for tool in TOOLS} <= GUIDES.keys()
    assert sum(len(guides) for _, guides in grouped()) == len(GUIDES)
    assert {guide.group for guide in GUIDES.values()} == set(GROUPS)


@pytest.mark.parametrize("slug", TOPICS)
def test_every_topic_has_a_public_page(client: Client, slug: str) -> None:
    page = client.get(f"/docs/{slug}/")
    assert page.status_code == HTTPStatus.OK
    assert 'class="code"' in page.content.decode() or slug == "base-url"


def test_base_url_page_lists_providers_of_the_table(client: Client) -> None:
    page = text(client.get("/docs/base-url/"))
    for name, base_url in (("Groq", "URL/openai/v1"), ("Cohere", "URL/compatibility/v1"), ("Perplexity", "URL")):
        assert f"{name} {base_url} https://" in page
    assert "ElevenLabs" not in page


def test_unknown_page_returns_404(client: Client) -> None:
    assert client.get("/docs/abacus/").status_code == HTTPStatus.NOT_FOUND


def test_pages_use_the_readers_own_endpoint(client: Client, alice: User, bob: User) -> None:
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


def test_client_of_one_provider_fits_that_one(client: Client, alice: User) -> None:
    factories.make_endpoint(owner=alice, provider="openai")
    client.force_login(alice)
    assert "None of your endpoints fits" in text(client.get("/docs/mistral/"))
    mine = factories.make_endpoint(owner=alice, provider="mistral").endpoint
    assert mine.url in element(client.get("/docs/mistral/"), "mistral-python")


def test_page_shows_only_the_api_of_the_endpoint(client: Client, alice: User) -> None:
    factories.make_endpoint(owner=alice, provider="anthropic")
    client.force_login(alice)
    page = client.get("/docs/opencode/").content.decode()
    assert 'id="opencode-anthropic"' in page
    assert 'id="opencode-openai"' not in page


def test_components_page_is_for_staff(client: Client, alice: User) -> None:
    client.force_login(alice)
    assert client.get("/docs/ui/").status_code == HTTPStatus.FORBIDDEN
    staff = Client()
    staff.force_login(factories.make_user(is_staff=True))
    assert staff.get("/docs/ui/").status_code == HTTPStatus.OK


def test_error_pages_explain_404_and_csrf_failure(client: Client, alice: User) -> None:
    missing = client.get("/nothing/here/")
    assert (missing.status_code, "Page not found" in text(missing)) == (HTTPStatus.NOT_FOUND, True)
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    stale = strict.post("/signout/")
    assert (stale.status_code, "This page expired" in text(stale)) == (HTTPStatus.FORBIDDEN, True)
