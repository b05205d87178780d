"""The clients that have a page of documentation, and the lines that each of them needs.

The lines of the most common tools are also on endpoints' own pages (`credentials.dashboard.snippets`). Those of the
others are in templates/strake/docs/snippets/. `make clients` runs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from credentials import providers
from credentials.dashboard.snippets import TOOLS, Part, Text, Tool, dialects_of, snippet
from credentials.models import Endpoint
from credentials.providers import Dialect, Provider

AGENTS = "Agents and editors"
SDKS = "SDKs and frameworks"
OTHERS = "Terminal, MCP and automation"
GROUPS = (AGENTS, SDKS, OTHERS)

DIALECT_NAMES = {
    Dialect.OPENAI: "OpenAI and compatible providers",
    Dialect.ANTHROPIC: "Anthropic",
    Dialect.GEMINI: "Google Gemini",
}

_AGENTS_ON_ENDPOINT_PAGES = {"claude-code", "codex", "cursor", "gemini-cli"}
_FOLDER = "strake/docs/snippets"
_IN_THE_SHELL = "In the shell"
_PYTHON = "Python"
_JAVASCRIPT = "JavaScript"


@dataclass(frozen=True, slots=True)
class Guide:
    """A client with a page. `only` limits it to some providers, by slug; the first is the one of the example."""

    slug: str
    name: str
    group: str
    parts: Mapping[Dialect, tuple[Part, ...]]
    only: tuple[str, ...] = ()

    def dialect_for(self, provider: Provider) -> Dialect | None:
        """The API through which the client calls a provider, or None if it cannot."""
        if self.only and provider.slug not in self.only:
            return None
        if self.only:
            return next(iter(self.parts))
        return next((dialect for dialect in dialects_of(provider) if dialect in self.parts), None)

    def texts(self, endpoint: Endpoint, provider: Provider, dialect: Dialect) -> tuple[Text, ...]:
        """The lines of one API, with the URL of an endpoint filled in."""
        if self.only:
            # The lines of such a client are for these providers, whatever API others have for it.
            provider = replace(provider, dialect=dialect, example=None)
        found = snippet(Tool(self.slug, self.name, {dialect: self.parts[dialect]}), endpoint, provider)
        return found.texts if found is not None else ()

    def examples(self) -> Iterator[tuple[Dialect, Provider]]:
        """Each API of the client, with a provider that has it."""
        known = [providers.PROVIDERS[slug] for slug in self.only if slug in providers.PROVIDERS]
        for dialect in self.parts:
            yield dialect, known[0] if known else providers.get(str(dialect))


def _part(heading: str, template: str) -> tuple[Part, ...]:
    return (Part(heading, f"{_FOLDER}/{template}"),)


def _each(heading: str, template: str, *dialects: Dialect) -> dict[Dialect, tuple[Part, ...]]:
    """The same heading for several APIs, each with its template."""
    return {dialect: _part(heading, f"{template}-{dialect}") for dialect in dialects or Dialect}


_OPENAI, _ANTHROPIC, _GEMINI = Dialect.OPENAI, Dialect.ANTHROPIC, Dialect.GEMINI

_MORE = (
    Guide(
        "claude-code-bedrock",
        "Claude Code on Bedrock",
        AGENTS,
        {_ANTHROPIC: _part(_IN_THE_SHELL, "claude-code-bedrock")},
        only=("bedrock",),
    ),
    Guide("opencode", "opencode", AGENTS, _each("In ~/.config/opencode/opencode.json", "opencode")),
    Guide("kilo", "Kilo Code", AGENTS, _each("In ~/.config/kilo/kilo.json", "kilo")),
    Guide("qwen-code", "Qwen Code", AGENTS, {_OPENAI: _part(_IN_THE_SHELL, "qwen-code")}),
    Guide("copilot-cli", "Copilot CLI", AGENTS, _each(_IN_THE_SHELL, "copilot-cli", _OPENAI, _ANTHROPIC)),
    Guide("cline", "Cline", AGENTS, {_OPENAI: _part(_IN_THE_SHELL, "cline")}),
    Guide("aider", "aider", AGENTS, _each(_IN_THE_SHELL, "aider", _OPENAI, _ANTHROPIC)),
    Guide("pi", "pi", AGENTS, {_ANTHROPIC: _part("In ~/.pi/agent/models.json", "pi")}),
    Guide("continue", "Continue", AGENTS, _each("In ~/.continue/config.yaml", "continue", _OPENAI, _ANTHROPIC)),
    Guide(
        "google-genai",
        "Google Gen AI",
        SDKS,
        {_GEMINI: (*_part(_PYTHON, "google-genai-python"), *_part(_JAVASCRIPT, "google-genai-javascript"))},
    ),
    Guide("vercel-ai-sdk", "Vercel AI SDK", SDKS, _each(_JAVASCRIPT, "vercel")),
    Guide("langchain-js", "LangChain JavaScript", SDKS, _each(_JAVASCRIPT, "langchain-js")),
    Guide("litellm", "LiteLLM", SDKS, _each(_PYTHON, "litellm")),
    Guide("azure-openai", "Azure OpenAI", SDKS, {_OPENAI: _part(_PYTHON, "azure-python")}, only=("azure-openai",)),
    Guide("mistral", "Mistral", SDKS, {_OPENAI: _part(_PYTHON, "mistral-python")}, only=("mistral",)),
    Guide("cohere", "Cohere", SDKS, {_OPENAI: _part(_PYTHON, "cohere-python")}, only=("cohere",)),
    Guide("llm", "llm", OTHERS, {_OPENAI: _part(_IN_THE_SHELL, "llm")}),
    Guide("shell-gpt", "ShellGPT", OTHERS, {_OPENAI: _part(_IN_THE_SHELL, "shell-gpt")}),
    Guide(
        "mcp",
        "MCP",
        OTHERS,
        {
            _OPENAI: (
                *_part("Claude Code, in the shell", "mcp-claude-code"),
                *_part("FastMCP, Python", "mcp-fastmcp"),
            )
        },
        only=("mcp", "custom"),
    ),
    Guide(
        "automation",
        "n8n and similar",
        OTHERS,
        {
            _OPENAI: (*_part("Credential in n8n", "n8n-openai"), *_part("Any HTTP step", "http-request-node")),
            _ANTHROPIC: _part("Credential in n8n", "n8n-anthropic"),
            _GEMINI: _part("Credential in n8n", "n8n-gemini"),
        },
    ),
)


def _group_of(tool: Tool) -> str:
    if tool.slug == "curl":
        return OTHERS
    return AGENTS if tool.slug in _AGENTS_ON_ENDPOINT_PAGES else SDKS


# Parts that are not on endpoints' own pages, because they are another way to the same end.
_FURTHER_PARTS = {
    "codex": {
        _OPENAI: (
            *_part("Instead, with Codex's own provider: in ~/.codex/config.toml", "codex-built-in"),
            *_part("And once in the shell", "codex-login"),
        )
    }
}


def _guide_of(tool: Tool) -> Guide:
    further = _FURTHER_PARTS.get(tool.slug, {})
    parts = {dialect: (*parts, *further.get(dialect, ())) for dialect, parts in tool.parts.items()}
    return Guide(tool.slug, tool.name, _group_of(tool), parts)


GUIDES: dict[str, Guide] = {guide.slug: guide for guide in (*map(_guide_of, TOOLS), *_MORE)}


@dataclass(frozen=True, slots=True)
class Topic:
    """A page without an endpoint filled in. Its template is in templates/strake/docs/topics/."""

    slug: str
    name: str
    summary: str


TOPICS = {
    topic.slug: topic
    for topic in (
        Topic("base-url", "Which base URL", "With /v1, with /v1beta or bare: by client and provider"),
        Topic("cli", "The command line", "strake run: a token for exactly as long as a tool runs"),
        Topic("differences", "What is different", "The few calls that behave otherwise, and the lines that work"),
        Topic(
            "notices", "Notices", "What Strake tells you by mail and webhook, and how to check a webhook's signature"
        ),
        Topic("leaked-token", "If a token leaks", "How to end it, also without an account, and how scanners find one"),
        Topic("local-servers", "Local servers", "Ollama, vLLM and LM Studio, and what the operator sets"),
    )
}


class BaseURL(NamedTuple):
    """What some clients want after the endpoint's URL, for each of the three APIs. None if they do not have it."""

    names: str
    suffixes: tuple[str | None, str | None, str | None]


