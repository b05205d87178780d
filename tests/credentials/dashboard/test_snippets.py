"""Snippets. Those for curl, Python and JavaScript run unchanged against a running Strake and its demo provider."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from credentials import providers
from credentials.dashboard.snippets import TOKEN_PLACEHOLDER, TOOLS, dialects_of, environment, snippets_for
from credentials.models import Endpoint
from credentials.providers import Provider
from tests.support import npm
from tests.support.running import Strake

SECRET = "strk_0123456789"


def texts(provider: str, token: str = SECRET) -> dict[str, str]:
    """All texts for a provider, by id."""
    endpoint = Endpoint(subdomain="abc123def456", provider=provider)
    found = snippets_for(endpoint, providers.get(provider), token)
    return {text.id: text.text for snippet in found for text in snippet.texts}


@pytest.mark.parametrize("provider", ["demo", *providers.PROVIDERS])
def test_every_text_is_filled_in(provider: str) -> None:
    found = texts(provider)
    assert found
    for name, text in found.items():
        assert not re.search(r"\{[{%]|[%}]\}\s*\{|&(quot|amp|#)", text), name
    for tool in snippets_for(Endpoint(subdomain="abc123def456"), providers.get(provider), SECRET):
        whole = "\n".join(text.text for text in tool.texts)
        assert SECRET in whole, tool.tool.slug
        assert "/p/abc123def456" in whole, tool.tool.slug


def test_placeholder_replaces_a_missing_token() -> None:
    endpoint = Endpoint(subdomain="abc123def456", provider="openai")
    whole = "\n".join(
        text.text for snippet in snippets_for(endpoint, providers.get("openai")) for text in snippet.texts
    )
    assert TOKEN_PLACEHOLDER in whole


@pytest.mark.parametrize("provider", ["demo", *providers.PROVIDERS])
def test_only_tools_that_fit_the_provider_are_offered(provider: str) -> None:
    chosen = providers.get(provider)
    offered = {snippet.tool.slug for snippet in snippets_for(Endpoint(subdomain="abc123def456"), chosen)}
    fitting = {tool.slug for tool in TOOLS if set(tool.parts) & set(dialects_of(chosen))}
    assert offered == fitting if chosen.example is None else {"curl"}


@pytest.mark.parametrize("provider", [found for found in providers.PROVIDERS.values() if found.example is not None])
def test_examples_are_runnable_curl_lines(provider: Provider) -> None:
    assert provider.example is not None
    command, url, *options = shlex.split(texts(provider.slug)["curl-example"].replace("\\\n", ""))
    assert (command, url) == ("curl", "http://localhost:8000/p/abc123def456" + provider.example.path)
    assert f"Authorization: Bearer {SECRET}" in options
    if provider.example.body:
        assert json.loads(options[options.index("-d") + 1])


def test_only_openai_base_urls_get_the_sdk_suffix() -> None:
    found = texts("demo")
    assert 'base_url="http://localhost:8000/p/abc123def456/v1"' in found["openai-python"]
    assert 'base_url="http://localhost:8000/p/abc123def456"' in found["anthropic-python"]


def test_configuration_files_are_valid() -> None:
    settings = json.loads(texts("anthropic")["claude-code-settings"])
    assert settings["env"]["ANTHROPIC_AUTH_TOKEN"] == SECRET
    config = tomllib.loads(texts("openai")["codex"])
    provider = config["model_providers"][config["model_provider"]]
    assert provider["base_url"].endswith("/p/abc123def456/v1")
    assert provider["wire_api"] == "responses"
    assert f"export {provider['env_key']}={SECRET}" in texts("openai")["codex-shell"]


def limited(*paths: str) -> dict[str, str]:
    """The texts for a token of an OpenAI endpoint that is limited to these paths, by id."""
    endpoint = Endpoint(subdomain="abc123def456", provider="openai")
    found = snippets_for(endpoint, providers.get("openai"), SECRET, allowed_paths=paths)
    return {text.id: text.text for snippet in found for text in snippet.texts}


def test_snippets_send_what_the_token_allows() -> None:
    assert set(limited("POST /v1/chat/completions")) == set(texts("openai")) - {"codex", "codex-shell"}
    assert set(limited("POST /v1/responses")) == {"curl-allowed", "codex", "codex-shell"}
    only = limited("POST /v1/embeddings", "GET /v1/models")
    assert set(only) == {"curl-allowed"}
    command, url, *options = shlex.split(only["curl-allowed"].replace("\\\n", ""))
    assert (command, url) == ("curl", "http://localhost:8000/p/abc123def456/v1/models")
    assert f"Authorization: Bearer {SECRET}" in options
    assert "curl -X DELETE 'http" in limited("DELETE /v1/files/*")["curl-allowed"]


@pytest.mark.parametrize(
    ("provider", "names"),
    [
        ("demo", ["OPENAI_BASE_URL", "OPENAI_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"]),
        ("anthropic", ["ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"]),
        ("gemini", ["GOOGLE_GEMINI_BASE_URL", "GEMINI_API_KEY"]),
        ("elevenlabs", ["STRAKE_URL", "STRAKE_TOKEN"]),
    ],
)
def test_environment_has_the_variables_of_the_sdks(provider: str, names: list[str]) -> None:
    endpoint = Endpoint(subdomain="abc123def456", provider=provider)
    lines = environment(endpoint, providers.get(provider), SECRET).texts[0].text.splitlines()
    assert [line.partition("=")[0] for line in lines] == names
    assert all("/p/abc123def456" in line or SECRET in line for line in lines)


@pytest.fixture(scope="module")
def runnable(strake: Strake) -> dict[str, str]:
    """The texts for a demo endpoint of a running Strake, by id."""
    made = strake.connect(provider="demo")
    found = texts("demo", made.token)
    return {name: text.replace("http://localhost:8000/p/abc123def456", made.url) for name, text in found.items()}


@pytest.mark.parametrize("name", ["curl-openai", "curl-openai-stream"])
def test_curl_snippets_run_unchanged(runnable: dict[str, str], name: str) -> None:
    done = subprocess.run(["sh", "-euc", runnable[name]], capture_output=True, text=True, timeout=90, check=True)
    if name.endswith("stream"):
        assert done.stdout.count("data: ") > 3
        assert "[DONE]" in done.stdout
    else:
        assert json.loads(done.stdout)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("name", ["openai-python", "anthropic-python"])
def test_python_snippets_run_unchanged(runnable: dict[str, str], name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", runnable[name]], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Strake demo provider" in done.stdout


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the official JavaScript SDKs, installed from the npm registry."""
    folder = tmp_path_factory.mktemp("node")
    npm.install(folder, "openai@7.57.0", "@anthropic-ai/sdk@1.13.0")
    return folder


@pytest.mark.npm
@pytest.mark.parametrize("name", ["openai-javascript", "anthropic-javascript"])
def test_javascript_snippets_run_unchanged(runnable: dict[str, str], node: Path, name: str) -> None:
    file = node / f"{name}.mjs"
    file.write_text(runnable[name])
    done = subprocess.run(["node", str(file)], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert "Strake demo provider" in done.stdout
