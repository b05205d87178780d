"""The lines of the page about MCP run unchanged against a FastMCP server. `make clients` installs it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from strake.pages.guides import GUIDES
from tests.clients.conftest import CLIENTS
from tests.clients.test_pages import SAMPLE, filled_in, run
from tests.support.running import Endpoint, Strake
from tests.support.services import free_port, wait_for_port

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
    assert CLIENTS is not None
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
