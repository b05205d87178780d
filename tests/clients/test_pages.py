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


def test_settings_files_are_valid() -> None:
    """Of clients that cannot be installed here, the files can at least be read."""
    for guide in GUIDES.values():
        for dialect, provider in guide.examples():
            for text in guide.texts(SAMPLE, provider, dialect):
                if text.heading.endswith(".json"):
                    assert json.loads(text.text)
