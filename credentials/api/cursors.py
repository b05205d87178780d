"""Lists in pages. A cursor is the place of the last row of a page, so rows that are added do not move the next page."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, TypeVar

from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet
from ninja import Query

from credentials.api.errors import InvalidCursor

MAX_ROWS = 200
Limit = Annotated[int, Query(ge=1, le=MAX_ROWS, description="The most rows of one page.")]
Cursor = Annotated[
    str | None, Query(max_length=300, description="The next of the page before. Do not make one yourself.")
]
Row = TypeVar("Row", bound=Model)


def encode(place: str) -> str:
    return base64.urlsafe_b64encode(place.encode()).rstrip(b"=").decode()


def decode(cursor: str) -> str:
    """Return what `encode` was given. Raises `InvalidCursor`."""
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidCursor from None


def page(rows: QuerySet[Row], limit: int, cursor: str | None) -> tuple[list[Row], str | None]:
    """Return a page of `rows`, newest first by `created_at`, and the cursor of the next one if there is one.

    Raises `InvalidCursor`.
    """
    rows = rows.order_by("-created_at", "pk")
    if cursor is not None:
        moment, pk = _place(decode(cursor), rows)
        rows = rows.filter(Q(created_at__lt=moment) | Q(created_at=moment, pk__gt=pk))
    found: list[Any] = list(rows[: limit + 1])
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    return found[:limit], encode(f"{last.created_at.isoformat()} {last.pk}")


def _place(text: str, rows: QuerySet[Row]) -> tuple[datetime, Any]:
    moment, _, pk = text.partition(" ")
    try:
        at = datetime.fromisoformat(moment)
        key = rows.model._meta.pk.to_python(pk)
    except (ValueError, ValidationError):
        raise InvalidCursor from None
    if at.tzinfo is None or not pk.isprintable():
        raise InvalidCursor
    return at, key
