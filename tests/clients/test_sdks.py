"""Each provider's official SDK, pointed at an endpoint of that provider, sends what it sends to the provider itself.

The endpoint has the preset's base path and header, and a scripted provider in the place of the host. So a preset with a
wrong base path fails here. For OpenAI's SDK, which has no defaults for other providers, the documented base URLs count.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest

from credentials import providers
from credentials.providers import Dialect
from tests.clients import sdks
from tests.clients.conftest import CLIENTS
from tests.clients.provider import answer
from tests.clients.sdks import PYTHON, SDK, SDKS
from tests.credentials.test_presets import DOCUMENTED
from tests.support.running import KEY, Strake
from tests.support.upstream import Upstream

COMPATIBLE = [
    slug
    for slug, provider in providers.PROVIDERS.items()
    if provider.dialect is Dialect.OPENAI and provider.example is None and not provider.is_custom
]


def interpreter(sdk: SDK) -> tuple[Path, Path]:
    """The program that runs an SDK, and the folder to start it in."""
    if sdk.language == PYTHON:
        python = CLIENTS / "python" / "bin" / "python" if CLIENTS and not sdk.in_check else Path(sys.executable)
        return python, Path.cwd()
    assert CLIENTS is not None
    return Path(shutil.which("node") or "node"), CLIENTS / "node"


@pytest.mark.parametrize("sdk", [sdk for sdk in SDKS if CLIENTS or sdk.in_check], ids=lambda sdk: sdk.id)
def test_sdk_reaches_the_providers_path(sdk: SDK, strake: Strake, upstream: Upstream) -> None:
    upstream.default = answer
    endpoint = strake.stand_in(sdk.provider, upstream.url)
    preset = providers.get(sdk.provider)
    url = endpoint.url + (preset.sdk_suffix if sdk.suffix is None else sdk.suffix)
    program, folder = interpreter(sdk)
    done = sdks.call(sdk, program, folder, url, endpoint.token)
    assert upstream.exchanges, done.stderr
    sent = upstream.exchanges[0]
    assert f"{sent.method} {sent.target.decode()}" == sdks.default_call(sdk, program, folder)
    assert sent.header(preset.header_name) == preset.header_template.replace("{{secret}}", KEY).encode()
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("slug", COMPATIBLE)
def test_openai_sdk_reaches_the_documented_path(slug: str, strake: Strake, upstream: Upstream) -> None:
    documented = urlsplit(DOCUMENTED[slug].base_url).path
    upstream.default = answer
    endpoint = strake.stand_in(slug, upstream.url)
    base_url = endpoint.url + providers.get(slug).sdk_suffix
    with openai.OpenAI(base_url=base_url, api_key=endpoint.token, max_retries=0) as client:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert upstream.last.path == f"{documented}/chat/completions"
