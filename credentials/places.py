"""Further places of a credential: headers and query parameters that hold the key, or a constant value.

People write a place as a line, `Name: value` for a header and `?name=value` for a query parameter. `{{secret}}` in the
value stands for the key, and `{{secret:base64}}` for its Base64 form (RFC 4648 §4), as Basic authentication needs it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote

from credentials import destinations
from credentials.errors import InvalidDestination
from credentials.providers import BASE64_PLACEHOLDER, SECRET_PLACEHOLDER, Provider

MAX_PLACES = 8
_PARAMETER = re.compile(r"[A-Za-z0-9._~-]{1,64}")  # never percent-encoded, so that there is one spelling


class Position(StrEnum):
    HEADER = "header"
    QUERY = "query"


class Place(NamedTuple):
    """A header or a query parameter. Without a placeholder in its template, it is a constant."""

    position: str
    name: str
    template: str

    @property
    def holds_key(self) -> bool:
        return SECRET_PLACEHOLDER in self.template or BASE64_PLACEHOLDER in self.template

    @property
    def folded_name(self) -> str:
        """The name as servers compare it. CGI-like servers map underscores and dashes to the same variable."""
        name = self.name.lower()
        return name.replace("_", "-") if self.position == Position.HEADER else name

    def __str__(self) -> str:
        return f"?{self.name}={self.template}" if self.position == Position.QUERY else f"{self.name}: {self.template}"

    @property
    def label(self) -> str:
        """The place without its value, which may be secret: for audit events."""
        return f"?{self.name}" if self.position == Position.QUERY else self.name


def parse(lines: Iterable[str]) -> list[Place]:
    """Read one place from each line that is not empty. Raises `InvalidDestination`. `check` does the rest."""
    return [_parse_line(line.strip()) for line in lines if line.strip()]


def _parse_line(line: str) -> Place:
    if line.startswith("?"):
        name, separator, template = line[1:].partition("=")
        position = Position.QUERY
    else:
        name, separator, template = line.partition(":")
        position = Position.HEADER
    if not separator:
        raise _error("Write each line as Name: value for a header, or as ?name=value for a query parameter.")
    return Place(position, name.strip(), template.strip())


def check(
    header_name: str, header_template: str, further: Iterable[Sequence[str]]
) -> tuple[str, str, tuple[Place, ...]]:
    """Return the header and the further places without surrounding spaces. Raises `InvalidDestination`.

    The header may be empty if one of the places holds the key.
    """
    places = tuple(_check_place(place) for place in further)
    if len(places) > MAX_PLACES:
        raise _error(f"There can be at most {MAX_PLACES} further headers and query parameters.")
    if header_name or header_template:
        header_name, header_template = destinations.check_header(header_name, header_template)
    elif not any(place.holds_key for place in places):
        raise _error(f"None of these holds the key. Put {SECRET_PLACEHOLDER} in the value of one.")
    used = {("header", Place(Position.HEADER, header_name, "").folded_name)}
    for place in places:
        where = (place.position, place.folded_name)
        if where in used:
            raise _error(f"{place.label} is there twice.")
        used.add(where)
    return header_name, header_template, places


def with_default_header(
    provider: Provider, header_name: str, header_template: str, further: Iterable[Sequence[str]]
) -> tuple[str, str]:
    """Return the header, completed from the provider's, unless it is empty and one of the places holds the key."""
    if not header_name and not header_template and any(Place(*place).holds_key for place in further):
        return "", ""
    return header_name or provider.header_name, header_template or provider.header_template


def _check_place(stored: Sequence[str]) -> Place:
    if len(stored) != 3 or not all(isinstance(part, str) for part in stored):
        raise _error("A place has a position, a name and a value.")
    place = Place(stored[0], stored[1].strip(), stored[2].strip())
    if place.position == Position.HEADER:
        try:
            destinations.check_header_name(place.name)
        except InvalidDestination as error:
            raise _error(str(error)) from None
    elif place.position != Position.QUERY:
        raise _error("A place is either a header or a query parameter.")
    elif not _PARAMETER.fullmatch(place.name):
        raise _error("The name of a query parameter consists of letters, digits, dots, dashes and underscores.")
    if not place.template or len(place.template) > 256 or not all(" " <= c <= "~" for c in place.template):
        raise _error(f"The value of {place.label} must have 1 to 256 printable ASCII characters.")
    placeholders = place.template.count(SECRET_PLACEHOLDER) + place.template.count(BASE64_PLACEHOLDER)
    if placeholders > 1 or place.template.count("{{") != placeholders:
        raise _error(f"The value of {place.label} may contain {SECRET_PLACEHOLDER} or {BASE64_PLACEHOLDER}, once.")
    return place


def _error(message: str) -> InvalidDestination:
    return InvalidDestination(message, field="places")


def fill(template: str, key: str) -> str:
    """Put a key into a template. For the key check only: the proxy fills templates in memory that it can wipe."""
    if BASE64_PLACEHOLDER in template:
        return template.replace(BASE64_PLACEHOLDER, base64.b64encode(key.encode()).decode())
    return template.replace(SECRET_PLACEHOLDER, key)


def fill_all(places: Iterable[Place], key: str) -> tuple[list[tuple[str, str]], str]:
    """Return the headers and the query of these places, with the key. For the key check only, like `fill`."""
    headers, parameters = [], []
    for place in places:
        value = fill(place.template, key)
        if place.position == Position.QUERY:
            parameters.append(f"{place.name}={quote(value, safe='')}")
        else:
            headers.append((place.name, value))
    return headers, "&".join(parameters)
