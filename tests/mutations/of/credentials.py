"""Mutations of `credentials/`."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

BY_FILE: dict[str, list[Mutation]] = {
    "credentials/models.py": [
        Mutation(
            "P6",
            "the key can be read from the model",
            '        raise AttributeError("The secret of a credential cannot be read. Only the proxy opens it.")',
            '        return "sk-secret"',
        ),
        Mutation(
            "P16",
            "a form offers the ciphertext",
            "    ciphertext = models.BinaryField()",
            "    ciphertext = models.BinaryField(editable=True)",
        ),
    ],
    "credentials/querysets.py": [
        Mutation(
            "P6",
            "the list of endpoints loads the ciphertexts",
            '.prefetch_related("credential__sealed_key")',
            '.select_related("credential__sealed_key")',
        ),
        Mutation(
            "P6",
            "pages load the ciphertext with the id of its master key",
            'return super().get_queryset().only("credential", "master_key_id")',
            "return super().get_queryset()",
        ),
    ],
    "credentials/services/endpoints.py": [
        Mutation(
            "P5",
            "a service opens keys",
            "from credentials.delivery import Delivery, delivery_of\n",
            "from credentials.delivery import Delivery, delivery_of\n"
            "from proxy.unsealing import open_key  # noqa: F401\n",
        ),
    ],
    "credentials/services/bearer_tokens.py": [
        Mutation(
            "P7",
            "rotating keeps the old token",
            "                digest=tokens.digest(plaintext),\n"
            "                preview=tokens.preview(plaintext, BEARER_TOKEN_PREFIX),\n"
            "                last_used_at=None,",
            "                last_used_at=None,",
        ),
        Mutation(
            "P8",
            "rotating keeps the old token",
            "                digest=tokens.digest(plaintext),\n"
            "                preview=tokens.preview(plaintext, BEARER_TOKEN_PREFIX),\n"
            "                last_used_at=None,",
            "                last_used_at=None,",
        ),
        Mutation(
            "",
            "children outlive the rotation of their parent",
            """            actor, "token.rotated", token.endpoint, token, **endpoint_audit.change(before, token.preview)
        )
        _end_children(actor, token)
""",
            """            actor, "token.rotated", token.endpoint, token, **endpoint_audit.change(before, token.preview)
        )
""",
            tests=("tests/credentials/test_token_families.py::test_children_end_with_their_parent",),
        ),
    ],
    "credentials/vault/envelope.py": [
        Mutation(
            "P2",
            "the wrapped data key is bound to nothing",
            'return _join(b"strake/data-key", format.to_bytes(2), credential_id.bytes, master_key_id.encode())',
            'return b""',
        ),
        Mutation(
            "P18",
            "the ciphertext is not bound to its credential",
            "            self.credential_id.bytes,\n",
            "",
        ),
        Mutation(
            "P18",
            "the ciphertext is not bound to its endpoint",
            "            self.endpoint_id.bytes,\n",
            "",
        ),
        Mutation(
            "P18",
            "the ciphertext is not bound to its owner",
            "            self.owner_id.bytes,\n",
            "",
        ),
        Mutation(
            "P18",
            "the ciphertext is not bound to its provider",
            "            self.provider.encode(),\n",
            "",
        ),
        Mutation(
            "P18",
            "the ciphertext is not bound to its destination",
            "            self.destination_url.encode(),\n",
            "",
        ),
        Mutation(
            "P18",
            "the ciphertext is not bound to its header",
            "            self.header_name.encode(),\n",
            "",
        ),
        Mutation(
            "P18",
            "the ciphertext is not bound to its template",
            "            self.header_template.encode(),\n",
            "",
        ),
    ],
    "credentials/vault/keyring.py": [
        Mutation(
            "P19",
            "a server keeps the keyring it started with",
            "    if _cached is not None and version in {_cached[0], _refused}:",
            "    if _cached is not None:",
        ),
    ],
    "credentials/vault/keyring_document.py": [
        Mutation(
            "P2",
            "the master key is in the code",
            "            return self._keys[key_id]\n",
            '            return self._keys[key_id] and b"m" * 32\n',
        ),
    ],
    "credentials/vault/master_keys.py": [
        Mutation(
            "P19",
            "a key that a server still uses is retired",
            "key_holders.wait_until(lambda process: process.primary_key_id != key_id, wait_seconds, on_wait)",
            "[]",
        ),
        Mutation(
            "P19",
            "a key is promoted that a server lacks",
            "key_holders.wait_for_key(key_id, ring, seconds=wait_seconds, no_server=no_server, on_wait=on_wait)",
            "pass",
        ),
    ],
    "credentials/vault/key_holders.py": [
        Mutation(
            "P19",
            "rotation does not wait for servers without the new key",
            "process.key_ids.get(key_id) == ring.check_value(key_id).hex()",
            "True",
        ),
        Mutation(
            "P19",
            "an empty table of servers means that all are ready",
            "    if not no_server and not running():\n",
            "    if False:\n",
        ),
    ],
    "credentials/vault/rotation.py": [
        Mutation(
            "P19",
            "rotation keeps the old IV",
            "                    new.wrapped_dek_iv,\n",
            "                    row.wrapped_dek_iv,\n",
        ),
        Mutation(
            "P19",
            "rotation is not resumed",
            "        while _pending(ring).exclude(pk__in=outcome.stuck).exists():\n",
            "        while _pending(ring).count() == SealedKey.objects.count():\n",
        ),
    ],
    "credentials/vault/sealing.py": [
        Mutation(
            "P1",
            "all credentials share a data key",
            "data_key = bytearray(AESGCM.generate_key(256))",
            'data_key = bytearray(b"k" * 32)',
        ),
        Mutation(
            "P1",
            "all credentials share an IV",
            "    iv = os.urandom(IV_BYTES)\n    ciphertext",
            "    iv = bytes(IV_BYTES)\n    ciphertext",
        ),
        Mutation(
            "P1",
            "data keys have 128 bits",
            "AESGCM.generate_key(256)",
            "AESGCM.generate_key(128)",
        ),
        Mutation(
            "P3",
            "the last four characters are stored with the ciphertext",
            "    return Encrypted(data_key, ciphertext, iv)",
            "    return Encrypted(data_key, ciphertext + plaintext[-4:], iv)",
        ),
    ],
    "credentials/shares.py": [
        Mutation(
            "P23",
            "one owner takes every place",
            "if self._taken >= self._total or self._taken_by.get(owner, 0) >= self._per_owner:",
            "if self._taken >= self._total:",
        ),
    ],
    "credentials/outbound.py": [
        Mutation(
            "P23",
            "every thread of the web half may wait for destinations",
            "        if taken >= places:",
            "        if taken >= 2 * places:",
        ),
    ],
}
