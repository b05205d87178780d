"""The variables and arguments that make a tool use an endpoint. The table is `TOOLS`.

A token is only ever in a variable. Only variables that the tool reads are set: with those of another API too, its other
SDK would also go to the endpoint. Variables that would win over them are removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from strake_cli.errors import CliError

OPENAI, ANTHROPIC, GEMINI = "openai", "anthropic", "gemini"
TOKEN_VARIABLE = "STRAKE_TOKEN"  # noqa: S105


@dataclass(frozen=True)
class Target:
    """An endpoint and one of its tokens. `base_urls` has what SDKs take as base URL, by API, the main one first."""

    url: str
    provider: str
    base_urls: Mapping[str, str]
    token: str = field(repr=False)


@dataclass(frozen=True)
class Setup:
    """The settings of a tool: variables to set and to remove, and arguments after its name, none of them secret."""

    variables: Mapping[str, str] = field(repr=False)
    removed: Sequence[str] = ()
    arguments: Sequence[str] = ()


class Tool(NamedTuple):
    """A tool by the names of its programs, and its set-up for each API that it can use, the preferred one first."""

    programs: tuple[str, ...]
    apis: Mapping[str, Callable[[Target, str], Setup]]


# --- Each function gets the endpoint and the base URL of the API ----------------------------------------------------


def _claude(target: Target, base: str) -> Setup:
    removed = (
        "ANTHROPIC_API_KEY",
        "CLAUDE_CODE_OAUTH_TOKEN",
        "CLAUDE_CODE_USE_BEDROCK",
        "CLAUDE_CODE_USE_VERTEX",
        "CLAUDE_CODE_USE_FOUNDRY",
    )
    return Setup({"ANTHROPIC_BASE_URL": base, "ANTHROPIC_AUTH_TOKEN": target.token}, removed)


def _claude_bedrock(target: Target, _: str) -> Setup:
    variables = {
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "ANTHROPIC_BEDROCK_BASE_URL": target.url,
        "AWS_BEARER_TOKEN_BEDROCK": target.token,
        "AWS_REGION": os.environ.get("AWS_REGION", "us-east-1"),
        "CLAUDE_CODE_MAX_RETRIES": "3",
    }
    return Setup(variables, ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"))


def _codex(target: Target, base: str) -> Setup:
    """A separate provider entry: OpenAI's, which Codex has, would send the sign-in of ChatGPT."""
    provider = {"name": "Strake", "base_url": base, "env_key": TOKEN_VARIABLE, "wire_api": "responses"}
    settings = {"model_provider": "strake", **{f"model_providers.strake.{name}": it for name, it in provider.items()}}
    arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={json.dumps(value)}")]
    return Setup({TOKEN_VARIABLE: target.token}, (), arguments)


def _gemini(target: Target, base: str) -> Setup:
    removed = ("GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_GCA")
    return Setup({"GOOGLE_GEMINI_BASE_URL": base, "GEMINI_API_KEY": target.token}, removed)


def _opencode(prefix: str, provider: str, suffix: str) -> Callable[[Target, str], Setup]:
    def setup(target: Target, base: str) -> Setup:
        options = {"baseURL": base + suffix, "apiKey": target.token}
        content = json.dumps({"provider": {provider: {"options": options}}})
        return Setup({f"{prefix}_CONFIG_CONTENT": content})

    return setup


def _opencodes(prefix: str) -> dict[str, Callable[[Target, str], Setup]]:
    return {
        ANTHROPIC: _opencode(prefix, "anthropic", "/v1"),
        OPENAI: _opencode(prefix, "openai", ""),
        GEMINI: _opencode(prefix, "google", "/v1beta"),
    }


def _aider_openai(target: Target, base: str) -> Setup:
    return Setup({"OPENAI_API_BASE": base, "OPENAI_API_KEY": target.token}, ("OPENAI_BASE_URL",))


def _aider_anthropic(target: Target, base: str) -> Setup:
    variables = {"ANTHROPIC_API_BASE": base, "ANTHROPIC_BASE_URL": base, "ANTHROPIC_API_KEY": target.token}
    return Setup(variables, ("ANTHROPIC_AUTH_TOKEN",))


