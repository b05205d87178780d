"""The list of an endpoint's tokens: searched, filtered, sorted, with the use of each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.core.paginator import Page
from django.db.models import Count, F, Q
from django.db.models.expressions import Combinable
from django.db.models.functions import Lower
from django.http import HttpRequest
from django.utils import timezone

from credentials.dashboard import panels
from credentials.dashboard.panels import LastError, TokenUse
from credentials.dashboard.views.common import page_of
from credentials.models import BearerToken, Endpoint
from credentials.querysets import BearerTokenQuerySet, live_tokens

STALE_DAYS = 30
SORTS: dict[str, tuple[str | Combinable, ...]] = {
    "created": (F("revoked_at").asc(nulls_first=True), "-created_at"),
    "label": (Lower("label"), "-created_at"),
    "used": (F("last_used_at").desc(nulls_last=True), "-created_at"),
    "expires": (F("expires_at").asc(nulls_last=True), "-created_at"),
}
FILTERS = {"": "Working", "stale": "Stale", "ended": "Revoked or expired", "all": "All"}


@dataclass(frozen=True, slots=True)
class Row:
    """A token and its use. `tried` says how often it was tried after its end, or is empty."""

    token: BearerToken
    use: TokenUse
    is_live: bool
    is_stale: bool

    @property
    def tried(self) -> str:
        if not self.use.tried or self.is_live:
            return ""
        times = "once" if self.use.tried == 1 else f"{self.use.tried:,} times"
        ended = self.token.revoked_at or self.token.expires_at
        since = ended is not None and ended > timezone.now() - timedelta(days=7)
        return f"tried {times} {'since' if since else 'in 7 days'}"


@dataclass(frozen=True, slots=True)
class TokenList:
    """One page of tokens, and what was asked for. `has_use` is False if no app knows how tokens are used."""

    page: Page[BearerToken]
    rows: list[Row]
    query: str
    state: str
    sort: str
    live: int
    stale: int
    ended: int
    has_use: bool
    last_error: LastError | None

    @property
    def is_filtered(self) -> bool:
        return bool(self.query or self.state)

    @property
    def filters(self) -> list[tuple[str, str, int]]:
        """Value, name and number of tokens of each filter that would find something."""
        counts = {"": self.live, "stale": self.stale, "ended": self.ended, "all": self.live + self.ended}
        return [(value, name, counts[value]) for value, name in FILTERS.items() if counts[value] or value == ""]


def token_list(request: HttpRequest, endpoint: Endpoint) -> TokenList:
    """The tokens that the parameters `q`, `tokens`, `sort` and `page` of the request ask for."""
    query, state = request.GET.get("q", "").strip()[:100], request.GET.get("tokens", "")
    sort = request.GET.get("sort", "")
    state, sort = state if state in FILTERS else "", sort if sort in SORTS else "created"
    every = endpoint.tokens.all()
    live = every.live()
    found = {"": live, "stale": live.filter(_stale()), "ended": every.exclude(live_tokens()), "all": every}[state]
    if query:
        found = found.filter(Q(label__icontains=query) | Q(preview__icontains=query))
    total, alive, stale = _counts(every)
    known = {"": alive, "stale": stale, "ended": total - alive, "all": total}[state]
    page = page_of(found.select_related("parent").order_by(*SORTS[sort]), request, count=None if query else known)
    tokens = list(page)
    use = panels.facts.use_of(endpoint, tokens) if panels.facts.use_of is not None else panels.EndpointUse()
    return TokenList(
        page=page,
        rows=[_row(token, use.tokens.get(token.pk, TokenUse())) for token in tokens],
        query=query,
        state=state,
        sort=sort,
        live=alive,
        stale=stale,
        ended=total - alive,
        has_use=panels.facts.use_of is not None,
        last_error=use.last_error,
    )


def _row(token: BearerToken, use: TokenUse) -> Row:
    now = timezone.now()
    is_live = token.revoked_at is None and (token.expires_at is None or token.expires_at > now)
    used = token.last_used_at or token.created_at
    return Row(token, use, is_live, is_live and used < now - timedelta(days=STALE_DAYS))


def _stale() -> Q:
    """Not used for `STALE_DAYS`, and not new either."""
    before = timezone.now() - timedelta(days=STALE_DAYS)
    return Q(created_at__lt=before) & (Q(last_used_at=None) | Q(last_used_at__lt=before))


def _counts(tokens: BearerTokenQuerySet[BearerToken]) -> tuple[int, int, int]:
    """The number of tokens, of those that work, and of those that work and are stale."""
    found = tokens.aggregate(
        total=Count("pk"),
        live=Count("pk", filter=live_tokens()),
        stale=Count("pk", filter=live_tokens() & _stale()),
    )
    return found["total"], found["live"], found["stale"]
