"""The lines of Python and JavaScript on the documentation pages run unchanged. Programs have tests of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from credentials import providers
from credentials.dashboard.snippets import TOKEN_PLACEHOLDER
from credentials.models import Endpoint as EndpointRow
from strake.pages.guides import GUIDES, topic_texts
from tests.clients.conftest import CLIENTS
from tests.clients.provider import REPLY, answer
from tests.support.running import Endpoint, Strake
from tests.support.services import free_port, wait_for_port
from tests.support.upstream import Upstream

SAMPLE = EndpointRow(subdomain="abc123def456")
# Of these, the packages are among those of the tests.
IN_CHECK = {"google-genai-python", "azure-python", "batches-python"}


@dataclass(frozen=True)
class Example:
    """Lines of a page, and the provider that they are for."""

    name: str
    provider: str
    text: str

    @property
    def is_python(self) -> bool:
        return not self.name.endswith("-javascript") and "import {" not in self.text


def examples() -> Iterator[Example]:
    for guide in GUIDES.values():
        for dialect, provider in guide.examples():
            for text in guide.texts(SAMPLE, provider, dialect):
                if text.heading in {"Python", "JavaScript"}:
                    yield Example(text.id, provider.slug, text.text)
    for name, lines in topic_texts(SAMPLE).items():
        if name.startswith("batches-"):
            yield Example(name, "anthropic", lines)


def run(text: str, *, is_python: bool, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the lines, with the packages of `make clients` if there are any."""
    if not is_python:
        assert CLIENTS is not None
        command, folder = ["node", "--input-type=module", "--eval", text], CLIENTS / "node"
    else:
        python = CLIENTS / "python" / "bin" / "python" if CLIENTS else Path(sys.executable)
        command = [str(python), "-W", "ignore", "-c", text]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def filled_in(text: str, endpoint: Endpoint) -> str:
    whole = text.replace(SAMPLE.url, endpoint.url).replace(TOKEN_PLACEHOLDER, endpoint.token)
    assert endpoint.url in whole
    assert endpoint.token in whole
    return whole


@pytest.mark.parametrize(
    "example", [one for one in examples() if CLIENTS or one.name in IN_CHECK], ids=lambda one: one.name
)
def test_lines_of_a_page_run_unchanged(example: Example, strake: Strake, upstream: Upstream, tmp_path: Path) -> None:
    upstream.default = answer
    endpoint = strake.stand_in(example.provider, upstream.url)
    done = run(filled_in(example.text, endpoint), is_python=example.is_python, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = "first\nsecond" if example.name.startswith("batches-") else REPLY
    assert expected in done.stdout


def test_examples_cover_the_sdks_of_every_provider() -> None:
    found = {example.name for example in examples()}
    assert found >= IN_CHECK
    assert {"vercel-openai", "vercel-anthropic", "vercel-gemini", "mistral-python", "cohere-python"} <= found
    assert {"litellm-openai", "litellm-anthropic", "litellm-gemini", "langchain-js-openai"} <= found
    assert {example.provider for example in examples()} <= {"custom", *providers.PROVIDERS}


# --- MCP -----------------------------------------------------------------------------------------------------------

SERVER = """
import sys
from fastmcp import FastMCP
server = FastMCP("example")
@server.tool
def add(a: int, b: int) -> int:
    return a + b
server.run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), path="/mcp")
"""


@pytest.fixture
def mcp(strake: Strake, tmp_path: Path) -> Iterator[Endpoint]:
    """An endpoint of a real MCP server with Streamable HTTP."""
    if CLIENTS is None:
        pytest.skip("make clients installs FastMCP")
    port = free_port()
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "FASTMCP_SHOW_SERVER_BANNER": "false"}
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [str(CLIENTS / "python" / "bin" / "python"), "-c", SERVER, str(port)],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for_port(port)
        yield strake.connect(f"http://127.0.0.1:{port}/mcp")
    finally:
        server.terminate()
        server.wait(60)


def mcp_lines(name: str) -> str:
    guide = GUIDES["mcp"]
    ((dialect, provider),) = guide.examples()
    return {text.id: text.text for text in guide.texts(SAMPLE, provider, dialect)}[name]


def test_fastmcp_lists_the_tools_of_a_server(mcp: Endpoint, tmp_path: Path) -> None:
    done = run(filled_in(mcp_lines("mcp-fastmcp"), mcp), is_python=True, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "['add']" in done.stdout


def test_claude_code_connects_to_an_mcp_server(mcp: Endpoint, tmp_path: Path) -> None:
    assert CLIENTS is not None
    bin_folder = CLIENTS / "node" / "node_modules" / ".bin"
    environment = {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    script = f"{filled_in(mcp_lines('mcp-claude-code'), mcp)}\nclaude mcp list"
    done = subprocess.run(
        ["sh", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Connected" in done.stdout


# --- Claude Code on Bedrock ----------------------------------------------------------------------------------------


def test_settings_files_are_valid() -> None:
    """Of clients that cannot be installed here, the files can at least be read."""
    for guide in GUIDES.values():
        for dialect, provider in guide.examples():
            for text in guide.texts(SAMPLE, provider, dialect):
                if text.heading.endswith(".json"):
                    assert json.loads(text.text)
