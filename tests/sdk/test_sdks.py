"""The official SDKs through a running Strake. Only the base URL and the key differ from calling the provider."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.support.running import KEY, Endpoint, Strake
from tests.support.upstream import Exchange, Upstream, fixed, sse

PROMPT: Any = [{"role": "user", "content": "hi"}]
TEXT = "Hello from the Strake demo provider. Your tool, the endpoint and the token work."
NOISE = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def demo(strake: Strake) -> Endpoint:
    """An endpoint of the demo provider, which Strake starts."""
    return strake.connect(provider="demo", key="any-text-will-do")


@pytest.fixture
def openai_client(demo: Endpoint) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key=demo.token, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_openai_client(demo: Endpoint) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{demo.url}/v1", api_key=demo.token, max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(demo: Endpoint) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=demo.url, api_key=demo.token, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_anthropic_client(demo: Endpoint) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=demo.url, api_key=demo.token, max_retries=0) as client:
        yield client


# --- OpenAI against the demo provider --------------------------------------------------------------------------------


def test_openai_chat(openai_client: openai.OpenAI) -> None:
    response = openai_client.chat.completions.create(model="strake-demo", messages=PROMPT)
    assert response.choices[0].message.content == TEXT
    assert response.usage is not None
    assert response.usage.total_tokens == 24


def test_openai_chat_stream(openai_client: openai.OpenAI) -> None:
    stream = openai_client.chat.completions.create(model="strake-demo", messages=PROMPT, stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(parts) == TEXT
    assert len(parts) > 10


def test_openai_responses(openai_client: openai.OpenAI) -> None:
    assert openai_client.responses.create(model="strake-demo", input="hi").output_text == TEXT


def test_openai_responses_stream(openai_client: openai.OpenAI) -> None:
    events = list(openai_client.responses.create(model="strake-demo", input="hi", stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    assert events[-1].type == "response.completed"


def test_openai_embeddings(openai_client: openai.OpenAI) -> None:
    response = openai_client.embeddings.create(model="strake-demo", input=["a", "b"])
    assert [row.embedding for row in response.data] == [[0.25, -0.5, 0.75, 0.0]] * 2


def test_openai_models(openai_client: openai.OpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == ["strake-demo"]


async def test_openai_async(async_openai_client: openai.AsyncOpenAI) -> None:
    response = await async_openai_client.chat.completions.create(model="strake-demo", messages=PROMPT)
    assert response.choices[0].message.content == TEXT
    assert [model.id async for model in async_openai_client.models.list()] == ["strake-demo"]


async def test_openai_async_streams_side_by_side(async_openai_client: openai.AsyncOpenAI) -> None:
    async def one() -> str:
        stream = await async_openai_client.chat.completions.create(model="strake-demo", messages=PROMPT, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert await asyncio.gather(*(one() for _ in range(20))) == [TEXT] * 20


async def test_openai_async_responses_stream(async_openai_client: openai.AsyncOpenAI) -> None:
    async with async_openai_client.responses.stream(model="strake-demo", input="hi") as stream:
        final = await stream.get_final_response()
    assert final.output_text == TEXT


# --- Anthropic against the demo provider -----------------------------------------------------------------------------


def test_anthropic_message(anthropic_client: anthropic.Anthropic) -> None:
    response = anthropic_client.messages.create(model="strake-demo", max_tokens=50, messages=PROMPT)
    assert response.content[0].type == "text"
    assert response.content[0].text == TEXT
    assert response.stop_reason == "end_turn"


def test_anthropic_message_stream(anthropic_client: anthropic.Anthropic) -> None:
    with anthropic_client.messages.stream(model="strake-demo", max_tokens=50, messages=PROMPT) as stream:
        assert "".join(stream.text_stream) == TEXT
        assert stream.get_final_message().usage.output_tokens == 16


def test_anthropic_count_tokens(anthropic_client: anthropic.Anthropic) -> None:
    assert anthropic_client.messages.count_tokens(model="strake-demo", messages=PROMPT).input_tokens == 8


def test_anthropic_models(anthropic_client: anthropic.Anthropic) -> None:
    assert [model.id for model in anthropic_client.models.list()] == ["strake-demo"]


def test_anthropic_token_as_bearer(demo: Endpoint) -> None:
    """As Claude Code sends it with ANTHROPIC_AUTH_TOKEN."""
    with anthropic.Anthropic(base_url=demo.url, auth_token=demo.token, max_retries=0) as client:
        response = client.messages.create(model="strake-demo", max_tokens=50, messages=PROMPT)
    assert response.stop_reason == "end_turn"


async def test_anthropic_async(async_anthropic_client: anthropic.AsyncAnthropic) -> None:
    response = await async_anthropic_client.messages.create(model="strake-demo", max_tokens=50, messages=PROMPT)
    assert response.stop_reason == "end_turn"
    async with async_anthropic_client.messages.stream(model="strake-demo", max_tokens=50, messages=PROMPT) as stream:
        assert "".join([text async for text in stream.text_stream]) == TEXT


# --- Errors from Strake, as the SDKs see them ------------------------------------------------------------------------


def test_openai_understands_a_refused_token(strake: Strake, demo: Endpoint) -> None:
    issued = strake.issue(demo)
    strake.revoke(issued)
    with (
        openai.OpenAI(base_url=f"{demo.url}/v1", api_key=issued.token, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_token"
    assert "mistyped, revoked or expired" in str(caught.value)
    assert issued.token not in str(caught.value)


def test_anthropic_understands_a_refused_token(strake: Strake, demo: Endpoint) -> None:
    issued = strake.issue(demo)
    strake.revoke(issued)
    with (
        anthropic.Anthropic(base_url=demo.url, api_key=issued.token, max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        client.messages.create(model="m", max_tokens=1, messages=PROMPT)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == "authentication_error"


def test_openai_understands_limits(strake: Strake, demo: Endpoint) -> None:
    limited = strake.issue(demo, requests_per_minute=1, allowed_paths=["GET /v1/models"])
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key=limited.token, max_retries=0) as client:
        with pytest.raises(openai.PermissionDeniedError):
            client.embeddings.create(model="m", input="a")
        client.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            client.models.list()
    assert int(caught.value.response.headers["retry-after"]) > 0


def test_openai_understands_an_unknown_endpoint(strake: Strake, demo: Endpoint) -> None:
    with (
        openai.OpenAI(base_url=f"{strake.url}/p/000000000000/v1", api_key=demo.token, max_retries=2) as client,
        pytest.raises(openai.APIStatusError, match="no Strake endpoint") as caught,
    ):
        client.models.list()
    assert caught.value.status_code == 410


def test_openai_understands_an_unreachable_provider(strake: Strake) -> None:
    dead = strake.connect("http://127.0.0.1:1")
    with (
        openai.OpenAI(base_url=f"{dead.url}/v1", api_key=dead.token, max_retries=0) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.models.list()
    assert caught.value.status_code == 502
    assert caught.value.response.headers["x-strake-error"] == "upstream_refused"


# --- With a scripted provider ----------------------------------------------------------------------------------------


@pytest.fixture
def scripted(endpoint: Endpoint) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key=endpoint.token, max_retries=0) as client:
        yield client


def test_openai_uploads_a_file_unchanged(scripted: openai.OpenAI, upstream: Upstream) -> None:
    file = {"id": "file-1", "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch"}
    upstream.on("/v1/files", fixed(200, [("Content-Type", "application/json")], json.dumps(file).encode()))
    scripted.files.create(file=("noise.bin", io.BytesIO(NOISE)), purpose="batch")
    exchange = upstream.last
    content_type = exchange.header("content-type") or b""
    assert content_type.startswith(b"multipart/form-data; boundary=")
    boundary = content_type.partition(b"boundary=")[2]
    assert exchange.body.count(b"--" + boundary) == 3
    assert NOISE in exchange.body
    assert exchange.header("authorization") == f"Bearer {KEY}".encode()


def test_openai_downloads_bytes_unchanged(scripted: openai.OpenAI, upstream: Upstream) -> None:
    upstream.on("/v1/files/file-1/content", fixed(200, [("Content-Type", "application/octet-stream")], NOISE))
    assert scripted.files.content("file-1").read() == NOISE


def test_openai_speech_streams_to_its_end(scripted: openai.OpenAI, upstream: Upstream) -> None:
    upstream.on("/v1/audio/speech", sse([NOISE[:1000]] * 50))
    with scripted.audio.speech.with_streaming_response.create(model="m", voice="alloy", input="hi") as response:
        assert b"".join(response.iter_bytes()) == NOISE[:1000] * 50


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (529, openai.InternalServerError),
    ],
)
def test_upstream_errors_reach_the_sdk_unchanged(
    scripted: openai.OpenAI, upstream: Upstream, status: int, kind: type[openai.APIStatusError]
) -> None:
    body = json.dumps({"error": {"message": f"upstream says {status}", "type": "t", "code": "c", "param": "p"}})
    headers = [("Content-Type", "application/json"), ("x-request-id", "req-7"), ("retry-after", "3")]
    upstream.on("/v1/models", fixed(status, headers, body.encode()))
    with pytest.raises(kind) as caught:
        scripted.models.list()
    assert caught.value.status_code == status
    assert caught.value.request_id == "req-7"
    assert caught.value.response.headers["retry-after"] == "3"
    assert "x-strake-error" not in caught.value.response.headers
    assert caught.value.response.text == body


def test_sdk_follows_the_retry_headers(endpoint: Endpoint, upstream: Upstream) -> None:
    """The SDK decides about retries by `x-should-retry` and `retry-after-ms`, so these headers must pass."""
    responses = [(500, [("x-should-retry", "true"), ("retry-after-ms", "1")]), (429, [("x-should-retry", "false")])]

    async def script(exchange: Exchange) -> None:
        await exchange.respond(*responses[len(upstream.exchanges) - 1], body=b"{}")

    upstream.on("/v1/models", script)
    with (
        openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key=endpoint.token, max_retries=5) as client,
        pytest.raises(openai.RateLimitError),
    ):
        client.models.list()
    assert [exchange.header("x-stainless-retry-count") for exchange in upstream.exchanges] == [b"0", b"1"]


def test_truncated_stream_raises_an_error(scripted: openai.OpenAI, upstream: Upstream) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await exchange.chunk(b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"half"}}]}\n\n')
        exchange.connection.writer.close()

    upstream.on("/v1/chat/completions", script)
    parts = []
    with pytest.raises(openai.APIConnectionError):  # noqa: PT012  (the loop raises)
        for chunk in scripted.chat.completions.create(model="m", messages=PROMPT, stream=True):
            parts.append(chunk.choices[0].delta.content)  # noqa: PERF401  (chunks before the error must be kept)
    assert parts == ["half"]


# --- Headers ---------------------------------------------------------------------------------------------------------

ABOUT_THE_CALL = {
    "anthropic-beta": "prompt-caching-2024-07-31,context-1m-2025-08-07",
    "anthropic-version": "2023-06-01",
    "idempotency-key": "once-7",
    "openai-beta": "realtime=v1",
    "openai-organization": "org-7",
    "openai-project": "proj_7",
    "x-amzn-bedrock-trace": "ENABLED",
    "x-goog-user-project": "mine",
}
ABOUT_THE_ANSWER = {
    "anthropic-organization-id": "org-7",
    "anthropic-ratelimit-input-tokens-remaining": "12000",
    "openai-processing-ms": "31",
    "request-id": "req_011",
    "retry-after": "3",
    "x-ratelimit-reset-tokens": "6m0s",
    "x-should-retry": "true",
}
CACHED: Any = [{"type": "text", "text": "long", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]


def test_headers_and_caching_pass_untouched(strake: Strake, upstream: Upstream) -> None:
    """The same call to the provider itself and through Strake differs in the key and the host alone."""
    endpoint = strake.stand_in("anthropic", upstream.url)
    message = {"type": "message", "role": "assistant", "content": [], "usage": {"cache_read_input_tokens": 1024}}
    kind = [("Content-Type", "application/json")]
    upstream.default = fixed(200, [*kind, *ABOUT_THE_ANSWER.items()], json.dumps(message).encode())
    responses = []
    for url, key in ((upstream.url, KEY), (endpoint.url, endpoint.token)):
        with anthropic.Anthropic(base_url=url, api_key=key, max_retries=0) as client:
            responses.append(
                client.messages.with_raw_response.create(
                    model="m", max_tokens=1, system=CACHED, messages=PROMPT, extra_headers=ABOUT_THE_CALL
                )
            )
    direct, through = upstream.exchanges
    different = {b"authorization", b"connection", b"host", b"x-api-key"}
    sent = [
        [(name.lower(), value) for name, value in exchange.headers if name.lower() not in different]
        for exchange in (direct, through)
    ]
    assert sent[0] == sent[1]
    assert through.header("x-api-key") == KEY.encode()
    assert {name: through.header(name) for name in ABOUT_THE_CALL} == {
        name: value.encode() for name, value in ABOUT_THE_CALL.items()
    }
    assert through.body == direct.body
    assert b'"cache_control"' in through.body
    for response in responses:
        assert {name: response.headers[name] for name in ABOUT_THE_ANSWER} == ABOUT_THE_ANSWER
        assert response.http_response.content == json.dumps(message).encode()


@pytest.mark.postgres
def test_sdks_work_on_postgresql(run_strake: Callable[..., Strake], migrated_url: str) -> None:
    running = run_strake(DATABASE_URL=migrated_url, WEB_CONCURRENCY="2")
    endpoint = running.connect(provider="demo", key="any-text-will-do")
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key=endpoint.token, max_retries=0) as client:
        stream = client.chat.completions.create(model="strake-demo", messages=PROMPT, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == TEXT
    with anthropic.Anthropic(base_url=endpoint.url, api_key=endpoint.token, max_retries=0) as claude:
        assert claude.messages.create(model="m", max_tokens=9, messages=PROMPT).stop_reason == "end_turn"
