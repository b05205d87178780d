"""The official SDKs of providers, and the first call of each, as code that runs in a process of its own.

The code has the names `key` and `options`. Without options the SDK calls its provider. With `record`, the process
prints the method and target of that request instead of sending it.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

PYTHON, JAVASCRIPT = "Python", "JavaScript"
MESSAGES = '[{"role": "user", "content": "hi"}]'


@dataclass(frozen=True)
class SDK:
    """An SDK. `suffix` is what its page adds to the endpoint's URL, or None for the provider's own `sdk_suffix`."""

    package: str
    language: str
    provider: str
    option: str
    code: str
    suffix: str | None = None
    nested: str = ""
    in_check: bool = False

    @property
    def id(self) -> str:
        return f"{self.language}-{self.package}"

    def options(self, url: str) -> dict[str, object]:
        return {self.nested: {self.option: url}} if self.nested else {self.option: url}


def _python(
    package: str, provider: str, setup: str, call: str, option: str = "base_url", *, suffix: str | None = None
) -> SDK:
    """`setup` is the class of the client with its module, `call` is a method with arguments."""
    module, _, name = setup.rpartition(".")
    code = f"import {module} as module\nclient = module.{name}(api_key=key, **options)\nclient.{call}"
    return SDK(package, PYTHON, provider, option, code, suffix, in_check=package in {"openai", "anthropic"})


def _javascript(package: str, provider: str, setup: str, call: str, *, suffix: str = "", nested: str = "") -> SDK:
    """`setup` makes a client of the imported `module`, `call` is code that uses it."""
    code = f'const module = await import("{package}");\nconst client = {setup};\nawait {call};'
    return SDK(package, JAVASCRIPT, provider, "baseUrl" if nested else "baseURL", code, suffix, nested)


_CHAT = f'chat.completions.create(model="m", messages={MESSAGES})'
_GENERATE = '(await import("ai")).generateText({ model: client("m"), prompt: "hi", maxRetries: 0 })'
_MAKE = "({ apiKey: key, ...options })"

SDKS = (
    _python("openai", "openai", "openai.OpenAI", _CHAT),
    _python(
        "anthropic",
        "anthropic",
        "anthropic.Anthropic",
        f'messages.create(model="m", max_tokens=1, messages={MESSAGES})',
        suffix="",
    ),
    SDK(
        "google-genai",
        PYTHON,
        "gemini",
        "base_url",
        "from google import genai\nclient = genai.Client(api_key=key, **options)\n"
        'client.models.generate_content(model="m", contents="hi")',
        "",
        nested="http_options",
        in_check=True,
    ),
    _python(
        "mistralai",
        "mistral",
        "mistralai.client.Mistral",
        f'chat.complete(model="m", messages={MESSAGES})',
        "server_url",
        suffix="",
    ),
    _python("cohere", "cohere", "cohere.ClientV2", f'chat(model="m", messages={MESSAGES})', suffix=""),
    _python("groq", "groq", "groq.Groq", _CHAT, suffix=""),
    _python("together", "together", "together.Together", _CHAT),
    _python("fireworks-ai", "fireworks", "fireworks.Fireworks", _CHAT, suffix=""),
    _python("perplexityai", "perplexity", "perplexity.Perplexity", _CHAT, suffix=""),
    _javascript(
        "openai",
        "openai",
        f"new module.default{_MAKE}",
        f'client.chat.completions.create({{ model: "m", messages: {MESSAGES} }})',
        suffix="/v1",
    ),
    _javascript(
        "@anthropic-ai/sdk",
        "anthropic",
        f"new module.default{_MAKE}",
        f'client.messages.create({{ model: "m", max_tokens: 1, messages: {MESSAGES} }})',
    ),
    _javascript(
        "@google/genai",
        "gemini",
        f"new module.GoogleGenAI{_MAKE}",
        'client.models.generateContent({ model: "m", contents: "hi" })',
        nested="httpOptions",
    ),
    _javascript("@ai-sdk/openai", "openai", f"module.createOpenAI{_MAKE}", _GENERATE, suffix="/v1"),
    _javascript("@ai-sdk/anthropic", "anthropic", f"module.createAnthropic{_MAKE}", _GENERATE, suffix="/v1"),
    _javascript("@ai-sdk/google", "gemini", f"module.createGoogleGenerativeAI{_MAKE}", _GENERATE, suffix="/v1beta"),
)

# The last step before the network: what every one of these SDKs hands to its HTTP library.
_RECORD_PYTHON = """
import importlib, os
def record(self, request, *rest, **fields):
    os.write(1, f"{request.method} {request.url.raw_path.decode()}".encode())
    os._exit(0)
for name in ("httpx", "httpx2"):
    try:
        importlib.import_module(name).HTTPTransport.handle_request = record
    except ImportError:
        pass
"""
_RECORD_JAVASCRIPT = """
globalThis.fetch = async (input, init) => {
  const url = new URL(input instanceof Request ? input.url : input);
  process.stdout.write(`${init?.method ?? input.method} ${url.pathname}${url.search}`);
  process.exit(0);
};
"""


def default_call(sdk: SDK, interpreter: Path, folder: Path) -> str:
    """The method and target of the SDK's call to its provider. Nothing is sent."""
    done = _run(sdk, interpreter, folder, "sk-none", {}, record=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def call(sdk: SDK, interpreter: Path, folder: Path, url: str, token: str) -> subprocess.CompletedProcess[str]:
    """Let the SDK call an endpoint."""
    return _run(sdk, interpreter, folder, token, sdk.options(url), record=False)


def _run(
    sdk: SDK, interpreter: Path, folder: Path, key: str, options: dict[str, object], *, record: bool
) -> subprocess.CompletedProcess[str]:
    """`folder` is where node looks for packages, since a script finds those beside it only."""
    if sdk.language == PYTHON:
        start = f"key, options = {key!r}, {options!r}\n"
        command = [str(interpreter), "-W", "ignore", "-c", (_RECORD_PYTHON if record else "") + start + sdk.code]
    else:
        start = f"const key = {json.dumps(key)}, options = {json.dumps(options)};\n"
        code = (_RECORD_JAVASCRIPT if record else "") + start + sdk.code
        command = [str(interpreter), "--input-type=module", "--eval", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
