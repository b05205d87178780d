"""A browser without pictures: it keeps cookies, also those that are for https only, and submits forms as they are."""

from __future__ import annotations

import re
from typing import Any, Self
from urllib.parse import urlsplit

import httpx


class Browser:
    """Signs in and opens pages of a running Strake at `url`, whose configured origin is `origin`."""

    def __init__(self, url: str, origin: str) -> None:
        host = urlsplit(origin).netloc
        self._client = httpx.Client(base_url=url, headers={"Host": host, "Origin": origin}, timeout=60)
        self.cookies: dict[str, str] = {}
        self.headers: dict[str, str] = {}  # sent with every request

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def request(self, method: str, path: str, **fields: Any) -> httpx.Response:
        self._client.cookies.clear()
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = self.headers | ({"Cookie": cookies} if cookies else {})
        response = self._client.request(method, path, headers=headers, **fields)
        for line in response.headers.get_list("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        return response

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def submit(self, path: str, data: dict[str, str], *, at: str = "") -> httpx.Response:
        """Submit the form of the page `at`, by default of the same path. Raises `AssertionError` without a form."""
        page = self.get(at or path).text
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
        assert "csrfmiddlewaretoken" in hidden, f"{at or path} has no form"
        return self.request("POST", path, data=hidden | data)

    def sign_in(self, link: str) -> None:
        """Open a sign-in link and confirm."""
        opened = self.get(urlsplit(link).path)
        assert opened.status_code == 303, opened.status_code
        confirmed = self.submit("/signin/confirm/", {})
        assert confirmed.status_code == 303, confirmed.status_code
