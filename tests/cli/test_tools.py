"""The variables that `strake run` sets are those on the page of each tool."""

from __future__ import annotations

import re

import pytest
from strake_cli import tools
from strake_cli.errors import CliError
from strake_cli.tools import Setup, Target

from credentials import providers
from credentials.dashboard import snippets
from credentials.models import Endpoint
from strake.pages.guides import GUIDES

TOKEN = "strk_of_the_tool"
PAGES = {
    "claude-code": "claude",
    "claude-code-bedrock": "claude",
    "gemini-cli": "gemini",
    "aider": "aider",
    "qwen-code": "qwen",
    "copilot-cli": "copilot",
    "llm": "llm",
    "shell-gpt": "sgpt",
}
CASES = [(page, str(dialect), provider.slug) for page in PAGES for dialect, provider in GUIDES[page].examples()]


def target(provider: str) -> Target:
    endpoint = Endpoint(subdomain="abc123def456", provider=provider)
    return Target(endpoint.url, provider, snippets.base_urls(endpoint), TOKEN)


def setup(program: str, provider: str, api: str = "") -> Setup:
    return tools.setup(target(provider), program, api)


@pytest.mark.parametrize(("page", "api", "provider"), CASES)
def test_variables_are_those_of_the_tools_page(page: str, api: str, provider: str) -> None:
    row = Endpoint(subdomain="abc123def456", provider=provider)
    dialect = next(found for found, _ in GUIDES[page].examples() if found == api)
    texts = GUIDES[page].texts(row, providers.get(provider), dialect)
    lines = "\n".join(text.text for text in texts).replace(snippets.TOKEN_PLACEHOLDER, TOKEN)
    shown = dict(re.findall(r"^export (\w+)=(.*)$", lines, re.MULTILINE))
    made = setup(PAGES[page], provider, "" if "bedrock" in page else api)
    chosen = {name: value for name, value in shown.items() if not name.endswith("_MODEL")}
    assert chosen == {name: value for name, value in made.variables.items() if name in chosen}
    assert set(made.variables) - set(chosen) <= {"COPILOT_PROVIDER_TYPE"}
    assert set(re.findall(r"^unset (\w+)$", lines, re.MULTILINE)) <= set(made.removed)


@pytest.mark.parametrize("program", tools.NAMES)
def test_no_argument_and_no_repr_has_the_token(program: str) -> None:
    for provider in ["demo", *providers.PROVIDERS]:
        try:
            made = setup(program, provider)
        except CliError:
            continue
        assert TOKEN not in " ".join(made.arguments), provider
        assert TOKEN not in repr(made) + repr(target(provider)), provider
        assert any(TOKEN in value for value in made.variables.values()), provider


def test_codex_gets_a_provider_of_its_own() -> None:
    made = setup("/usr/bin/codex", "openai")
    assert made.variables == {"STRAKE_TOKEN": TOKEN}
    assert 'model_providers.strake.env_key="STRAKE_TOKEN"' in made.arguments


def test_sdks_of_other_apis_are_left_alone() -> None:
    assert not any(name.startswith("OPENAI") for name in setup("python3", "anthropic").variables)
    assert not any(name.startswith("ANTHROPIC") for name in setup("python3", "openai").variables)
    with pytest.raises(CliError, match="claude needs an endpoint with the API of anthropic"):
        setup("claude", "openai")
