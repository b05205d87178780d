"""Parts and facts that higher apps add to the pages of endpoints. They register them in `AppConfig.ready`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto

from django.db.models.expressions import Combinable
from django.http import HttpRequest
from django.template.loader import render_to_string

from credentials.models import BearerToken, Endpoint


class Place(Enum):
    """A place on a page that takes one panel."""

    BELOW_ENDPOINT_FACTS = auto()
    BELOW_ENDPOINT_TOKENS = auto()
    BELOW_NEW_TOKEN = auto()


@dataclass(frozen=True, slots=True)
class Panel:
    """A template, and the function that adds to its context."""

    template: str
    context: Callable[[HttpRequest, Endpoint], dict[str, object]] = lambda request, endpoint: {}


@dataclass(frozen=True, slots=True)
class Column:
    """A column in the list of endpoints. `figures` returns one text per endpoint, in the order of its argument.

    The list can be sorted by it: `number` is a query expression, and `key` names it in the URL.
    """

    key: str
    heading: str
    figures: Callable[[Sequence[Endpoint]], list[str]]
    number: Callable[[], Combinable]


@dataclass(frozen=True, slots=True)
class LastError:
    """The newest request that failed, with its reason in words. `anchor` is its entry on the page of errors, or ""."""

    at: datetime
    status: int
    reason: str
    is_of_provider: bool
    anchor: str = ""


@dataclass(slots=True)
class TokenUse:
    """The forwarded requests with one token in 24 hours and 7 days, and those that Strake refused in 7 days.

    `tried` counts the refused requests with a token that was revoked or had expired.
    """

    day: int = 0
    week: int = 0
    refused: int = 0
    tried: int = 0
    last_error: LastError | None = None


@dataclass(frozen=True, slots=True)
class EndpointUse:
    """The use of an endpoint by the ids of its tokens, and its last error in 7 days."""

    tokens: Mapping[str, TokenUse] = field(default_factory=dict)
    last_error: LastError | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the first-run checklist."""

    text: str
    is_done: bool


@dataclass(slots=True)
class Facts:
    """Functions of higher apps. Without them, pages leave out what these know.

    `use_of` gets an endpoint and the tokens of which the last error is shown. `path_allowed` gets the paths that a
    token is limited to, a method and a path. `operator_steps` returns steps that only an operator can take.
    """

    use_of: Callable[[Endpoint, Sequence[BearerToken]], EndpointUse] | None = None
    path_allowed: Callable[[tuple[str, ...], str, bytes], bool] | None = None
    operator_steps: Callable[[], list[Step]] | None = None


panels: dict[Place, Panel] = {}
columns: list[Column] = []
facts = Facts()


def allows(allowed_paths: Sequence[str], method: str, path: str) -> bool:
    """True if a token with these `allowed_paths` may send this request, by the proxy's own matcher."""
    if not allowed_paths or facts.path_allowed is None:
        return True
    return facts.path_allowed(tuple(allowed_paths), method, path.encode())


def render(place: Place, request: HttpRequest, endpoint: Endpoint, **context: object) -> str:
    """The HTML of the panel at `place`, or "" if no app has registered one. The template also sees `context`."""
    panel = panels.get(place)
    if panel is None:
        return ""
    return render_to_string(
        panel.template, {"endpoint": endpoint, **context, **panel.context(request, endpoint)}, request
    )
