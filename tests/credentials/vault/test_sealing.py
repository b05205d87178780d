"""Clean provider keys and encrypt them."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.errors import InvalidKey
from credentials.vault import provider_key, unwrapping
from credentials.vault.provider_key import MAX_KEY_LENGTH, ProviderKey
from tests.support.vault import BINDING, ring, seal

KEY = "sk-test-0123456789"


# --- The pasted key ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pasted", [KEY, f"  {KEY}", f"{KEY}\n", f"\r\n\t{KEY}\r\n", f"\u00a0{KEY}\u3000"])
def test_surrounding_white_space_is_stripped(pasted: str) -> None:
    assert ProviderKey(pasted).reveal() == KEY


@pytest.mark.parametrize(
    ("pasted", "says"),
    [
        ("", "Paste the provider"),
        (" \n\t ", "Paste the provider"),
        ("sk-one two", "spaces or line breaks"),
        ("sk-one\ntwo", "spaces or line breaks"),
        ("sk-one\r\nx-injected: 1", "spaces or line breaks"),
        ("sk-one\ttwo", "spaces or line breaks"),
        ("sk-one\u2028two", "spaces or line breaks"),
        ("sk-one\u00a0two", "spaces or line breaks"),
        ("sk-one\x00two", "characters that no API key has"),
        ("sk-one\x7ftwo", "characters that no API key has"),
        ("sk-one\u200btwo", "characters that no API key has"),
        ("sk-\u2026two", "characters that no API key has"),
        ("sk-\u0430bc", "characters that no API key has"),
        ("\ufeffsk-one", "characters that no API key has"),
        ("sk-\ud800", "characters that no API key has"),
        ("k" * (MAX_KEY_LENGTH + 1), "longer than any API key"),
    ],
)
def test_invalid_key_is_refused_and_not_quoted(pasted: str, says: str) -> None:
    with pytest.raises(InvalidKey, match=says) as refused:
        ProviderKey(pasted)
    assert not pasted.strip() or pasted.strip() not in str(refused.value)
    assert "one" not in str(refused.value).replace("one piece", "")


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200))
def test_visible_ascii_is_accepted_unchanged(key: str) -> None:
    assert ProviderKey(key).reveal() == key


def test_longest_key_is_accepted() -> None:
    longest = "k" * MAX_KEY_LENGTH
    assert ProviderKey(longest).reveal() == longest


@given(st.text(max_size=60))
def test_accepted_keys_are_visible_ascii(pasted: str) -> None:
    try:
        key = ProviderKey(pasted).reveal()
    except InvalidKey:
        return
    assert key.isascii()
    assert key.isprintable()
    assert " " not in key


def test_provider_key_is_cleaned_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    key = ProviderKey(f" {KEY}\n")
    monkeypatch.setattr(provider_key, "_cleaned", None)
    assert ProviderKey(key).reveal() == KEY


def test_provider_key_hides_its_text() -> None:
    key = ProviderKey(KEY)
    for shown in (repr(key), str(key), f"{key}", repr([key])):
        assert KEY not in shown


@pytest.mark.parametrize(
    "spread", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps], ids=["pickle", "copy", "deepcopy", "json"]
)
def test_provider_key_cannot_be_pickled_or_copied(spread: Callable[[ProviderKey], object]) -> None:
    with pytest.raises(TypeError):
        spread(ProviderKey(KEY))


# --- Encryption ----------------------------------------------------------------------------------------------------


def test_no_seal_repeats_a_data_key_or_an_iv() -> None:
    keyring = ring()
    data_keys, ivs, wrap_ivs = set(), set(), set()
    for _ in range(100_000):
        sealed = seal(KEY, BINDING, keyring)
        data_keys.add(bytes(unwrapping.unwrap(sealed.wrap, sealed.format, BINDING.credential_id, keyring)))
        ivs.add(sealed.iv)
        wrap_ivs.add(sealed.wrap.wrapped_dek_iv)
    assert len(data_keys) == len(ivs) == len(wrap_ivs) == 100_000
    assert not ivs & wrap_ivs
    assert {len(key) for key in data_keys} == {32}
    assert {len(iv) for iv in ivs | wrap_ivs} == {12}


def test_sealed_record_contains_nothing_of_the_key() -> None:
    sealed = seal(KEY, BINDING, ring())
    stored = sealed.ciphertext + sealed.iv + sealed.wrap.wrapped_dek + sealed.wrap.wrapped_dek_iv
    assert not any(KEY[start : start + 4].encode() in stored for start in range(len(KEY) - 3))
    assert len(sealed.ciphertext) == len(KEY) + 16
    assert len(sealed.wrap.wrapped_dek) == 32 + 16
