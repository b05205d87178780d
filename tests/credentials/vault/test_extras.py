"""Keys with more than one place, or of a cloud: a second format binds what format 1 does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from credentials.errors import CannotOpen
from credentials.vault.envelope import FORMAT, FORMAT_WITH_EXTRAS, Binding, derived_binding, extras_of
from proxy.unsealing import open_key
from tests.support.vault import BINDING, ring, seal

KEY = "sk-test-extras-0001"
PLACES = [["header", "X-Project", "alpha"], ["query", "token", "{{secret}}"]]
EXTRAS = extras_of("static", PLACES, {})


def test_plain_key_keeps_format_one() -> None:
    assert extras_of("static", [], {}) == ""
    assert seal(KEY, BINDING, ring()).format == FORMAT


def test_extras_are_bound() -> None:
    bound = replace(BINDING, extras=EXTRAS)
    sealed = seal(KEY, bound, ring())
    assert sealed.format == FORMAT_WITH_EXTRAS
    assert open_key(sealed, bound, ring()) == KEY.encode()


@pytest.mark.parametrize(
    "extras",
    [
        "",
        extras_of("static", PLACES[:1], {}),
        extras_of("static", PLACES[::-1], {}),
        extras_of("azure_entra", PLACES, {}),
        extras_of("static", PLACES, {"tenant": "x"}),
        extras_of("static", [["header", "X-Project", "beta"], PLACES[1]], {}),
    ],
)
def test_other_extras_do_not_open(extras: str) -> None:
    sealed = seal(KEY, replace(BINDING, extras=EXTRAS), ring())
    with pytest.raises(CannotOpen):
        open_key(sealed, replace(BINDING, extras=extras), ring())
    with pytest.raises(CannotOpen):
        open_key(replace(sealed, format=FORMAT), replace(BINDING, extras=extras), ring())


def test_plain_key_does_not_open_with_extras() -> None:
    sealed = seal(KEY, BINDING, ring())
    for format in (FORMAT, FORMAT_WITH_EXTRAS, 3, 0):
        with pytest.raises(CannotOpen):
            open_key(replace(sealed, format=format), replace(BINDING, extras=EXTRAS), ring())


@pytest.mark.parametrize("source", [BINDING, replace(BINDING, extras=EXTRAS)])
def test_derived_token_is_bound_to_its_key(source: Binding) -> None:
    derived = derived_binding(source, b"i" * 12)
    sealed = seal("ya29.token", derived, ring())
    assert open_key(sealed, derived, ring()) == b"ya29.token"
    for other in (
        source,
        derived_binding(source, b"j" * 12),
        derived_binding(replace(source, extras=extras_of("azure_entra", [], {"tenant": "x"})), b"i" * 12),
        derived_binding(replace(source, destination_url="https://attacker.example"), b"i" * 12),
    ):
        with pytest.raises(CannotOpen):
            open_key(sealed, other, ring())
