"""The opener opens a record only in the place where it was sealed. Every other record gives the same error."""

from __future__ import annotations

import string
from dataclasses import fields, replace
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from credentials.errors import CannotOpen, UnknownMasterKey
from credentials.vault.envelope import Binding, SealedRecord, extras_of
from credentials.vault.keyring import Keyring
from proxy import unsealing
from proxy.unsealing import is_authentic, open_key
from tests.support.vault import BINDING, KNOWN, MASTER_KEY, OTHER_MASTER_KEY, ring, seal

RING = ring()
# A keyring that also opens the other row, so that a swapped master key id is known.
TWO = ring("2026-11-b", **{"2026_11_a": MASTER_KEY, "2026_11_b": OTHER_MASTER_KEY})
OTHER_BINDING = Binding(
    credential_id=UUID("11111111-2222-4333-8444-000000000001"),
    endpoint_id=UUID("66666666-7777-4888-9999-000000000001"),
    owner_id=UUID("bbbbbbbb-cccc-4ddd-8eee-000000000001"),
    provider="openai",
    destination_url="https://api.openai.com",
    header_name="X-Api-Key",
    header_template="{{secret}}",
    extras=extras_of("static", [["header", "X-Project", "other"]], {}),
)
OTHER_SEALED = seal("sk-of-another-row", OTHER_BINDING, TWO)
GENERIC = str(CannotOpen())

SEALED_COLUMNS = ["format", "master_key_id", "wrapped_dek", "wrapped_dek_iv", "ciphertext", "iv"]
BOUND_FIELDS = [field.name for field in fields(Binding)]


def with_column(sealed: SealedRecord, name: str, value: Any) -> SealedRecord:
    if name in {"master_key_id", "wrapped_dek", "wrapped_dek_iv"}:
        return replace(sealed, wrap=replace(sealed.wrap, **{name: value}))
    return replace(sealed, **{name: value})


def column(sealed: SealedRecord, name: str) -> Any:
    return getattr(sealed.wrap if hasattr(sealed.wrap, name) else sealed, name)


def assert_closed(sealed: SealedRecord, binding: Binding, keyring: Keyring = RING) -> None:
    with pytest.raises(CannotOpen) as closed:
        open_key(sealed, binding, keyring)
    assert str(closed.value) == GENERIC
    assert closed.value.__cause__ is None
    assert closed.value.__suppress_context__ or closed.value.__context__ is None
    assert not is_authentic(sealed, binding, keyring)


def test_known_record_opens() -> None:
    assert open_key(KNOWN.sealed, BINDING, RING) == KNOWN.key
    assert is_authentic(KNOWN.sealed, BINDING, RING)


@given(st.text(string.ascii_letters + string.digits + string.punctuation, min_size=1, max_size=300))
def test_sealed_key_opens_to_the_same_key(key: str) -> None:
    assert open_key(seal(key, BINDING, RING), BINDING, RING) == key.encode()


@pytest.mark.parametrize("name", ["wrapped_dek", "wrapped_dek_iv", "ciphertext", "iv"])
def test_record_with_any_byte_changed_does_not_open(name: str) -> None:
    value = column(KNOWN.sealed, name)
    for position in range(len(value)):
        for difference in (0x01, 0x80, 0xFF):
            changed = bytearray(value)
            changed[position] ^= difference
            assert_closed(with_column(KNOWN.sealed, name, bytes(changed)), BINDING)


@pytest.mark.parametrize("name", ["wrapped_dek", "wrapped_dek_iv", "ciphertext", "iv"])
def test_record_cut_or_lengthened_does_not_open(name: str) -> None:
    value = column(KNOWN.sealed, name)
    for length in range(len(value)):
        assert_closed(with_column(KNOWN.sealed, name, value[:length]), BINDING)
    for extra in (b"\0", b"\0" * 16, value):
        assert_closed(with_column(KNOWN.sealed, name, value + extra), BINDING)


@pytest.mark.parametrize("name", [name for name in SEALED_COLUMNS if name != "format"])
def test_column_swapped_between_rows_opens_neither(name: str) -> None:
    one, other = column(KNOWN.sealed, name), column(OTHER_SEALED, name)
    assert one != other
    assert_closed(with_column(KNOWN.sealed, name, other), BINDING, TWO)
    assert_closed(with_column(OTHER_SEALED, name, one), OTHER_BINDING, TWO)


