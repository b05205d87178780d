"""JSON for statements that read many rows from one parameter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_CHUNK = 250


def json_array(rows: Sequence[Sequence[Any]]) -> str:
    """Return the rows as JSON. Encoded in pieces, since the event loop waits until the encoder returns."""
    chunks = (json.dumps(rows[start : start + _CHUNK])[1:-1] for start in range(0, len(rows), _CHUNK))
    return f"[{','.join(chunks)}]"
