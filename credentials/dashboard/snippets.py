"""Configuration snippets for common tools, with the URL of an endpoint and a token filled in.

The texts are in templates/credentials/snippets/. Tests run the ones for curl, Python and JavaScript.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from django.conf import settings
from django.template import Context, Engine

from credentials import providers
from credentials.errors import UnknownProvider
from credentials.models import Endpoint
from credentials.providers import DEMO_SLUG, Dialect, Example, Provider

TOKEN_PLACEHOLDER = "YOUR_STRAKE_TOKEN"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Part:
    """One text to copy. `heading` says where it goes, `template` is its file without .txt.

    Without a folder, the file is in templates/credentials/snippets/.
    """

    heading: str
    template: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that can use an endpoint. Its parts depend on the dialect of the provider's API."""

    slug: str
    name: str
    parts: Mapping[Dialect, tuple[Part, ...]]


@dataclass(frozen=True, slots=True)
class Text:
    """A part with its values filled in. `id` is unique on a page."""

    id: str
    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Snippet:
    """The texts for one tool."""

    tool: Tool
    texts: tuple[Text, ...]


_PYTHON = "Python"
_JAVASCRIPT = "JavaScript"
_CURL = {
    dialect: (
        Part("A streamed answer", f"curl-{dialect}-stream"),
        Part("An answer in one piece", f"curl-{dialect}"),
    )
    for dialect in Dialect
}

TOOLS = (
    Tool("curl", "curl", _CURL),
    Tool(
        "claude-code",
        "Claude Code",
        {
            Dialect.ANTHROPIC: (
                Part("In the shell", "claude-code"),
                Part("Or for good, in ~/.claude/settings.json", "claude-code-settings"),
            )
        },
    ),
    Tool(
        "codex",
        "Codex",
        {Dialect.OPENAI: (Part("In ~/.codex/config.toml", "codex"), Part("In the shell", "codex-shell"))},
    ),
    Tool("cursor", "Cursor", {Dialect.OPENAI: (Part("In Settings, Models, API Keys, OpenAI", "cursor"),)}),
    Tool(
        "gemini-cli",
        "Gemini CLI",
        {
            Dialect.GEMINI: (
                Part("In ~/.gemini/settings.json", "gemini-cli-settings"),
                Part("In the shell", "gemini-cli"),
            )
        },
    ),
    Tool("openai-python", "OpenAI Python", {Dialect.OPENAI: (Part(_PYTHON, "openai-python"),)}),
    Tool("openai-javascript", "OpenAI JavaScript", {Dialect.OPENAI: (Part(_JAVASCRIPT, "openai-javascript"),)}),
    Tool("anthropic-python", "Anthropic Python", {Dialect.ANTHROPIC: (Part(_PYTHON, "anthropic-python"),)}),
    Tool(
        "anthropic-javascript",
        "Anthropic JavaScript",
        {Dialect.ANTHROPIC: (Part(_JAVASCRIPT, "anthropic-javascript"),)},
    ),
    Tool("langchain", "LangChain", {dialect: (Part(_PYTHON, f"langchain-{dialect}"),) for dialect in Dialect}),
)

# A model that most accounts of the provider can use. People replace it with the one they want.
_MODELS = {
    DEMO_SLUG: "strake-demo",
    "openai": "gpt-4.1-mini",
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-2.5-flash",
    "xai": "grok-4",
    "openrouter": "openai/gpt-4.1-mini",
    "groq": "llama-3.3-70b-versatile",
    "mistral": "mistral-small-latest",
    "deepseek": "deepseek-chat",
    "together": "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    "fireworks": "accounts/fireworks/models/llama-v3p3-70b-instruct",
    "cohere": "command-a-03-2025",
    "perplexity": "sonar",
    "moonshot": "kimi-k2.6",
    "zhipu": "glm-4.7",
    "alibaba": "qwen-plus",
    "cerebras": "gpt-oss-120b",
    "deepinfra": "meta-llama/Llama-3.3-70B-Instruct",
    "huggingface": "openai/gpt-oss-120b",
    "nvidia": "meta/llama-3.1-8b-instruct",
    "github": "openai/gpt-4.1-mini",
    "bedrock": "openai.gpt-oss-20b-1:0",
    "bedrock-mantle": "openai.gpt-oss-20b",
}


def snippets_for(endpoint: Endpoint, provider: Provider, token: str = TOKEN_PLACEHOLDER) -> list[Snippet]:
    """The snippets of every tool that works with `provider`. The first is curl."""
    snippets = (snippet(tool, endpoint, provider, token) for tool in TOOLS)
    return [found for found in snippets if found is not None]


def snippet(tool: Tool, endpoint: Endpoint, provider: Provider, token: str = TOKEN_PLACEHOLDER) -> Snippet | None:
    """The texts for one tool, or None if the tool does not support the provider's API."""
    if provider.example is not None:
        return _example(provider.example, tool, endpoint, token) if tool.slug == "curl" else None
    dialect = next((dialect for dialect in dialects_of(provider) if dialect in tool.parts), None)
    if dialect is None:
        return None
    suffix = sdk_suffix(endpoint, provider) if dialect == provider.dialect else ""
    values = {
        "url": endpoint.url,
        "server": settings.STRAKE_BASE_URL,
        "base": endpoint.url + suffix,
        "subdomain": endpoint.subdomain,
        "provider": provider.slug,
        "token": token,
        "model": _MODELS.get(provider.slug, "your-model"),
    }
    texts = (
        Text(part.template.rpartition("/")[2], part.heading, _render(part.template, values))
        for part in tool.parts[dialect]
    )
    return Snippet(tool, tuple(texts))


def _example(example: Example, tool: Tool, endpoint: Endpoint, token: str) -> Snippet:
    values = {"url": endpoint.url, "token": token, "example": example}
    return Snippet(tool, (Text("curl-example", "In the shell", _render("curl-example", values)),))


def sdk_suffix(endpoint: Endpoint, provider: Provider) -> str:
    """What SDKs of the provider's main dialect want after the endpoint's URL."""
    if cast(UUID | None, endpoint.owner_id) is None:  # a sample
        return provider.sdk_suffix
    return provider.suffix_at(endpoint.credential.destination_url)


def base_urls(endpoint: Endpoint) -> dict[str, str]:
    """What SDKs take as their base URL, for each API that the endpoint's provider has. The main one comes first."""
    try:
        provider = providers.get(endpoint.provider)
    except UnknownProvider:
        return {}
    suffixes = dict.fromkeys(dialects_of(provider), "")
    if provider.dialect in suffixes:
        suffixes[provider.dialect] = sdk_suffix(endpoint, provider)
    return {str(dialect): endpoint.url + suffix for dialect, suffix in suffixes.items()}


def dialects_of(provider: Provider) -> Iterable[Dialect]:
    """The API dialects of a provider for which there are tools. The main one comes first."""
    return () if provider.example is not None else (provider.dialect, *provider.extra_dialects)


def _render(name: str, values: Mapping[str, object]) -> str:
    # The result is plain text. The template of the page escapes it.
    path = name if "/" in name else f"credentials/snippets/{name}"
    template = Engine.get_default().get_template(f"{path}.txt")
    return template.render(Context(values, autoescape=False)).strip("\n")