def test_record_moved_to_another_row_does_not_open() -> None:
    assert_closed(KNOWN.sealed, OTHER_BINDING, TWO)
    assert_closed(OTHER_SEALED, BINDING, TWO)


@pytest.mark.parametrize("name", BOUND_FIELDS)
def test_record_with_changed_binding_does_not_open(name: str) -> None:
    assert_closed(KNOWN.sealed, replace(BINDING, **{name: getattr(OTHER_BINDING, name)}))
    assert_closed(OTHER_SEALED, replace(OTHER_BINDING, **{name: getattr(BINDING, name)}), TWO)
    value: Any = getattr(BINDING, name)
    changed: Any
    if isinstance(value, str):
        for changed in {"", value + " ", value[:-1], value.swapcase(), value + "\0", value + "/"} - {value}:
            assert_closed(KNOWN.sealed, replace(BINDING, **{name: changed}))
    else:
        for bit in range(128):
            changed = UUID(int=value.int ^ (1 << bit))
            assert_closed(KNOWN.sealed, replace(BINDING, **{name: changed}))


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "format": st.integers(-(2**31), 2**31),
    "master_key_id": TEXTS,
    **dict.fromkeys(["wrapped_dek", "wrapped_dek_iv", "ciphertext", "iv"], st.binary(max_size=80)),
    **dict.fromkeys(["credential_id", "endpoint_id", "owner_id"], st.uuids()),
    **dict.fromkeys(["provider", "destination_url", "header_name", "header_template", "extras"], TEXTS),
}


@given(st.data())
def test_no_field_can_take_another_value(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(SEALED_COLUMNS + BOUND_FIELDS))
    value = data.draw(VALUES[name])
    in_record = name in SEALED_COLUMNS
    if value == (column(KNOWN.sealed, name) if in_record else getattr(BINDING, name)):
        assert open_key(KNOWN.sealed, BINDING, RING) == KNOWN.key
        return
    sealed = with_column(KNOWN.sealed, name, value) if in_record else KNOWN.sealed
    binding = BINDING if in_record else replace(BINDING, **{name: value})
    with pytest.raises((CannotOpen, UnknownMasterKey)) as closed:
        open_key(sealed, binding, RING)
    assert isinstance(closed.value, UnknownMasterKey) == (name == "master_key_id")


def test_wrong_key_under_right_id_does_not_open() -> None:
    assert_closed(KNOWN.sealed, BINDING, ring(**{"2026_11_a": OTHER_MASTER_KEY}))


def test_missing_master_key_is_named() -> None:
    with pytest.raises(UnknownMasterKey) as unknown:
        open_key(KNOWN.sealed, BINDING, ring("other", other=OTHER_MASTER_KEY))
    assert unknown.value.key_id == "2026-11-a"


def test_database_contents_alone_open_nothing() -> None:
    # Try every 32 bytes of the row that could serve as a master key.
    for guess in (KNOWN.sealed.wrap.wrapped_dek[:32], KNOWN.sealed.ciphertext[:32], KNOWN.check_value * 2):
        assert_closed(KNOWN.sealed, BINDING, ring(**{"2026_11_a": guess}))


@pytest.mark.parametrize("change", [{"owner_id": OTHER_BINDING.owner_id}, {"destination_url": "https://evil.example"}])
def test_plaintext_of_invalid_record_is_wiped(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """GCM decrypts before it compares the tag. Without the wipe, the key of a moved record would stay in memory."""
    buffers: list[bytearray] = []
    monkeypatch.setattr(unsealing, "AESGCM", lambda key: WatchedCipher(AESGCM(key), buffers))
    assert_closed(KNOWN.sealed, replace(BINDING, **change))
    assert len(buffers) == 2
    assert not any(any(buffer) for buffer in buffers)


class WatchedCipher:
    """A cipher that records the buffers it decrypts into."""

    def __init__(self, cipher: AESGCM, buffers: list[bytearray]) -> None:
        self.cipher, self.buffers = cipher, buffers

    def decrypt_into(self, iv: bytes, ciphertext: bytes, associated_data: bytes, buffer: bytearray) -> int:
        self.buffers.append(buffer)
        return self.cipher.decrypt_into(iv, ciphertext, associated_data, buffer)
