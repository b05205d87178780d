"""Sign-in policy: redirects, checked against how browsers resolve a Location header."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accounts.sign_in.policy import safe_next_path

BASE = "https://strake.example.org/signin/confirm/"


@pytest.mark.parametrize("path", ["/", "/endpoints/", "/endpoints/abc123/?page=2&x=%2F%2Fevil", "/settings/#sessions"])
def test_safe_path_is_unchanged(path: str) -> None:
    assert safe_next_path(path) == path


@pytest.mark.parametrize("path", ["", "settings/", "/./x", "/a/../b", "/a//b", "/\\x", "/é", "/\x7f", "/" + "a" * 512])
def test_unsafe_path_is_dropped(path: str) -> None:
    assert safe_next_path(path) == ""


@given(st.text(alphabet="/\\.:@?#%25fe evilhttps\t\n\r\x00a", max_size=24).map(lambda text: "/" + text))
@example("//evil.example")
@example("/\\/evil.example")
@example("/..//evil.example")
@example("///evil.example")
def test_returned_path_stays_on_this_origin(text: str) -> None:
    path = safe_next_path(text)
    if path:
        # Browsers drop tabs and line breaks, and treat a backslash as a slash (WHATWG URL).
        target = urljoin(BASE, path.replace("\\", "/").replace("\t", "").replace("\n", "").replace("\r", ""))
        assert urlsplit(target).netloc == "strake.example.org"
        assert not urlsplit(target).path.startswith("//")
