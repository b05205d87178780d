"""Static files through all middleware, and the compression of pages."""

from __future__ import annotations

import gzip
import re
from http import HTTPStatus

import pytest
from django.templatetags.static import static
from django.test import AsyncClient, Client
from pytest_django import Settings

from accounts.models import User
from tests.support import factories
from tests.support.populate import populate

GZIP = {"Accept-Encoding": "gzip"}


async def test_async_file_response_is_not_streaming(async_client: AsyncClient) -> None:
    response = await async_client.get("/static/strake/css/strake.css")
    assert response.status_code == HTTPStatus.OK
    assert response.headers["Content-Type"].startswith("text/css")
    assert not response.streaming
    assert b":root" in response.content


def test_unchanged_file_returns_304(client: Client) -> None:
    first = client.get("/static/strake/js/strake.js")
    again = client.get("/static/strake/js/strake.js", headers={"If-Modified-Since": first.headers["Last-Modified"]})
    assert (again.status_code, again.content) == (HTTPStatus.NOT_MODIFIED, b"")


@pytest.mark.django_db  # the page says whose account is there
def test_hashed_urls_are_immutable(client: Client) -> None:
    url = static("strake/css/strake.css")
    assert url != "/static/strake/css/strake.css"
    assert f'href="{url}"' in client.get("/signin/").content.decode()
    response = client.get(url)
    assert response.status_code == HTTPStatus.OK
    assert "immutable" in response.headers["Cache-Control"]
    assert response.content == client.get("/static/strake/css/strake.css").content
    assert "immutable" not in client.get("/static/strake/css/strake.css").headers["Cache-Control"]
    assert client.get("/static/strake/strake.000000000000.css").status_code == HTTPStatus.NOT_FOUND


def test_files_are_compressed_if_the_client_accepts_it(client: Client) -> None:
    url = static("strake/css/strake.css")
    plain, packed = client.get(url), client.get(url, headers=GZIP)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.content) == plain.content
    assert int(packed.headers["Content-Length"]) == len(packed.content)
    assert "Content-Encoding" not in plain.headers
    assert "Accept-Encoding" in plain.headers["Vary"]


def test_page_with_a_token_is_not_compressed(client: Client, alice: User) -> None:
    made = factories.make_endpoint(owner=alice)
    client.force_login(alice)
    url = f"/endpoints/{made.endpoint.subdomain}/tokens/{made.token.pk}/rotate/"
    page = client.post(url, headers=GZIP)
    assert page.status_code == HTTPStatus.CREATED
    assert "Content-Encoding" not in page.headers


def test_largest_pages_stay_under_50_kb(client: Client, alice: User) -> None:
    client.force_login(alice)
    first = populate(alice, endpoints=60, tokens_first=50, records=800)[0]
    files = ("strake/css/strake.css", "strake/js/strake.js", "strake/icons.svg", "strake/favicon.svg")
    loaded = sum(len(client.get(static(name), headers=GZIP).content) for name in files)
    for path in ("/endpoints/", f"/endpoints/{first.subdomain}/?tokens=all&period=30d", "/activity/", "/docs/errors/"):
        page = client.get(path, headers=GZIP)
        assert page.headers["Content-Encoding"] == "gzip"
        assert len(page.content) + loaded < 50_000, path


def test_every_stylesheet_and_module_is_joined_once(client: Client, settings: Settings) -> None:
    folder = settings.ROOT / "strake/static/strake"
    styles = client.get(static("strake/css/strake.css")).content.decode()
    script = client.get(static("strake/js/strake.js")).content.decode()
    assert "@import" not in styles
    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)
    for path in folder.glob("css/**/*.css"):
        part = path.read_text()
        assert path.name == "strake.css" or styles.count(part) == 1, path
    for path in folder.glob("js/*.js"):
        last_line = path.read_text().splitlines()[-2]
        assert last_line in script, path


def test_no_style_is_dead(settings: Settings) -> None:
    """Every class in a style sheet is in a template, in Python or in a script."""
    users = [*settings.ROOT.glob("templates/**/*.html"), *settings.ROOT.glob("strake/static/strake/js/*.js")]
    users += [
        path for app in ("accounts", "credentials", "proxy", "strake") for path in settings.ROOT.glob(f"{app}/**/*.py")
    ]
    words = set(re.findall(r"[\w-]+", "\n".join(path.read_text() for path in users)))
    for path in settings.ROOT.glob("strake/static/strake/css/**/*.css"):
        selectors = re.sub(r"/\*.*?\*/|\{[^{}]*\}|@[^{;]*", "", path.read_text(), flags=re.DOTALL)
        assert not set(re.findall(r"\.(-?[a-zA-Z][\w-]*)", selectors)) - words, path