def _qwen(target: Target, base: str) -> Setup:
    return Setup({"OPENAI_BASE_URL": base, "OPENAI_API_KEY": target.token}, (), ("--auth-type", "openai"))


def _copilot(kind: str) -> Callable[[Target, str], Setup]:
    def setup(target: Target, base: str) -> Setup:
        variables = {
            "COPILOT_PROVIDER_TYPE": kind,
            "COPILOT_PROVIDER_BASE_URL": base,
            "COPILOT_PROVIDER_API_KEY": target.token,
            "COPILOT_OFFLINE": "true",
        }
        return Setup(variables)

    return setup


def _shell_gpt(target: Target, base: str) -> Setup:
    return Setup({"API_BASE_URL": base, "OPENAI_API_KEY": target.token, "USE_LITELLM": "false"})


def _openai(target: Target, base: str) -> Setup:
    return Setup({"OPENAI_BASE_URL": base, "OPENAI_API_KEY": target.token})


def _anthropic(target: Target, base: str) -> Setup:
    return Setup({"ANTHROPIC_BASE_URL": base, "ANTHROPIC_API_KEY": target.token}, ("ANTHROPIC_AUTH_TOKEN",))


TOOLS = (
    Tool(("claude",), {ANTHROPIC: _claude}),
    Tool(("codex",), {OPENAI: _codex}),
    Tool(("gemini",), {GEMINI: _gemini}),
    Tool(("opencode",), _opencodes("OPENCODE")),
    Tool(("kilo",), _opencodes("KILO")),
    Tool(("aider",), {OPENAI: _aider_openai, ANTHROPIC: _aider_anthropic}),
    Tool(("qwen",), {OPENAI: _qwen}),
    Tool(("copilot",), {OPENAI: _copilot("openai"), ANTHROPIC: _copilot("anthropic")}),
    Tool(("llm",), {OPENAI: _openai}),
    Tool(("sgpt",), {OPENAI: _shell_gpt}),
)
# Any other program is taken for one that uses the SDK of the endpoint's main API.
SDK = Tool(("sdk",), {OPENAI: _openai, ANTHROPIC: _anthropic, GEMINI: _gemini})
# Own SDKs of providers: the variables of the base URL and of the key. The URL is without a path.
_OWN_SDKS = {
    "azure-openai": ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY"),
    "cohere": ("CO_API_URL", "CO_API_KEY"),
    "groq": ("GROQ_BASE_URL", "GROQ_API_KEY"),
    "perplexity": ("PERPLEXITY_BASE_URL", "PERPLEXITY_API_KEY"),
}
NAMES = tuple(name for tool in (*TOOLS, SDK) for name in tool.programs)
_BY_NAME = {name: tool for tool in (*TOOLS, SDK) for name in tool.programs}


def setup(target: Target, program: str, api: str = "") -> Setup:
    """Return what `program` needs. A path or another program than those of `TOOLS` is fine.

    `api` chooses one of several APIs. Raises `CliError` if the tool cannot use the endpoint.
    """
    name = os.path.basename(program)
    tool = _BY_NAME.get(name, SDK)
    if tool.programs == ("claude",) and target.provider.startswith("bedrock"):
        return _claude_bedrock(target, target.url)
    chosen = [api] if api else [one for one in target.base_urls if one in tool.apis]
    found = next((one for one in chosen if one in tool.apis and one in target.base_urls), None)
    if found is not None:
        made = tool.apis[found](target, target.base_urls[found])
    elif tool is SDK and not api:
        made = Setup({})
    else:
        wanted = " or ".join([api] if api else tool.apis)
        has = " and ".join(target.base_urls) or "none of these APIs"
        raise CliError(f"{name} needs an endpoint with the API of {wanted}. This one has {has}.", "wrong_api")
    if tool is not SDK:
        return made
    variables = {"STRAKE_ENDPOINT_URL": target.url, TOKEN_VARIABLE: target.token, **made.variables}
    if target.provider in _OWN_SDKS:
        variables |= dict(zip(_OWN_SDKS[target.provider], (target.url, target.token), strict=True))
    return Setup(variables, made.removed, made.arguments)