BASE_URLS = (
    BaseURL("OpenAI's and Anthropic's SDKs, LangChain", ("/v1", "", "")),
    BaseURL("Claude Code, Codex, aider, Copilot CLI, Qwen Code, Cline, pi, llm", ("/v1", "", None)),
    BaseURL("Vercel AI SDK, opencode, Kilo Code", ("/v1", "/v1", "/v1beta")),
    BaseURL("Continue", ("/v1", "/v1/", None)),
    BaseURL("LiteLLM", ("/v1", "", "/v1beta")),
    BaseURL("Google's SDKs, Gemini CLI", (None, None, "")),
    BaseURL("Together's own SDK", ("/v1", None, None)),
    BaseURL("Own SDKs of Cohere, Fireworks, Groq, Mistral and Perplexity", ("", None, None)),
)


class Compatible(NamedTuple):
    """A provider that OpenAI's SDK can call. The destination is the first, or an example."""

    name: str
    suffix: str
    destination: str


def compatible() -> list[Compatible]:
    """The providers that OpenAI's SDK can call, with what it wants after the endpoint's URL."""
    found = []
    for provider in providers.PROVIDERS.values():
        if provider.dialect is Dialect.OPENAI and provider.example is None and not provider.is_custom:
            destination = next(iter(provider.destination_urls), provider.destination_example)
            found.append(Compatible(provider.name, provider.suffix_at(destination), destination))
    return found


_TOPIC_TEXTS = (
    "cli-install",
    "cli-run",
    "cli-helper",
    "batches-python",
    "batches-javascript",
    "allow-local",
    "allow-network",
    "notice-body",
    "notice-check",
)


def topic_texts(endpoint: Endpoint) -> dict[str, str]:
    """The lines on the pages of topics, by name."""
    parts = tuple(Part("", f"{_FOLDER}/{name}") for name in _TOPIC_TEXTS)
    found = snippet(Tool("topic", "", {_ANTHROPIC: parts}), endpoint, providers.get(str(_ANTHROPIC)))
    return {text.id: text.text for text in found.texts} if found is not None else {}


def grouped() -> list[tuple[str, list[Guide]]]:
    """The guides of each group by name, in the order of the index."""
    guides = sorted(GUIDES.values(), key=lambda guide: guide.name.lower())
    return [(group, [guide for guide in guides if guide.group == group]) for group in GROUPS]
