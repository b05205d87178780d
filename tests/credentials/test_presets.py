"""Every preset against what its provider documents, kept here a second time.

A server on loopback stands in for the provider, with the same base path. The sources are the provider's own Python SDK
(the version in brackets), or else the curl lines of its documentation.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from credentials import destinations, key_check, providers
from credentials.errors import KeyRefused, KeyUnchecked
from credentials.places import Place
from credentials.providers import Dialect, Group, Provider
from tests.support.running import Strake
from tests.support.upstream import Upstream, fixed

KEY = "sk-preset-0123456789"
BEARER = f"Authorization: Bearer {KEY}"
AWS = "https://bedrock-runtime.us-east-1.amazonaws.com"


@dataclass(frozen=True)
class Documented:
    """A call and the base URL as documented for a person without Strake, and how a key can be checked."""

    call: str
    base_url: str
    check: str | None
    header: str = BEARER
    dialect: Dialect = Dialect.OPENAI
    also: tuple[str, ...] = ()  # other documented destinations


DOCUMENTED = {
    # openai
    "openai": Documented(
        "https://api.openai.com/v1/chat/completions", "https://api.openai.com/v1", "https://api.openai.com/v1/models"
    ),
    # anthropic
    "anthropic": Documented(
        "https://api.anthropic.com/v1/messages",
        "https://api.anthropic.com",
        "https://api.anthropic.com/v1/models",
        header=f"x-api-key: {KEY}",
        dialect=Dialect.ANTHROPIC,
    ),
    # google-genai (3.6)
    "gemini": Documented(
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent",
        "https://generativelanguage.googleapis.com",
        "https://generativelanguage.googleapis.com/v1beta/models",
        header=f"x-goog-api-key: {KEY}",
        dialect=Dialect.GEMINI,
    ),
    # mistralai (3.7): https://api.mistral.ai, /v1/chat/completions, /v1/models
    "mistral": Documented(
        "https://api.mistral.ai/v1/chat/completions", "https://api.mistral.ai/v1", "https://api.mistral.ai/v1/models"
    ),
    # https://docs.x.ai/docs/api-reference
    "xai": Documented("https://api.x.ai/v1/chat/completions", "https://api.x.ai/v1", "https://api.x.ai/v1/models"),
    # https://api-docs.deepseek.com: both https://api.deepseek.com and …/v1 are base URLs
    "deepseek": Documented(
        "https://api.deepseek.com/chat/completions", "https://api.deepseek.com/v1", "https://api.deepseek.com/models"
    ),
    # cohere (7.3): https://api.cohere.com, v2/chat; https://docs.cohere.com/docs/compatibility-api
    "cohere": Documented(
        "https://api.cohere.com/v2/chat",
        "https://api.cohere.com/compatibility/v1",
        "https://api.cohere.com/v1/models",
    ),
    # perplexityai (0.46): https://api.perplexity.ai, /chat/completions, /async/chat/completions
    "perplexity": Documented(
        "https://api.perplexity.ai/chat/completions",
        "https://api.perplexity.ai",
        "https://api.perplexity.ai/async/chat/completions",
    ),
    # https://platform.moonshot.ai/docs
    "moonshot": Documented(
        "https://api.moonshot.ai/v1/chat/completions",
        "https://api.moonshot.ai/v1",
        "https://api.moonshot.ai/v1/models",
        also=("https://api.moonshot.cn",),
    ),
    # zai-sdk (0.2): both base URLs
    "zhipu": Documented(
        "https://api.z.ai/api/paas/v4/chat/completions",
        "https://api.z.ai/api/paas/v4",
        "https://api.z.ai/api/paas/v4/models",
        also=("https://open.bigmodel.cn",),
    ),
    # https://www.alibabacloud.com/help/en/model-studio/base-url
    "alibaba": Documented(
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1/chat/completions",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1/models",
        also=(
            "https://dashscope.aliyuncs.com",
            "https://dashscope-us.aliyuncs.com",
            "https://cn-hongkong.dashscope.aliyuncs.com",
        ),
    ),
    # openrouter (1.3): https://openrouter.ai/api/v1, /key
    "openrouter": Documented(
        "https://openrouter.ai/api/v1/chat/completions",
        "https://openrouter.ai/api/v1",
        "https://openrouter.ai/api/v1/key",
    ),
    # groq (1.7): https://api.groq.com, /openai/v1/chat/completions, /openai/v1/models
    "groq": Documented(
        "https://api.groq.com/openai/v1/chat/completions",
        "https://api.groq.com/openai/v1",
        "https://api.groq.com/openai/v1/models",
    ),
    # cerebras-cloud-sdk (1.91): https://api.cerebras.ai, /v1/chat/completions, /v1/models
    "cerebras": Documented(
        "https://api.cerebras.ai/v1/chat/completions",
        "https://api.cerebras.ai/v1",
        "https://api.cerebras.ai/v1/models",
    ),
    # together (3.1): https://api.together.ai, /v1/chat/completions
    "together": Documented(
        "https://api.together.ai/v1/chat/completions",
        "https://api.together.ai/v1",
        "https://api.together.ai/v1/models",
    ),
    # fireworks-ai (1.2): https://api.fireworks.ai/inference/v1/completions, or /v1/completions after another base URL
    "fireworks": Documented(
        "https://api.fireworks.ai/inference/v1/chat/completions",
        "https://api.fireworks.ai/inference/v1",
        "https://api.fireworks.ai/inference/v1/models",
    ),
    # https://deepinfra.com/docs/advanced/openai_api
    "deepinfra": Documented(
        "https://api.deepinfra.com/v1/openai/chat/completions",
        "https://api.deepinfra.com/v1/openai",
        "https://api.deepinfra.com/v1/me",
    ),
    # huggingface_hub (2.4): https://router.huggingface.co, /v1/chat/completions
    "huggingface": Documented(
        "https://router.huggingface.co/v1/chat/completions", "https://router.huggingface.co/v1", None
    ),
    # langchain-nvidia-ai-endpoints (1.5): https://integrate.api.nvidia.com/v1
    "nvidia": Documented(
        "https://integrate.api.nvidia.com/v1/chat/completions", "https://integrate.api.nvidia.com/v1", None
    ),
    # replicate (1.0): https://api.replicate.com, Bearer, /v1/account
    "replicate": Documented(
        "https://api.replicate.com/v1/models/black-forest-labs/flux-schnell/predictions",
        "https://api.replicate.com",
        "https://api.replicate.com/v1/account",
    ),
    # https://docs.github.com/en/github-models/quickstart
    "github": Documented(
        "https://models.github.ai/inference/chat/completions", "https://models.github.ai/inference", None
    ),
    # openai.AzureOpenAI; https://learn.microsoft.com/azure/ai-services/openai/reference
    "azure-openai": Documented(
        "https://example.openai.azure.com/openai/deployments/gpt/chat/completions?api-version=2024-10-21",
        "https://example.openai.azure.com/openai/v1",
        "https://example.openai.azure.com/openai/models?api-version=2024-10-21",
        header=f"api-key: {KEY}",
    ),
    # anthropic.AnthropicBedrock (2.14), botocore; https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-use.html
    "bedrock": Documented(
        f"{AWS}/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse", f"{AWS}/openai/v1", None
    ),
    # anthropic.AnthropicBedrockMantle (2.14); https://docs.aws.amazon.com/bedrock/latest/userguide/bedrock-mantle.html
    "bedrock-mantle": Documented(
        "https://bedrock-mantle.us-east-1.api.aws/v1/chat/completions",
        "https://bedrock-mantle.us-east-1.api.aws/v1",
        "https://bedrock-mantle.us-east-1.api.aws/v1/models",
    ),
    # google-genai (3.6) with vertexai=True and api_key, anthropic.AnthropicVertex (2.14) for the multi-regions
    "vertex": Documented(
        "https://aiplatform.googleapis.com/v1/publishers/google/models/gemini-2.5-flash:generateContent",
        "https://aiplatform.googleapis.com",
        None,
        header=f"x-goog-api-key: {KEY}",
        dialect=Dialect.GEMINI,
        also=(
            "https://us-central1-aiplatform.googleapis.com",
            "https://europe-west4-aiplatform.googleapis.com",
            "https://aiplatform.us.rep.googleapis.com",
            "https://aiplatform.eu.rep.googleapis.com",
        ),
    ),
    # elevenlabs (2.78): every environment, xi-api-key, v1/models
    "elevenlabs": Documented(
        "https://api.elevenlabs.io/v1/text-to-speech/JBFqnCBsd6RMkjVDRZzb",
        "https://api.elevenlabs.io",
        "https://api.elevenlabs.io/v1/models",
        header=f"xi-api-key: {KEY}",
        also=(
            "https://api.us.elevenlabs.io",
            "https://api.eu.residency.elevenlabs.io",
            "https://api.in.residency.elevenlabs.io",
            "https://api.sg.residency.elevenlabs.io",
        ),
    ),
    # deepgram-sdk (7.17): https://api.deepgram.com, Token; https://developers.deepgram.com/docs/authenticating
    "deepgram": Documented(
        "https://api.deepgram.com/v1/listen",
        "https://api.deepgram.com",
        "https://api.deepgram.com/v1/auth/token",
        header=f"Authorization: Token {KEY}",
    ),
    # assemblyai (1.8): https://api.assemblyai.com, authorization without a scheme, /v2/transcript
    "assemblyai": Documented(
        "https://api.assemblyai.com/v2/transcript",
        "https://api.assemblyai.com",
        "https://api.assemblyai.com/v2/transcript?limit=1",
        header=f"Authorization: {KEY}",
        also=("https://api.eu.assemblyai.com",),
    ),
    # fal-client (1.0): https://queue.fal.run, https://fal.run, Key
    "fal": Documented(
        "https://queue.fal.run/fal-ai/flux/schnell",
        "https://queue.fal.run",
        None,
        header=f"Authorization: Key {KEY}",
        also=("https://fal.run",),
    ),
    # tavily-python (0.8): https://api.tavily.com, Bearer; https://docs.tavily.com/…/endpoint/usage
    "tavily": Documented("https://api.tavily.com/search", "https://api.tavily.com", "https://api.tavily.com/usage"),
    # exa-py (2.28): https://api.exa.ai, x-api-key, /search
    "exa": Documented("https://api.exa.ai/search", "https://api.exa.ai", None, header=f"x-api-key: {KEY}"),
    # https://api-dashboard.search.brave.com/documentation/quickstart
    "brave": Documented(
        "https://api.search.brave.com/res/v1/web/search?q=lighthouse",
        "https://api.search.brave.com",
        None,
        header=f"X-Subscription-Token: {KEY}",
    ),
    # voyageai (0.5): https://api.voyageai.com/v1, https://ai.mongodb.com/v1
    "voyage": Documented(
        "https://api.voyageai.com/v1/embeddings",
        "https://api.voyageai.com/v1",
        None,
        also=("https://ai.mongodb.com",),
    ),
    # https://jina.ai/embeddings
    "jina": Documented("https://api.jina.ai/v1/embeddings", "https://api.jina.ai/v1", None),
    # https://modelcontextprotocol.io/specification/2025-06-18/basic/transports
    "mcp": Documented("https://mcp.example.com/mcp/", "https://mcp.example.com/mcp", None),
}


def test_every_preset_is_held_against_its_provider() -> None:
    assert set(DOCUMENTED) == set(providers.PROVIDERS) - {"custom"}


def destination_of(provider: Provider, documented: Documented) -> str:
    """The destination for the documented call. People enter their own host."""
    if not provider.needs_destination:
        return next(url for url in provider.destination_urls if documented.call.startswith(f"{url}/"))
    parts = urlsplit(documented.base_url)
    return f"https://{parts.hostname}" + (parts.path if provider.slug == "mcp" else "")


def tail(url: str, base: str) -> str:
    assert url.startswith(base)
    return url[len(base) :]


def path_and_query(url: str) -> str:
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


@pytest.mark.parametrize("slug", DOCUMENTED)
def test_destination_and_base_url(slug: str) -> None:
    provider, documented = providers.get(slug), DOCUMENTED[slug]
    destination = destination_of(provider, documented)
    assert destination + provider.suffix_at(destination) == documented.base_url
    assert provider.dialect is documented.dialect
    for url in (destination, *documented.also):
        assert provider.needs_destination or url in provider.destination_urls
        assert destinations.parse(url).url == url
        if not provider.needs_destination:
            assert urlsplit(url).hostname in providers.fixed_hosts()
    if len(provider.destination_urls) < 10:  # not where there is one for each region of a cloud
        assert {destination, *documented.also} == set(provider.destination_urls) or provider.needs_destination
    for link in (provider.docs_url, provider.keys_url):
        assert not link or link.startswith("https://")


@pytest.fixture
def here(settings: Any, upstream: Upstream) -> Upstream:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.1/32"]
    return upstream


def check(slug: str, upstream: Upstream) -> None:
    provider = providers.get(slug)
    path = urlsplit(destination_of(provider, DOCUMENTED[slug])).path
    key_check.check_key(
        provider=provider,
        destination=replace(destinations.parse(upstream.url), base_path=path),
        header_name=provider.header_name,
        header_template=provider.header_template,
        key=KEY,
    )


CHECKED = [slug for slug, documented in DOCUMENTED.items() if documented.check]


@pytest.mark.parametrize("slug", CHECKED)
def test_key_check_is_the_documented_call(slug: str, here: Upstream) -> None:
    here.default = fixed(200, body=b"{}")
    check(slug, here)
    documented = DOCUMENTED[slug]
    name, _, value = documented.header.partition(": ")
    assert here.last.method == "GET"
    assert here.last.target.decode() == path_and_query(documented.check or "")
    assert here.last.header(name) == value.encode()


@pytest.mark.parametrize("slug", CHECKED)
def test_wrong_key_is_refused(slug: str, here: Upstream) -> None:
    here.default = fixed(401)
    with pytest.raises(KeyUnchecked if slug == "elevenlabs" else KeyRefused):
        check(slug, here)


@pytest.mark.parametrize(("slug", "status", "error"), [("openai", 403, KeyUnchecked), ("gemini", 400, KeyRefused)])
def test_statuses_of_a_provider(slug: str, status: int, error: type[Exception], here: Upstream) -> None:
    here.default = fixed(status)
    with pytest.raises(error):
        check(slug, here)


@pytest.mark.parametrize("slug", [slug for slug in providers.PROVIDERS if slug not in {*CHECKED, "custom"}])
def test_keys_of_the_others_are_not_checked(slug: str, here: Upstream) -> None:
    check(slug, here)
    assert not here.exchanges


@pytest.mark.parametrize("slug", DOCUMENTED)
def test_forwarded_call_is_the_documented_one(slug: str, strake: Strake, upstream: Upstream) -> None:
    provider, documented = providers.get(slug), DOCUMENTED[slug]
    destination = destination_of(provider, documented)
    endpoint = strake.make(slug, upstream.url + urlsplit(destination).path, key=KEY)
    url = endpoint.url + tail(documented.call, destination)
    response = httpx.post(url, headers={"x-api-key": endpoint.token}, json={}, timeout=60)
    assert response.status_code == 200
    assert upstream.last.target.decode() == path_and_query(documented.call)
    name, _, value = documented.header.partition(": ")
    assert upstream.last.header(name) == value.encode()
    assert upstream.last.raw_head.count(KEY.encode()) == 1


@pytest.mark.parametrize(
    ("slug", "destination", "base_url"),
    [
        # Endpoints that were connected while this was Groq's destination.
        ("groq", "https://api.groq.com/openai", "https://api.groq.com/openai/v1"),
        ("together", "https://api.together.xyz", "https://api.together.xyz/v1"),
        ("custom", "https://llm.example.com", "https://llm.example.com/v1"),
        ("custom", "https://llm.example.com/v1", "https://llm.example.com/v1"),
        ("custom", "https://llm.example.com/api", "https://llm.example.com/api/v1"),
        ("custom", "https://llm.example.com/api/v1", "https://llm.example.com/api/v1"),
        ("custom", "https://llm.example.com/api/paas/v4", "https://llm.example.com/api/paas/v4"),
        ("custom", "https://llm.example.com/v1beta1", "https://llm.example.com/v1beta1"),
        ("custom", "https://llm.example.com/dev1", "https://llm.example.com/dev1/v1"),
        ("azure-openai", "https://example.openai.azure.com/openai", "https://example.openai.azure.com/openai/v1"),
        ("azure-openai", "https://example.openai.azure.com/openai/v1", "https://example.openai.azure.com/openai/v1"),
    ],
)
def test_base_url_follows_the_destination(slug: str, destination: str, base_url: str) -> None:
    assert destination + providers.get(slug).suffix_at(destination) == base_url


def test_key_check_follows_the_destination() -> None:
    groq = providers.get("groq")
    assert groq.check_path_at("https://api.groq.com/openai") == "/v1/models"
    assert providers.get("custom").check_path_at("https://llm.example.com") == ""


def test_key_check_carries_every_place(here: Upstream) -> None:
    key_check.check_key(
        provider=providers.get("assemblyai"),
        destination=destinations.parse(here.url),
        header_name="",
        header_template="",
        places=[
            Place("query", "token", "{{secret}}"),
            Place("header", "Authorization", "Basic {{secret:base64}}"),
            Place("header", "X-Organization", "acme"),
        ],
        key="user:a&b",
    )
    assert here.last.target == b"/v2/transcript?limit=1&token=user%3Aa%26b"
    assert here.last.header("authorization") == b"Basic dXNlcjphJmI="
    assert here.last.header("x-organization") == b"acme"


def test_groups_are_complete() -> None:
    assert {provider.group for provider in providers.PROVIDERS.values()} == set(Group)


def test_demo_provider_of_a_deployed_strake_is_refused(
    db: None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.STRAKE_DEMO_PORT = 0
    monkeypatch.setattr("sys.stdin", io.StringIO("any-key"))
    with pytest.raises(CommandError, match="The demo provider is offered on a loopback address only"):
        call_command("connect", "--email=you@example.org", "--provider=demo", "--key-stdin")
