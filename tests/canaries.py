"""Secrets that are easy to find again, in every spelling a leak could give them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from urllib.parse import quote, quote_plus


@dataclass(frozen=True)
class Canary:
    """One secret. `name` is what a failing test says, so that the secret itself stands in no report."""

    name: str
    value: bytes

    def spellings(self) -> dict[str, bytes]:
        """The value as it stands, as text encodings spell it, and pieces that would be a hint of it."""
        value = self.value
        found = {
            "plain": value,
            "reversed": value[::-1],
            "hex": value.hex().encode(),
            "HEX": value.hex().upper().encode(),
            "\\x escapes": "".join(f"\\x{byte:02x}" for byte in value).encode(),
            "UTF-16": value.decode("latin-1").encode("utf-16-le"),
            "URL-encoded": quote(value, safe="").encode(),
            "form-encoded": quote_plus(value).encode(),
            "percent-encoded throughout": "".join(f"%{byte:02X}" for byte in value).encode(),
            "JSON": json.dumps(value.decode("latin-1"))[1:-1].encode(),
        }
        # Inside a longer text, base64 shifts a value by 0, 1 or 2 bytes: the middle is the same whatever stands around.
        for shift in range(3):
            for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
                encoded = encode(b"\0" * shift + value)
                found[f"{name} at {shift}"] = encoded[4 * bool(shift) : len(encoded) // 4 * 4 - 4]
        return {name: spelled for name, spelled in found.items() if len(spelled) >= 8}


_spellings = cache(Canary.spellings)


def leaks(canaries: Iterable[Canary], text: bytes) -> Iterator[str]:
    """What of the canaries stands in `text`, as sentences without the secret."""
    for canary in canaries:
        for spelling, spelled in _spellings(canary).items():
            if spelled in text:
                yield f"{canary.name} ({spelling})"
