"""Cards that higher apps add to the settings page. They register them in `AppConfig.ready`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.http import HttpRequest
from django.template.loader import render_to_string


@dataclass(frozen=True, slots=True)
class Card:
    """A template, and the function that makes its context."""

    template: str
    context: Callable[[HttpRequest], dict[str, object]]


cards: list[Card] = []


def render(request: HttpRequest) -> list[str]:
    """The HTML of every card."""
    return [render_to_string(card.template, card.context(request), request) for card in cards]
