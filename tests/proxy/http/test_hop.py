"""The hop marker: whom it is sent to, and how a loop is seen."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from pytest_django import Settings

from credentials import providers
from proxy.errors import Loop
from proxy.http import hop

OTHER = b"0123456789abcdef"


@pytest.fixture(autouse=True)
def _new_id() -> None:
    hop.own_id.cache_clear()


def test_own_marker_is_a_loop() -> None:
    headers = [(b"host", b"a")]
    hop.mark(headers, hop.passed(headers))
    assert headers == [(b"host", b"a"), (b"x-strake-hop", hop.own_id())]
    with pytest.raises(Loop):
        hop.passed(headers)


@pytest.mark.parametrize("separator", [b",", b", ", b" ", b"\t,, "])
def test_markers_of_others_are_passed_on(separator: bytes) -> None:
    """Or two installations could send a request back and forth for ever."""
    headers = [(b"x-strake-hop", OTHER), (b"x-strake-hop", OTHER[::-1] + separator + OTHER)]
    ids = hop.passed(headers)
    assert ids == [OTHER, OTHER[::-1], OTHER]
    outgoing: list[tuple[bytes, bytes]] = []
    hop.mark(outgoing, ids)
    assert outgoing == [(b"x-strake-hop", b", ".join([*ids, hop.own_id()]))]
    with pytest.raises(Loop):
        hop.passed(outgoing)


def test_only_ids_are_passed_on() -> None:
    assert hop.passed([(b"x-strake-hop", b"Bearer sk-secret, \r\nx: y"), (b"x-other", OTHER)]) == []


def test_too_many_hops_are_a_loop() -> None:
    with pytest.raises(Loop):
        hop.passed([(b"x-strake-hop", b",".join([OTHER] * hop.MAX_HOPS))])


def test_id_is_that_of_the_installation(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def own_id(base: str, host: str, *, embedded: bool) -> bytes:
        settings.STRAKE_BASE_URL, settings.STRAKE_BASE, settings.STRAKE_LOOPBACK = base, urlsplit(base), embedded
        monkeypatch.setattr("socket.gethostname", lambda: host)
        hop.own_id.cache_clear()
        return hop.own_id()

    deployed = own_id("https://strake.example.org", "a", embedded=False)
    assert own_id("https://strake.example.org", "b", embedded=False) == deployed
    assert own_id("https://strake.example.com", "a", embedded=False) != deployed
    assert b"strake" not in deployed
    local = own_id("http://localhost:8000", "a", embedded=True)
    assert own_id("http://localhost:8000", "b", embedded=True) != local


@pytest.mark.parametrize("provider", [*providers.PROVIDERS.values(), "demo", "unknown"])
def test_fixed_destinations_get_no_marker(provider: providers.Provider | str) -> None:
    slug = provider if isinstance(provider, str) else provider.slug
    expected = provider == "demo" if isinstance(provider, str) else not provider.needs_destination
    assert providers.has_fixed_destination(slug) is expected
