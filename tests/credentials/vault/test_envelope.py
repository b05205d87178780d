"""The associated data covers every bound field, and no two bindings share it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from credentials.errors import CannotOpen
from credentials.vault.envelope import Binding, wrap_associated_data
from tests.support.vault import BINDING, KNOWN

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
BINDINGS = st.builds(
    Binding,
    credential_id=st.uuids(),
    endpoint_id=st.uuids(),
    owner_id=st.uuids(),
    provider=TEXT,
    destination_url=TEXT,
    header_name=TEXT,
    header_template=TEXT,
    extras=TEXT,
)


def associated_data(binding: Binding) -> bytes:
    return binding.data_associated_data(binding.format)


def test_associated_data_matches_stored_rows() -> None:
    assert BINDING.data_associated_data(1) == KNOWN.data_associated_data
    assert wrap_associated_data(1, BINDING.credential_id, "2026-11-a") == KNOWN.wrap_associated_data


@given(BINDINGS, BINDINGS)
def test_bindings_never_share_associated_data(one: Binding, other: Binding) -> None:
    assume(one != other)
    assert associated_data(one) != associated_data(other)


@given(st.lists(TEXT, min_size=4, max_size=4), st.integers(1, 40))
def test_field_boundaries_change_associated_data(texts: list[str], position: int) -> None:
    joined = "".join(texts[:2])
    assume(0 < position < len(joined))
    one = replace(BINDING, provider=joined[:position], destination_url=joined[position:])
    other = replace(BINDING, provider=joined[: position - 1], destination_url=joined[position - 1 :])
    assert one.data_associated_data(1) != other.data_associated_data(1)


@given(st.uuids(), st.uuids(), TEXT, TEXT, st.integers(0, 65535), st.integers(0, 65535))
def test_wraps_never_share_associated_data(
    one: UUID, other: UUID, key_id: str, other_id: str, format: int, other_format: int
) -> None:
    assume((one, key_id, format) != (other, other_id, other_format))
    assert wrap_associated_data(format, one, key_id) != wrap_associated_data(other_format, other, other_id)


def test_layers_never_share_associated_data() -> None:
    assert BINDING.data_associated_data(1)[:20] != wrap_associated_data(1, BINDING.credential_id, "x")[:20]


def test_associated_data_covers_every_binding_field() -> None:
    original = BINDING.data_associated_data(1)
    for field in fields(Binding):
        value = getattr(BINDING, field.name)
        changed: Any = UUID(int=value.int ^ 1) if isinstance(value, UUID) else value + "x"
        assert associated_data(replace(BINDING, **{field.name: changed})) != original, field.name


@pytest.mark.parametrize(("extras", "format"), [("", 2), ("x", 1), ("x", 3), ("", 0)])
def test_each_format_binds_its_own_keys(extras: str, format: int) -> None:
    with pytest.raises(CannotOpen):
        replace(BINDING, extras=extras).data_associated_data(format)


def test_sealed_key_repr_shows_no_bytes() -> None:
    assert "\\x" not in repr(KNOWN.sealed)
    assert "2026-11-a" in repr(KNOWN.sealed)
