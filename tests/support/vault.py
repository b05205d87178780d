"""Keyrings, a binding, and one row with a known plaintext, for the tests of the vault."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from uuid import UUID

from credentials.vault import sealing, wrapping
from credentials.vault.envelope import Binding, SealedRecord, WrappedKey
from credentials.vault.keyring import Keyring, parse
from credentials.vault.provider_key import ProviderKey

MASTER_KEY = bytes.fromhex("fc613b4dfd6736a7bd268c8a0e74ed0d1c04a959f59dd74ef2874983fd443fc9")
OTHER_MASTER_KEY = bytes(range(100, 132))


def document(primary: str = "2026-11-a", /, **keys: bytes) -> str:
    """A keyring document. Underscores in the argument names become dashes in the ids."""
    named = {key_id.replace("_", "-"): value for key_id, value in keys.items()} or {"2026-11-a": MASTER_KEY}
    return json.dumps({"primary": primary, "keys": {k: base64.b64encode(v).decode() for k, v in named.items()}})


def ring(primary: str = "2026-11-a", /, **keys: bytes) -> Keyring:
    return parse(document(primary, **keys))


BINDING = Binding(
    credential_id=UUID("11111111-2222-4333-8444-555555555555"),
    endpoint_id=UUID("66666666-7777-4888-9999-aaaaaaaaaaaa"),
    owner_id=UUID("bbbbbbbb-cccc-4ddd-8eee-ffffffffffff"),
    provider="custom",
    destination_url="https://api.example.com/v1",
    header_name="Authorization",
    header_template="Bearer {{secret}}",
)


def seal(key: str, binding: Binding, keyring: Keyring) -> SealedRecord:
    """Seal as `credentials.vault.seal` does, with this keyring and without a database."""
    encrypted = sealing.encrypt_key(ProviderKey(key), binding)
    wrapped = wrapping.wrap(encrypted.data_key, binding.format, binding.credential_id, keyring.primary_id, keyring)
    return SealedRecord(binding.format, wrapped, encrypted.ciphertext, encrypted.iv)


@dataclass(frozen=True)
class KnownAnswer:
    """One stored row, and everything that went into it."""

    key: bytes
    data_key: bytes
    data_associated_data: bytes
    wrap_associated_data: bytes
    sealed: SealedRecord
    check_value: bytes


# This row must always open. Do not edit it, add another one. Both ciphertexts were computed with another implementation
# of AES-GCM (PyCryptodome) over associated data assembled by hand, so that they verify this implementation.
KNOWN = KnownAnswer(
    key=b"sk-known-answer-0001",
    data_key=bytes.fromhex("1b073b04f6ab05e9db9e2d717c501ed00cdac5c85d812fb80a32c4736cbeec36"),
    data_associated_data=bytes.fromhex(
        "00000011737472616b652f63726564656e7469616c000000020001"
        "0000001011111111222243338444555555555555"
        "0000001066666666777748889999aaaaaaaaaaaa"
        "00000010bbbbbbbbcccc4ddd8eeeffffffffffff"
        "00000006637573746f6d"
        "0000001a68747470733a2f2f6170692e6578616d706c652e636f6d2f7631"
        "0000000d417574686f72697a6174696f6e"
        "00000011426561726572207b7b7365637265747d7d"
    ),
    wrap_associated_data=bytes.fromhex(
        "0000000f737472616b652f646174612d6b6579000000020001"
        "0000001011111111222243338444555555555555"
        "00000009323032362d31312d61"
    ),
    sealed=SealedRecord(
        format=1,
        wrap=WrappedKey(
            master_key_id="2026-11-a",
            wrapped_dek=bytes.fromhex(
                "571b2c4463284dfa52376326aa98e8f188a0edabb8dbcc6608cd1f1100faefc16a2c87011f8f5bdb5d3b48940d8bef86"
            ),
            wrapped_dek_iv=bytes.fromhex("a084be09a4eff0f090a720b8"),
        ),
        ciphertext=bytes.fromhex("483d800b7953754da2a4c6f9f118ec0ceb58ceca03a51099c0e118ffbe6b36a4aa51fbca"),
        iv=bytes.fromhex("0ab306823035661bb8dba21c"),
    ),
    check_value=bytes.fromhex("8ae866934be11a7f9a8d40d2b360dc9a"),
)
