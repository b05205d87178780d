"""Configuration snippets for common tools, with the URL of an endpoint and a token filled in.

The texts are in templates/credentials/snippets/. Tests run the ones for curl, Python and JavaScript.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from django.conf import settings
from django.template import Context, Engine

from credentials import providers
from credentials.dashboard import panels
from credentials.errors import UnknownProvider
from credentials.models import Endpoint
from credentials.providers import DEMO_SLUG, Dialect, Example, Provider

TOKEN_PLACEHOLDER = "YOUR_STRAKE_TOKEN"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Part:
    """One text to copy. `heading` says where it goes, `template` is its file without .txt.

    Without a folder, the file is in templates/credentials/snippets/. `calls` is the path of its request, after the
    base URL, if that is not the usual one of its dialect.
    """

    heading: str
    template: str
    calls: str = ""


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


# What a snippet POSTs, after the base URL.
_USUAL_CALL = {
    Dialect.OPENAI: "/chat/completions",
    Dialect.ANTHROPIC: "/v1/messages",
    Dialect.GEMINI: "/v1beta/models/{model}:generateContent",
}
_STREAMED_CALL = {Dialect.GEMINI: "/v1beta/models/{model}:streamGenerateContent"}

_PYTHON = "Python"
_JAVASCRIPT = "JavaScript"
_CURL = {
    dialect: (
        Part("Streaming", f"curl-{dialect}-stream", _STREAMED_CALL.get(dialect, "")),
        Part("Non-streaming", f"curl-{dialect}"),
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
                Part("Or permanently, in ~/.claude/settings.json", "claude-code-settings"),
            )
        },
    ),
    Tool(
        "codex",
        "Codex",
        {
            Dialect.OPENAI: (
                Part("In ~/.codex/config.toml", "codex", "/responses"),
                Part("In the shell", "codex-shell", "/responses"),
            )
        },
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


ENV = Tool("env", ".env", {})


def snippets_for(
    endpoint: Endpoint,
    provider: Provider,
    token: str = TOKEN_PLACEHOLDER,
    *,
    allowed_paths: Sequence[str] = (),
) -> list[Snippet]:
    """The snippets of every tool that works with `provider` and a token with these limits. The first is curl.

    Without a tool for its limits, the token gets one curl line that they allow.
    """
    every = (snippet(tool, endpoint, provider, token, allowed_paths=allowed_paths) for tool in TOOLS)
    found = [filled for filled in every if filled is not None]
    if not any(filled.tool.slug == "curl" for filled in found):
        found.insert(0, _allowed_call(endpoint, token, allowed_paths))
    return found


def snippet(
    tool: Tool,
    endpoint: Endpoint,
    provider: Provider,
    token: str = TOKEN_PLACEHOLDER,
    *,
    allowed_paths: Sequence[str] = (),
) -> Snippet | None:
    """The texts for one tool, or None if the tool does not support the provider's API or calls no allowed path."""
    if provider.example is not None:
        return _example(provider.example, tool, endpoint, token, allowed_paths) if tool.slug == "curl" else None
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
    texts = tuple(
        Text(part.template.rpartition("/")[2], part.heading, _render(part.template, values))
        for part in tool.parts[dialect]
        if panels.allows(
            allowed_paths, "POST", suffix + (part.calls or _USUAL_CALL[dialect]).format(model=values["model"])
        )
    )
    return Snippet(tool, texts) if texts else None


def environment(endpoint: Endpoint, provider: Provider, token: str = TOKEN_PLACEHOLDER) -> Snippet:
    """The variables that the SDKs of the provider's dialects read, as the lines of a .env file."""
    lines = []
    for dialect in dialects_of(provider):
        suffix = sdk_suffix(endpoint, provider) if dialect == provider.dialect else ""
        base_name, key_name = _VARIABLES[dialect]
        lines += [f"{base_name}={endpoint.url}{suffix}", f"{key_name}={token}"]
    lines = lines or [f"STRAKE_URL={endpoint.url}", f"STRAKE_TOKEN={token}"]
    return Snippet(ENV, (Text("env", "In the .env file of your project", "\n".join(lines)),))


_VARIABLES = {
    Dialect.OPENAI: ("OPENAI_BASE_URL", "OPENAI_API_KEY"),
    Dialect.ANTHROPIC: ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"),
    Dialect.GEMINI: ("GOOGLE_GEMINI_BASE_URL", "GEMINI_API_KEY"),
}


def _example(
    example: Example, tool: Tool, endpoint: Endpoint, token: str, allowed_paths: Sequence[str]
) -> Snippet | None:
    if not panels.allows(allowed_paths, example.method, example.path.partition("?")[0] or "/"):
        return None
    values = {"url": endpoint.url, "token": token, "example": example}
    return Snippet(tool, (Text("curl-example", "In the shell", _render("curl-example", values)),))


def _allowed_call(endpoint: Endpoint, token: str, allowed_paths: Sequence[str]) -> Snippet:
    """A curl line for the first allowed path, a GET if there is one. Wildcards are left for the person to fill in."""
    first = min(allowed_paths, key=lambda entry: (not entry.startswith(("GET", "*")), "*" in entry[2:]))
    method, _, path = first.partition(" ")
    values = {"url": endpoint.url, "token": token, "path": path, "method": "GET" if method == "*" else method}
    text = Text("curl-allowed", "In the shell", _render("curl-allowed", values))
    return Snippet(TOOLS[0], (text,))


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
