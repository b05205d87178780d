"""The table of providers: where a key is sent, in which header, and how a pasted key is checked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import urlsplit

from django.conf import settings

from credentials.errors import UnknownProvider

SECRET_PLACEHOLDER = "{{secret}}"  # noqa: S105
SECRET_BASE64_PLACEHOLDER = "{{secret:base64}}"  # noqa: S105
BEARER = f"Bearer {SECRET_PLACEHOLDER}"


class Dialect(StrEnum):
    """The SDK that clients of a provider use. Errors of the proxy have the form that this SDK expects."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """A read-only GET that responds 401 or 403 to an invalid key. `path` is appended to the destination."""

    path: str
    headers: tuple[tuple[str, str], ...] = ()


class Group(StrEnum):
    """Where a provider is on the page that offers them."""

    MODELS = "Models"
    CLOUDS = "Clouds"
    HOSTS = "Open models"
    SEARCH = "Search and embeddings"
    MEDIA = "Speech, images and video"
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
    words: str = ""  # by which the provider is found too

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
        """What SDKs want after the URL of an endpoint with this destination."""
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


_ANTHROPIC_VERSION = ("anthropic-version", "2023-06-01")

# Key checks list the models, which needs a valid key, with two exceptions. OpenRouter's list is public, so its /key is
# used. Perplexity has no list of models, so its list of asynchronous requests is used.
_PROVIDERS = (
    Provider(
        "openai",
        "OpenAI",
        "GPT and o-series models, images, audio, realtime",
        "https://api.openai.com",
        KeyCheck("/v1/models"),
        "https://platform.openai.com/docs/api-reference",
        "https://platform.openai.com/api-keys",
        key_example="sk-proj-…",
    ),
    Provider(
        "anthropic",
        "Anthropic",
        "Claude models, Claude Code",
        "https://api.anthropic.com",
        KeyCheck("/v1/models", (_ANTHROPIC_VERSION,)),
        "https://docs.anthropic.com/en/api",
        "https://console.anthropic.com/settings/keys",
        header_name="x-api-key",
        header_template=SECRET_PLACEHOLDER,
        dialect=Dialect.ANTHROPIC,
        sdk_suffix="",
        key_example="sk-ant-…",
    ),
    Provider(
        "gemini",
        "Google Gemini",
        "Gemini models, Gemini CLI",
        "https://generativelanguage.googleapis.com",
        KeyCheck("/v1beta/models"),
        "https://ai.google.dev/api",
        "https://aistudio.google.com/apikey",
        header_name="x-goog-api-key",
        header_template=SECRET_PLACEHOLDER,
        dialect=Dialect.GEMINI,
        sdk_suffix="",
        key_example="AIza…",
    ),
    Provider(
        "xai",
        "xAI",
        "Grok models",
        "https://api.x.ai",
        KeyCheck("/v1/models"),
        "https://docs.x.ai",
        "https://console.x.ai",
        key_example="xai-…",
    ),
    Provider(
        "openrouter",
        "OpenRouter",
        "One account for many models",
        "https://openrouter.ai/api",
        KeyCheck("/v1/key"),
        "https://openrouter.ai/docs",
        "https://openrouter.ai/keys",
        key_example="sk-or-…",
    ),
    Provider(
        "groq",
        "Groq",
        "Open models, very fast",
        "https://api.groq.com",
        KeyCheck("/openai/v1/models"),
        "https://console.groq.com/docs",
        "https://console.groq.com/keys",
        sdk_suffix="/openai/v1",
        key_example="gsk_…",
    ),
    Provider(
        "mistral",
        "Mistral",
        "Mistral and Codestral models",
        "https://api.mistral.ai",
        KeyCheck("/v1/models"),
        "https://docs.mistral.ai/api",
        "https://console.mistral.ai/api-keys",
        key_example="",
    ),
    Provider(
        "deepseek",
        "DeepSeek",
        "DeepSeek chat and reasoning models",
        "https://api.deepseek.com",
        KeyCheck("/models"),
        "https://api-docs.deepseek.com",
        "https://platform.deepseek.com/api_keys",
    ),
    Provider(
        "together",
        "Together AI",
        "Open models, hosted",
        "https://api.together.xyz",
        KeyCheck("/v1/models"),
        "https://docs.together.ai",
        "https://api.together.ai/settings/api-keys",
        key_example="",
    ),
    Provider(
        "fireworks",
        "Fireworks AI",
        "Open models, hosted",
        "https://api.fireworks.ai/inference",
        KeyCheck("/v1/models"),
        "https://docs.fireworks.ai/api-reference",
        "https://app.fireworks.ai/settings/users/api-keys",
        key_example="fw_…",
    ),
    Provider(
        "cohere",
        "Cohere",
        "Command, Embed and Rerank models",
        "https://api.cohere.com",
        KeyCheck("/v1/models"),
        "https://docs.cohere.com/reference/about",
        "https://dashboard.cohere.com/api-keys",
        sdk_suffix="/compatibility/v1",
        key_example="",
    ),
    Provider(
        "perplexity",
        "Perplexity",
        "Sonar models with search",
        "https://api.perplexity.ai",
        KeyCheck("/async/chat/completions"),
        "https://docs.perplexity.ai",
        "https://www.perplexity.ai/settings/api",
        sdk_suffix="",
        key_example="pplx-…",
    ),
    Provider(
        "azure-openai",
        "Azure OpenAI",
        "OpenAI models in your Azure resource",
        "",
        KeyCheck("/openai/models?api-version=2024-10-21"),
        "https://learn.microsoft.com/azure/ai-services/openai/reference",
        "https://portal.azure.com",
        header_name="api-key",
        header_template=SECRET_PLACEHOLDER,
        sdk_suffix="/openai/v1",
        key_example="",
    ),
    Provider(
        "custom",
        "Custom",
        "Any HTTPS API with its key in headers or the query",
        "",
        None,
        "",
        group=Group.OTHER,
        key_example="",
    ),
)

DEMO_SLUG = "demo"
PROVIDERS: dict[str, Provider] = {provider.slug: provider for provider in _PROVIDERS}


def has_fixed_destination(slug: str) -> bool:
    """True for providers whose destination is not a person's choice."""
    provider = PROVIDERS.get(slug)
    return slug == DEMO_SLUG if provider is None else not provider.needs_destination


def fixed_hosts() -> frozenset[str]:
    """Return the host names of the providers whose destination nobody can change."""
    return frozenset(
        host
        for provider in _PROVIDERS
        for url in provider.destination_urls
        if (host := urlsplit(url).hostname) is not None
    )


def demo() -> Provider:
    """The provider that Strake runs on loopback, to try everything without a provider key."""
    return Provider(
        DEMO_SLUG,
        "Demo",
        "No key yet? A demo provider on this machine. Any key works.",
        f"http://127.0.0.1:{settings.STRAKE_DEMO_PORT}",
        KeyCheck("/v1/models"),
        "",
        key_example="any-text-will-do",
        extra_dialects=(Dialect.ANTHROPIC,),
    )


def available() -> list[Provider]:
    """Return the providers to choose from. The demo provider is first, and runs on loopback installations only."""
    return ([demo()] if settings.STRAKE_DEMO_PORT else []) + list(PROVIDERS.values())


def get(slug: str) -> Provider:
    """Return the provider with this slug. Raises `UnknownProvider`."""
    if slug == DEMO_SLUG and settings.STRAKE_DEMO_PORT:
        return demo()
    try:
        return PROVIDERS[slug]
    except KeyError:
        raise UnknownProvider(f"There is no provider {slug[:40]!r}.") from None
