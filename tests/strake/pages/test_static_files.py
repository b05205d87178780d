"""Static files through all middleware, and the compression of pages."""

from __future__ import annotations

import gzip
from http import HTTPStatus

import pytest
from django.templatetags.static import static
from django.test import AsyncClient, Client

from accounts.models import User
from tests.support import factories
from tests.support.populate import populate

GZIP = {"Accept-Encoding": "gzip"}


async def test_async_file_response_is_not_streaming(async_client: AsyncClient) -> None:
    response = await async_client.get("/static/strake/strake.css")
    assert response.status_code == HTTPStatus.OK
    assert response.headers["Content-Type"].startswith("text/css")
    assert not response.streaming
    assert b":root" in response.content


def test_unchanged_file_returns_304(client: Client) -> None:
    first = client.get("/static/strake/strake.js")
    again = client.get("/static/strake/strake.js", headers={"If-Modified-Since": first.headers["Last-Modified"]})
    assert (again.status_code, again.content) == (HTTPStatus.NOT_MODIFIED, b"")


@pytest.mark.django_db  # the page says whose account is there
def test_hashed_urls_are_immutable(client: Client) -> None:
    url = static("strake/strake.css")
    assert url != "/static/strake/strake.css"
    assert f'href="{url}"' in client.get("/signin/").content.decode()
    response = client.get(url)
    assert response.status_code == HTTPStatus.OK
    assert "immutable" in response.headers["Cache-Control"]
    assert response.content == client.get("/static/strake/strake.css").content
    assert "immutable" not in client.get("/static/strake/strake.css").headers["Cache-Control"]
    assert client.get("/static/strake/strake.000000000000.css").status_code == HTTPStatus.NOT_FOUND


def test_files_are_compressed_if_the_client_accepts_it(client: Client) -> None:
    url = static("strake/strake.css")
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
    files = ("strake/strake.css", "strake/strake.js", "strake/icons.svg", "strake/favicon.svg")
    loaded = sum(len(client.get(static(name), headers=GZIP).content) for name in files)
    for path in ("/endpoints/", f"/endpoints/{first.subdomain}/?tokens=all&period=30d", "/activity/", "/docs/errors/"):
        page = client.get(path, headers=GZIP)
        assert page.headers["Content-Encoding"] == "gzip"
        assert len(page.content) + loaded < 50_000, path
