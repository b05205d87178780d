"""Reading pages in tests: what a person would see, and the forms they would send."""

from __future__ import annotations

import html
import re

from django.http import HttpResponse


def text(response: HttpResponse) -> str:
    """The page without its tags, in one line."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", response.content.decode(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def element(response: HttpResponse, id: str) -> str:
    """The text of the element with this id. Raises `AssertionError` where there is none."""
    found = re.search(rf'<(\w+)[^>]*\bid="{id}"[^>]*>(.*?)</\1>', response.content.decode(), re.DOTALL)
    assert found, f"the page has no element with the id {id}"
    return html.unescape(found[2])


def value(response: HttpResponse, name: str) -> str:
    """The value of the input called `name`, empty where it has none."""
    found = re.search(rf'<input[^>]*\bname="{name}"[^>]*>', response.content.decode())
    assert found, f"the page has no input called {name}"
    given = re.search(r'\bvalue="([^"]*)"', found[0])
    return html.unescape(given[1]) if given else ""
