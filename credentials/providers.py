"""The one table of providers: where a key is sent, in which header, and how it is checked when pasted."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from django.conf import settings

from credentials.errors import UnknownProvider

SECRET_PLACEHOLDER = "{{secret}}"  # noqa: S105
BEARER = f"Bearer {SECRET_PLACEHOLDER}"


class Dialect(StrEnum):
    """Whose SDK talks to a provider; errors of the proxy take that SDK's shape."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """One read-only request that answers 401 or 403 to a wrong key. `path` follows the destination."""

    path: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider. An empty `destination_url` means that the person gives it."""

    slug: str
    name: str
    summary: str
    destination_url: str
    key_check: KeyCheck | None
    docs_url: str
    keys_url: str = ""
    header_name: str = "Authorization"
    header_template: str = BEARER
    dialect: Dialect = Dialect.OPENAI
    sdk_suffix: str = "/v1"
    key_example: str = "sk-…"
    extra_dialects: tuple[Dialect, ...] = field(default=())

    @property
    def needs_destination(self) -> bool:
        return not self.destination_url

    @property
    def is_custom(self) -> bool:
        """Whether the person also chooses the header."""
        return self.slug == "custom"


_ANTHROPIC_VERSION = ("anthropic-version", "2023-06-01")

# Key checks: a model list needs a valid key everywhere but at OpenRouter, whose list is public and would accept any
# string; it has /key for this. Perplexity lists no models; its list of asynchronous requests needs a key.
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
        "https://api.groq.com/openai",
        KeyCheck("/v1/models"),
        "https://console.groq.com/docs",
        "https://console.groq.com/keys",
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
        "Any HTTPS API that takes a key in a header",
        "",
        None,
        "",
        sdk_suffix="",
        key_example="",
    ),
)

DEMO_SLUG = "demo"
PROVIDERS: dict[str, Provider] = {provider.slug: provider for provider in _PROVIDERS}


def demo() -> Provider:
    """The upstream that Strake itself runs on loopback, so that a newcomer without a key sees everything work."""
    return Provider(
        DEMO_SLUG,
        "Demo",
        "No key at hand? A practice provider on this machine; any key will do",
        f"http://127.0.0.1:{settings.STRAKE_DEMO_PORT}",
        KeyCheck("/v1/models"),
        "",
        key_example="any-text-will-do",
        extra_dialects=(Dialect.ANTHROPIC,),
    )


def available() -> list[Provider]:
    """The providers a person can choose here; the demo comes first, and in the embedded default only."""
    return ([demo()] if settings.STRAKE_DEMO_PORT else []) + list(PROVIDERS.values())


def get(slug: str) -> Provider:
    """The provider of this slug. Raises `UnknownProvider`."""
    if slug == DEMO_SLUG and settings.STRAKE_DEMO_PORT:
        return demo()
    try:
        return PROVIDERS[slug]
    except KeyError:
        raise UnknownProvider(f"There is no provider called {slug[:40]!r} here.") from None
