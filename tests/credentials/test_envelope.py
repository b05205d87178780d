"""The two associated-data strings: what they contain, and that no two bindings share one."""

from __future__ import annotations

from dataclasses import fields, replace
from uuid import UUID

from hypothesis import assume, given
from hypothesis import strategies as st

from credentials.envelope import Binding, wrap_associated_data
from tests.credentials.vault import BINDING, KNOWN

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
)


def test_the_associated_data_is_the_one_that_stored_rows_were_sealed_with():
    assert BINDING.data_associated_data(1) == KNOWN.data_associated_data
    assert wrap_associated_data(1, BINDING.credential_id, "2026-11-a") == KNOWN.wrap_associated_data


@given(BINDINGS, BINDINGS)
def test_two_bindings_never_share_their_associated_data(one, other):
    assume(one != other)
    assert one.data_associated_data(1) != other.data_associated_data(1)


@given(st.lists(TEXT, min_size=4, max_size=4), st.integers(1, 40))
def test_moving_a_character_across_a_field_border_changes_the_associated_data(texts, position):
    joined = "".join(texts[:2])
    assume(0 < position < len(joined))
    one = replace(BINDING, provider=joined[:position], destination_url=joined[position:])
    other = replace(BINDING, provider=joined[: position - 1], destination_url=joined[position - 1 :])
    assert one.data_associated_data(1) != other.data_associated_data(1)


@given(st.uuids(), st.uuids(), TEXT, TEXT, st.integers(0, 65535), st.integers(0, 65535))
def test_a_wrap_is_told_apart_by_format_credential_and_master_key(one, other, key_id, other_id, format, other_format):
    assume((one, key_id, format) != (other, other_id, other_format))
    assert wrap_associated_data(format, one, key_id) != wrap_associated_data(other_format, other, other_id)


def test_the_two_layers_never_share_their_associated_data():
    assert BINDING.data_associated_data(1)[:20] != wrap_associated_data(1, BINDING.credential_id, "x")[:20]


def test_every_field_of_the_binding_is_in_the_associated_data():
    original = BINDING.data_associated_data(1)
    for field in fields(Binding):
        value = getattr(BINDING, field.name)
        changed = UUID(int=value.int ^ 1) if isinstance(value, UUID) else value + "x"
        assert replace(BINDING, **{field.name: changed}).data_associated_data(1) != original, field.name
    assert BINDING.data_associated_data(2) != original


def test_a_sealed_key_shows_no_bytes_in_its_repr():
    assert "\\x" not in repr(KNOWN.sealed)
    assert "2026-11-a" in repr(KNOWN.sealed)
