"""Secrets that can be found again in every encoding that a leak could use."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from urllib.parse import quote, quote_plus


@dataclass(frozen=True)
class Canary:
    """One secret. Failing tests report its `name`, so that no report contains the secret."""

    name: str
    value: bytes

    def encodings(self) -> dict[str, bytes]:
        """Return the value and its encodings by name."""
        value = self.value
        encodings = {
            "plain": value,
            "reversed": value[::-1],
            "hex": value.hex().encode(),
            "HEX": value.hex().upper().encode(),
            "\\x escapes": "".join(f"\\x{byte:02x}" for byte in value).encode(),
            "UTF-16": value.decode("latin-1").encode("utf-16-le"),
            "URL-encoded": quote(value, safe="").encode(),
            "form-encoded": quote_plus(value).encode(),
            "percent-encoded": "".join(f"%{byte:02X}" for byte in value).encode(),
            "JSON": json.dumps(value.decode("latin-1"))[1:-1].encode(),
        }
        # Inside a longer text, base64 shifts a value by 0, 1 or 2 bytes. The middle does not depend on its context.
        for shift in range(3):
            for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
                encoded = encode(b"\0" * shift + value)
                encodings[f"{name} at {shift}"] = encoded[4 * bool(shift) : len(encoded) // 4 * 4 - 4]
        return {name: encoded_value for name, encoded_value in encodings.items() if len(encoded_value) >= 8}


_encodings = cache(Canary.encodings)


def leaks(canaries: Iterable[Canary], text: bytes) -> Iterator[str]:
    """Yield the name and encoding of every canary in `text`."""
    for canary in canaries:
        for encoding, encoded_value in _encodings(canary).items():
            if encoded_value in text:
                yield f"{canary.name} ({encoding})"
