"""Parts that higher apps add to the pages of endpoints. They register them in `AppConfig.ready`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from django.db.models.expressions import Combinable
from django.http import HttpRequest
from django.template.loader import render_to_string

from credentials.models import Endpoint


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


panels: dict[Place, Panel] = {}
columns: list[Column] = []


def render(place: Place, request: HttpRequest, endpoint: Endpoint, **context: object) -> str:
    """The HTML of the panel at `place`, or "" if no app has registered one. The template also sees `context`."""
    panel = panels.get(place)
    if panel is None:
        return ""
    return render_to_string(
        panel.template, {"endpoint": endpoint, **context, **panel.context(request, endpoint)}, request
    )
