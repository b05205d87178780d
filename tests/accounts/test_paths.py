"""Where sign-in may lead: checked against how browsers read a Location header."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accounts.paths import own_path

BASE = "https://strake.example.org/signin/confirm/"


@pytest.mark.parametrize("path", ["/", "/endpoints/", "/endpoints/abc123/?page=2&x=%2F%2Fevil", "/settings/#sessions"])
def test_own_paths_pass_unchanged(path: str) -> None:
    assert own_path(path) == path


@given(st.text(alphabet="/\\.:@?#%25fe evilhttps\t\n\r\x00a", max_size=24).map(lambda text: "/" + text))
@example("//evil.example")
@example("/\\/evil.example")
@example("/..//evil.example")
@example("///evil.example")
def test_what_passes_stays_on_this_origin(text: str) -> None:
    path = own_path(text)
    if path:
        # Browsers drop tabs and line breaks and read a backslash as a slash (WHATWG URL).
        seen = urljoin(BASE, path.replace("\\", "/").replace("\t", "").replace("\n", "").replace("\r", ""))
        assert urlsplit(seen).netloc == "strake.example.org"
        assert not urlsplit(seen).path.startswith("//")
