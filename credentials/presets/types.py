"""The types of a preset."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import urlsplit

STATIC = "static"
SECRET_PLACEHOLDER = "{{secret}}"  # noqa: S105
BASE64_PLACEHOLDER = "{{secret:base64}}"
BEARER = f"Bearer {SECRET_PLACEHOLDER}"


class Dialect(StrEnum):
    """The SDK that clients of a provider use. Errors of the proxy have the form that this SDK expects."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """A read-only GET that responds with one of `refusals` to an invalid key. `path` is appended to the destination.

    Without a status in `refusals` that only an invalid key gets, the key may be saved unchecked.
    """

    path: str
    headers: tuple[tuple[str, str], ...] = ()
    refusals: frozenset[int] = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Example:
    """A request for a provider whose API is in none of the dialects: a GET, or a POST if there is a `body`."""

    path: str
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def method(self) -> str:
        return "POST" if self.body else "GET"


class Group(StrEnum):
    """The headings of the page that offers providers."""

    MODELS = "Model makers"
    HOSTS = "Model hosts and routers"
    CLOUDS = "Clouds"
    MEDIA = "Speech, images and video"
    SEARCH = "Search and embeddings"
    OTHER = "Anything else"


class Choice(NamedTuple):
    """One of the destinations that a provider has."""

    label: str
    url: str


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider.

    The destination is `destination_url`, or the person chooses one of `choices`, or enters one if both are empty. If
    `key_check` is None, keys are not checked.

    `sdk_suffix` is what the SDK of `dialect` wants after the endpoint's URL. `suffix_at` has it for a stored
    destination, which may contain a part of it.
    """

    slug: str
    name: str
    summary: str
    destination_url: str
    key_check: KeyCheck | None
    docs_url: str
    keys_url: str = ""
    group: Group = Group.MODELS
    header_name: str = "Authorization"
    header_template: str = BEARER
    dialect: Dialect = Dialect.OPENAI
    sdk_suffix: str = "/v1"
    key_example: str = "sk-…"
    extra_dialects: tuple[Dialect, ...] = field(default=())
    choices: tuple[Choice, ...] = ()
    choice_label: str = "Region"
    destination_example: str = "https://api.example.com"
    words: str = ""  # by which people search for it too
    kinds: tuple[str, ...] = (STATIC,)  # of credentials, as in `models.Credential`
    example: Example | None = None  # instead of tools for the dialect, which then is only the form of Strake's errors

    @property
    def needs_destination(self) -> bool:
        """Whether the person enters the destination."""
        return not self.destination_url and not self.choices

    @property
    def has_destinations(self) -> bool:
        """Whether an endpoint's destination can be changed to another one of this provider."""
        return not self.destination_url

    @property
    def destination_urls(self) -> tuple[str, ...]:
        """The destinations that are known beforehand."""
        return (self.destination_url,) if self.destination_url else tuple(choice.url for choice in self.choices)

    def suffix_at(self, destination_url: str) -> str:
        """Return what SDKs want after the URL of an endpoint with this destination."""
        path = urlsplit(destination_url).path
        return "" if _VERSION.search(path) else _without_overlap(path, self.sdk_suffix)

    def check_path_at(self, destination_url: str) -> str:
        """The path of the key check behind this destination. "" if there is no check."""
        return _without_overlap(urlsplit(destination_url).path, self.key_check.path) if self.key_check else ""

    @property
    def is_custom(self) -> bool:
        """Whether the person also enters the header."""
        return self.slug == "custom"


_VERSION = re.compile(r"/v[0-9]+[a-z0-9]*/?\Z")


def _without_overlap(base: str, path: str) -> str:
    """Return `path` without the segments at its start that `base` already ends with."""
    segments = path.split("/")
    for end in range(len(segments), 1, -1):
        if base.rstrip("/").endswith("/".join(segments[:end])):
            return "/".join(["", *segments[end:]]) if end < len(segments) else ""
    return path
