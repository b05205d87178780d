"""Shared by the operators' pages: a list with search, filter and order, and the record of who read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.paginator import Page
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from accounts.audit import actor_of, record_reading
from credentials.dashboard.views.common import page_of

MAX_QUERY_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Listing:
    """How a list is searched, filtered and ordered. The first of `orders` is the default.

    `fields` are look-ups that find a part of a text. `states` and `orders` are by their names in the URL.
    """

    name: str
    fields: Sequence[str]
    states: Mapping[str, Q]
    orders: Mapping[str, Sequence[Any]]

    def read(self, request: HttpRequest, rows: QuerySet[Any]) -> dict[str, Any]:
        """The context of the page that the query string asks for. Records the reading, with the filters."""
        query = request.GET.get("q", "").strip()[:MAX_QUERY_LENGTH]
        state, sort = request.GET.get("state", ""), request.GET.get("sort", "")
        if state not in self.states:
            state = ""
        if sort not in self.orders:
            sort = next(iter(self.orders))
        record_read(request, self.name, q=query, state=state)
        if query:
            rows = rows.filter(self._found(query))
        if state:
            rows = rows.filter(self.states[state])
        page: Page[Any] = page_of(rows.order_by(*self.orders[sort]), request)
        return {"page": page, "query": query, "state": state, "sort": sort, "is_filtered": bool(query or state)}

    def _found(self, query: str) -> Q:
        found = Q()
        for field in self.fields:
            found |= Q(**{f"{field}__icontains": query})
        return found


def record_read(request: HttpRequest, page: str, subject: object = "list", **filters: str) -> None:
    """Record that staff read what belongs to others, as `audit.record_reading` does."""
    used = {name: value for name, value in filters.items() if value}
    record_reading(actor_of(request), page, subject=subject, filters=used)
