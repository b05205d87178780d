"""Sealing provider keys and wrapping data keys."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials import sealing
from credentials.envelope import WrappedKey
from credentials.errors import CannotOpen, InvalidKey, UnknownMasterKey
from tests.credentials.vault import BINDING, KNOWN, MASTER_KEY, OTHER_MASTER_KEY, ring

KEY = "sk-test-0123456789"
ROW_ID = BINDING.credential_id


# --- The pasted key ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pasted", [KEY, f"  {KEY}", f"{KEY}\n", f"\r\n\t{KEY}\r\n", f"\u00a0{KEY}\u3000"])
def test_white_space_around_a_pasted_key_is_stripped(pasted):
    assert sealing.clean_key(pasted) == KEY


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
        ("k" * (sealing.MAX_KEY_LENGTH + 1), "longer than any API key"),
    ],
)
def test_a_key_that_no_header_can_carry_is_refused_without_being_repeated(pasted, says):
    with pytest.raises(InvalidKey, match=says) as refused:
        sealing.clean_key(pasted)
    assert not pasted.strip() or pasted.strip() not in str(refused.value)
    assert "one" not in str(refused.value).replace("one piece", "")


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200))
def test_every_key_of_visible_ascii_is_taken_as_it_is(key):
    assert sealing.clean_key(key) == key


def test_the_longest_key_is_taken():
    longest = "k" * sealing.MAX_KEY_LENGTH
    assert sealing.clean_key(longest) == longest


@given(st.text(max_size=60))
def test_nothing_but_visible_ascii_is_ever_sealed(pasted):
    try:
        key = sealing.clean_key(pasted)
    except InvalidKey:
        return
    assert key.isascii()
    assert key.isprintable()
    assert " " not in key


def test_sealing_validates_the_key_again():
    with pytest.raises(InvalidKey):
        sealing.seal("sk-one\nx-injected: 1", BINDING, ring())


# --- The seal ------------------------------------------------------------------------------------------------------


def test_no_seal_repeats_a_data_key_or_an_iv():
    keyring = ring()
    data_keys, ivs, wrap_ivs = set(), set(), set()
    for _ in range(100_000):
        sealed = sealing.seal(KEY, BINDING, keyring)
        data_keys.add(bytes(sealing.unwrap(sealed.wrap, sealed.format, ROW_ID, keyring)))
        ivs.add(sealed.iv)
        wrap_ivs.add(sealed.wrap.wrapped_dek_iv)
    assert len(data_keys) == len(ivs) == len(wrap_ivs) == 100_000
    assert not ivs & wrap_ivs
    assert {len(key) for key in data_keys} == {32}
    assert {len(iv) for iv in ivs | wrap_ivs} == {12}


def test_a_seal_names_the_primary_master_key():
    sealed = sealing.seal(KEY, BINDING, ring("new", new=OTHER_MASTER_KEY, old=bytes(range(32))))
    assert sealed.wrap.master_key_id == "new"


def test_nothing_of_the_key_stands_in_the_sealed_record():
    sealed = sealing.seal(KEY, BINDING, ring())
    stored = sealed.ciphertext + sealed.iv + sealed.wrap.wrapped_dek + sealed.wrap.wrapped_dek_iv
    assert not any(KEY[start : start + 4].encode() in stored for start in range(len(KEY) - 3))
    assert len(sealed.ciphertext) == len(KEY) + 16
    assert len(sealed.wrap.wrapped_dek) == 32 + 16


# --- The wrap ------------------------------------------------------------------------------------------------------


def test_a_wrap_with_a_known_answer_opens():
    assert sealing.unwrap(KNOWN.sealed.wrap, 1, ROW_ID, ring()) == KNOWN.data_key


@pytest.mark.parametrize("column", ["wrapped_dek", "wrapped_dek_iv"])
def test_a_wrap_with_any_bit_changed_does_not_open(column):
    wrap, keyring = KNOWN.sealed.wrap, ring()
    value = getattr(wrap, column)
    for position in range(len(value)):
        for bit in range(8):
            changed = bytearray(value)
            changed[position] ^= 1 << bit
            with pytest.raises(CannotOpen):
                sealing.unwrap(replace(wrap, **{column: bytes(changed)}), 1, ROW_ID, keyring)


@pytest.mark.parametrize("length", [0, 1, 8, 11, 13, 16, 128, 129])
def test_a_wrap_whose_iv_has_another_length_does_not_open(length):
    with pytest.raises(CannotOpen):
        sealing.unwrap(replace(KNOWN.sealed.wrap, wrapped_dek_iv=bytes(length)), 1, ROW_ID, ring())


@pytest.mark.parametrize("length", [0, 1, 15, 16, 47, 49, 10_000])
def test_a_wrap_of_another_length_does_not_open(length):
    changed = (KNOWN.sealed.wrap.wrapped_dek + bytes(10_000))[:length]
    with pytest.raises(CannotOpen):
        sealing.unwrap(replace(KNOWN.sealed.wrap, wrapped_dek=changed), 1, ROW_ID, ring())


@pytest.mark.parametrize("format", [-1, 0, 2, 65535, 65536, 2**31])
def test_a_record_of_another_format_does_not_open(format):
    with pytest.raises(CannotOpen):
        sealing.unwrap(KNOWN.sealed.wrap, format, ROW_ID, ring())


def test_a_wrap_moved_to_another_credential_does_not_open():
    with pytest.raises(CannotOpen):
        sealing.unwrap(KNOWN.sealed.wrap, 1, uuid4(), ring())


def test_a_wrap_relabelled_with_another_id_of_the_same_key_does_not_open():
    relabelled = replace(KNOWN.sealed.wrap, master_key_id="other")
    with pytest.raises(CannotOpen):
        sealing.unwrap(relabelled, 1, ROW_ID, ring("other", other=MASTER_KEY))


def test_the_master_key_is_chosen_by_id_and_never_by_trial():
    keyring = ring("other", other=OTHER_MASTER_KEY)
    with pytest.raises(UnknownMasterKey) as unknown:
        sealing.unwrap(KNOWN.sealed.wrap, 1, ROW_ID, keyring)
    assert unknown.value.key_id == "2026-11-a"
    swapped = ring("x", x=MASTER_KEY, **{"2026_11_a": OTHER_MASTER_KEY})
    with pytest.raises(CannotOpen):
        sealing.unwrap(KNOWN.sealed.wrap, 1, ROW_ID, swapped)


@pytest.mark.parametrize("length", [16, 24, 31, 33])
def test_a_wrapped_key_that_is_no_256_bit_key_is_refused(length):
    keyring = ring()
    wrap = sealing._wrap(bytes(length), 1, ROW_ID, "2026-11-a", keyring)
    with pytest.raises(CannotOpen):
        sealing.unwrap(wrap, 1, ROW_ID, keyring)


# --- Rewrapping ----------------------------------------------------------------------------------------------------


def test_rewrapping_keeps_the_data_key_and_changes_id_wrap_and_iv():
    both = ring("new", new=OTHER_MASTER_KEY, **{"2026_11_a": MASTER_KEY})
    renewed = sealing.rewrap(KNOWN.sealed.wrap, 1, ROW_ID, both)
    assert renewed.master_key_id == "new"
    assert renewed.wrapped_dek != KNOWN.sealed.wrap.wrapped_dek
    assert renewed.wrapped_dek_iv != KNOWN.sealed.wrap.wrapped_dek_iv
    assert sealing.unwrap(renewed, 1, ROW_ID, ring("new", new=OTHER_MASTER_KEY)) == KNOWN.data_key


def test_rewrapping_refuses_what_it_cannot_open_again(monkeypatch):
    both = ring("new", new=OTHER_MASTER_KEY, **{"2026_11_a": MASTER_KEY})
    good = sealing._wrap

    def damaged(*arguments: object) -> WrappedKey:
        wrap = good(*arguments)
        return replace(wrap, wrapped_dek=wrap.wrapped_dek[:-1] + bytes([wrap.wrapped_dek[-1] ^ 1]))

    monkeypatch.setattr(sealing, "_wrap", damaged)
    with pytest.raises(CannotOpen):
        sealing.rewrap(KNOWN.sealed.wrap, 1, ROW_ID, both)
