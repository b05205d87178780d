"""Wrap, unwrap and rewrap data keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from credentials.errors import CannotOpen, UnknownMasterKey
from credentials.vault import unwrapping, wrapping
from credentials.vault.envelope import WrappedKey
from tests.support.vault import BINDING, KNOWN, MASTER_KEY, OTHER_MASTER_KEY, ring

ROW_ID = BINDING.credential_id


def test_known_wrap_unwraps() -> None:
    assert unwrapping.unwrap(KNOWN.sealed.wrap, 1, ROW_ID, ring()) == KNOWN.data_key


@pytest.mark.parametrize("column", ["wrapped_dek", "wrapped_dek_iv"])
def test_wrap_with_any_bit_changed_does_not_open(column: str) -> None:
    wrap, keyring = KNOWN.sealed.wrap, ring()
    value = getattr(wrap, column)
    for position in range(len(value)):
        for bit in range(8):
            changed = bytearray(value)
            changed[position] ^= 1 << bit
            changed_wrap = replace(wrap, **{column: bytes(changed)})  # type: ignore[arg-type]
            with pytest.raises(CannotOpen):
                unwrapping.unwrap(changed_wrap, 1, ROW_ID, keyring)


@pytest.mark.parametrize("length", [0, 1, 8, 11, 13, 16, 128, 129])
def test_wrap_with_other_iv_length_does_not_open(length: int) -> None:
    with pytest.raises(CannotOpen):
        unwrapping.unwrap(replace(KNOWN.sealed.wrap, wrapped_dek_iv=bytes(length)), 1, ROW_ID, ring())


@pytest.mark.parametrize("length", [0, 1, 15, 16, 47, 49, 10_000])
def test_wrap_of_other_length_does_not_open(length: int) -> None:
    changed = (KNOWN.sealed.wrap.wrapped_dek + bytes(10_000))[:length]
    with pytest.raises(CannotOpen):
        unwrapping.unwrap(replace(KNOWN.sealed.wrap, wrapped_dek=changed), 1, ROW_ID, ring())


@pytest.mark.parametrize("format", [-1, 0, 2, 65535, 65536, 2**31])
def test_record_of_other_format_does_not_open(format: int) -> None:
    with pytest.raises(CannotOpen):
        unwrapping.unwrap(KNOWN.sealed.wrap, format, ROW_ID, ring())


def test_wrap_of_another_credential_does_not_open() -> None:
    with pytest.raises(CannotOpen):
        unwrapping.unwrap(KNOWN.sealed.wrap, 1, uuid4(), ring())


def test_wrap_relabelled_with_another_id_does_not_open() -> None:
    relabelled = replace(KNOWN.sealed.wrap, master_key_id="other")
    with pytest.raises(CannotOpen):
        unwrapping.unwrap(relabelled, 1, ROW_ID, ring("other", other=MASTER_KEY))


def test_master_key_is_chosen_by_id_only() -> None:
    keyring = ring("other", other=OTHER_MASTER_KEY)
    with pytest.raises(UnknownMasterKey) as unknown:
        unwrapping.unwrap(KNOWN.sealed.wrap, 1, ROW_ID, keyring)
    assert unknown.value.key_id == "2026-11-a"
    swapped = ring("x", x=MASTER_KEY, **{"2026_11_a": OTHER_MASTER_KEY})
    with pytest.raises(CannotOpen):
        unwrapping.unwrap(KNOWN.sealed.wrap, 1, ROW_ID, swapped)


@pytest.mark.parametrize("length", [16, 24, 31, 33])
def test_data_key_of_other_size_is_refused(length: int) -> None:
    keyring = ring()
    wrap = wrapping.wrap(bytes(length), 1, ROW_ID, "2026-11-a", keyring)
    with pytest.raises(CannotOpen):
        unwrapping.unwrap(wrap, 1, ROW_ID, keyring)


# --- Rewrapping ----------------------------------------------------------------------------------------------------


def test_rewrap_keeps_the_data_key() -> None:
    both = ring("new", new=OTHER_MASTER_KEY, **{"2026_11_a": MASTER_KEY})
    renewed = unwrapping.rewrap(KNOWN.sealed.wrap, 1, ROW_ID, both)
    assert renewed.master_key_id == "new"
    assert renewed.wrapped_dek != KNOWN.sealed.wrap.wrapped_dek
    assert renewed.wrapped_dek_iv != KNOWN.sealed.wrap.wrapped_dek_iv
    assert unwrapping.unwrap(renewed, 1, ROW_ID, ring("new", new=OTHER_MASTER_KEY)) == KNOWN.data_key


def test_rewrap_verifies_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ring("new", new=OTHER_MASTER_KEY, **{"2026_11_a": MASTER_KEY})
    wrap = wrapping.wrap

    def damaged(*arguments: Any) -> WrappedKey:
        wrapped = wrap(*arguments)
        return replace(wrapped, wrapped_dek=wrapped.wrapped_dek[:-1] + bytes([wrapped.wrapped_dek[-1] ^ 1]))

    monkeypatch.setattr(unwrapping, "wrap", damaged)
    with pytest.raises(CannotOpen):
        unwrapping.rewrap(KNOWN.sealed.wrap, 1, ROW_ID, both)
