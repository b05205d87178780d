"""The origins of web pages that the tokens of an endpoint list, without a token: preflights carry none."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from time import monotonic
from typing import Protocol

from credentials.models import BearerToken
from proxy.errors import StoreUnavailable

KEEP_SECONDS = 1.0
MAX_KEPT = 4096


class Reader(Protocol):
    """The part of `proxy.access.route_lookup.Lookup` that is needed here."""

    async def origins(self, subdomain: str) -> list[list[str]]: ...


class AllowedOrigins:
    """The origins that the tokens of an endpoint list, read from the database once a second at most.

    Tokens that were revoked or have expired count too. Otherwise a page whose token has ended could not read that, and
    would see a network error only. This gives no access: the request itself needs a live token.
    """

    def __init__(self, lookup: Reader) -> None:
        self._lookup = lookup
        self._kept: OrderedDict[str, tuple[float, frozenset[bytes]]] = OrderedDict()

    async def contain(self, subdomain: str, origin: bytes) -> bool:
        """Return whether a token of the endpoint lists this origin. Raises `StoreUnavailable`."""
        kept = self._kept.get(subdomain)
        if kept is None or kept[0] < monotonic():
            try:
                lists = await self._lookup.origins(subdomain)
            except StoreUnavailable:
                if kept is None:
                    raise
            else:
                found = frozenset(one.encode() for listed in lists for one in listed)
                kept = self._kept[subdomain] = (monotonic() + KEEP_SECONDS, found)
                self._kept.move_to_end(subdomain)
                if len(self._kept) > MAX_KEPT:
                    self._kept.popitem(last=False)
        return origin in kept[1]


@cache
def statement(placeholder: str) -> str:
    """Return the SQL that reads the different lists of origins of an endpoint. Its parameter is the subdomain."""
    query = (
        BearerToken.objects.order_by()
        .filter(endpoint__subdomain="subdomain")
        .values_list("allowed_origins")
        .distinct()
        .query
    )
    sql, parameters = query.get_compiler(using="default").as_sql()
    if parameters != ("subdomain",):
        raise AssertionError("The statement no longer takes the subdomain as its only parameter.")
    return str(sql).replace("%s", placeholder)
