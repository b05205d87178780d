"""Static files through the whole middleware, under the asynchronous handler that serves them."""

from __future__ import annotations

from http import HTTPStatus

from django.test import AsyncClient, Client


async def test_a_file_is_served_asynchronously_without_a_warning(async_client: AsyncClient) -> None:
    response = await async_client.get("/static/strake/strake.css")
    assert response.status_code == HTTPStatus.OK
    assert response.headers["Content-Type"].startswith("text/css")
    assert not response.streaming
    assert b":root" in response.content


def test_a_file_that_did_not_change_is_not_sent_again(client: Client) -> None:
    first = client.get("/static/strake/strake.js")
    again = client.get("/static/strake/strake.js", headers={"If-Modified-Since": first.headers["Last-Modified"]})
    assert (again.status_code, again.content) == (HTTPStatus.NOT_MODIFIED, b"")
