"""Routes of rows that are in no database."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from proxy.access.route import Route, Row


def route(**fields: Any) -> Route:
    """Return the route of a live token of OpenAI without limits. `fields` are those of the row."""
    row: dict[str, Any] = dict.fromkeys(Row._fields)
    row |= {
        "endpoint_id": UUID(int=1),
        "owner_id": UUID(int=2),
        "provider": "openai",
        "credential_id": UUID(int=3),
        "destination_url": "https://api.openai.com",
        "header_name": "Authorization",
        "header_template": "Bearer {{secret}}",
        "token_id": "ctok_a",
        "allowed_paths": [],
        "allowed_networks": [],
        "allowed_origins": [],
        "allow_minting": False,
        "kind": "static",
        "places": "[]",
        "parameters": "{}",
    }
    return Route(Row(**{**row, **fields}))
