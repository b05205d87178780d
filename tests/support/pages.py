"""Parse pages in tests: their text, their elements and the values of their inputs."""

from __future__ import annotations

import html
import re
from typing import Protocol

# The header in which the proxy half sends the client's address. Django's test client replaces the proxy half.
FROM_LOOPBACK = {"X-Strake-Client": "127.0.0.1"}


class Page(Protocol):
    """A response of the test client. The stubs of Django have no public type for it."""

    content: bytes
    status_code: int


def text(response: Page) -> str:
    """The text of the page without its tags, on one line."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", response.content.decode(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def element(response: Page, id: str) -> str:
    """The text of the element with this id. Raises `AssertionError` if there is none."""
    found = re.search(rf'<(\w+)[^>]*\bid="{id}"[^>]*>(.*?)</\1>', response.content.decode(), re.DOTALL)
    assert found, f"the page has no element with the id {id}"
    return html.unescape(found[2])


def value(response: Page, name: str) -> str:
    """The value of the input called `name`, or "" if it has none. Raises `AssertionError` if there is no such input."""
    found = re.search(rf'<input[^>]*\bname="{name}"[^>]*>', response.content.decode())
    assert found, f"the page has no input called {name}"
    attribute = re.search(r'\bvalue="([^"]*)"', found[0])
    return html.unescape(attribute[1]) if attribute else ""
