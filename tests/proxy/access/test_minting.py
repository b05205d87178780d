"""Calls that would hand out a provider's credential are refused, in every spelling, unless the token allows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials import minting, providers
from credentials.minting import MINTING_PATHS
from proxy.access.minting import mints
from proxy.connection_test import choose
from proxy.errors import BadPath
from proxy.http.target import check_path
from tests.support.raw import ask, get
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream

OPENAI = ("openai", "https://api.openai.com")
AZURE = ("azure-openai", "https://example.openai.azure.com")
GEMINI = ("gemini", "https://generativelanguage.googleapis.com")


@pytest.mark.parametrize(
    ("provider", "url", "method", "path"),
    [
        (*OPENAI, "POST", "/v1/realtime/client_secrets"),
        (*OPENAI, "POST", "/v1/realtime/sessions"),
        (*OPENAI, "POST", "/v1/realtime/transcription_sessions"),
        (*OPENAI, "POST", "/v1/realtime/translations/client_secrets"),
        (*OPENAI, "POST", "/v1/realtime/calls"),
        (*OPENAI, "POST", "/v1/realtime"),
        (*OPENAI, "POST", "/v1/chatkit/sessions"),
        (*OPENAI, "POST", "/v1/organization/admin_api_keys"),
        (*OPENAI, "POST", "/v1/organization/projects/proj_1/service_accounts"),
        (*OPENAI, "POST", "/v1/organization/projects/proj_1/service_accounts/sa_1/api_keys"),
        ("custom", "https://eu.api.openai.com/v1", "POST", "/realtime/client_secrets"),
        (*AZURE, "POST", "/openai/realtimeapi/sessions"),
        (*AZURE, "POST", "/openai/v1/realtime/client_secrets"),
        ("azure-openai", "https://llm.example.com/openai", "POST", "/v1/realtime/client_secrets"),
        ("custom", "https://example.cognitiveservices.azure.com", "POST", "/sts/v1.0/issueToken"),
        (*GEMINI, "POST", "/v1alpha/auth_tokens"),
        (*GEMINI, "POST", "/v1beta/authTokens"),
        (*GEMINI, "POST", "/v1alpha/authTokens:create"),
        (*GEMINI, "POST", "/batch"),
        (*GEMINI, "POST", "/batch/generativelanguage/v1beta"),
        (
            "custom",
            "https://iamcredentials.googleapis.com",
            "POST",
            "/v1/projects/-/serviceAccounts/a@b:generateAccessToken",
        ),
        ("anthropic", "https://api.anthropic.com", "POST", "/v1/tunnels/t_1/reveal_token"),
        ("xai", "https://api.x.ai", "POST", "/v1/realtime/client_secrets"),
        ("openrouter", "https://openrouter.ai/api", "POST", "/v1/keys"),
        ("custom", "https://openrouter.ai", "POST", "/api/v1/keys/"),
        ("mistral", "https://api.mistral.ai", "POST", "/v1/client/sessions"),
        ("custom", "https://api.fireworks.ai", "POST", "/v1/accounts/a/users/u/apiKeys"),
        ("perplexity", "https://api.perplexity.ai", "POST", "/generate_auth_token"),
        ("custom", "https://api.elevenlabs.io", "POST", "/v1/single-use-token/realtime_scribe"),
        ("custom", "https://api.elevenlabs.io", "GET", "/v1/convai/conversation/get-signed-url"),
        ("custom", "https://api.deepgram.com", "POST", "/v1/auth/grant"),
        ("custom", "https://streaming.assemblyai.com", "GET", "/v3/token"),
        ("custom", "https://token.assemblyai.com", "POST", "/"),
        ("custom", "https://huggingface.co", "GET", "/api/models/a/b/xet-write-token/main"),
    ],
)
def test_documented_calls_mint(provider: str, url: str, method: str, path: str) -> None:
    assert mints(provider, url, method, path.encode())


@pytest.mark.parametrize(
    ("provider", "url", "method", "path"),
    [
        (*OPENAI, "POST", "/v1/chat/completions"),
        (*OPENAI, "POST", "/v1/responses"),
        (*OPENAI, "GET", "/v1/realtime"),
        (*OPENAI, "POST", "/v1/realtime/calls/rtc_1/hangup"),
        (*OPENAI, "GET", "/v1/organization/admin_api_keys"),
        (*OPENAI, "DELETE", "/v1/organization/admin_api_keys/key_1"),
        (*OPENAI, "POST", "/v1/chatkit/sessions/s_1/cancel"),
        (*OPENAI, "POST", "/v1/threads/thread_1/runs"),
        (*OPENAI, "POST", "/v1/notrealtime/client_secrets"),
        (*OPENAI, "GET", "/"),
        (*AZURE, "POST", "/openai/deployments/gpt-5/chat/completions"),
        (*GEMINI, "POST", "/v1beta/models/gemini-flash-latest:generateContent"),
        (*GEMINI, "POST", "/v1beta/models/gemini-flash-latest:countTokens"),
        (*GEMINI, "POST", "/v1beta/models/gemini-flash-latest:batchGenerateContent"),
        (*GEMINI, "POST", "/upload/v1beta/files"),
        (*GEMINI, "GET", "/v1beta/batches/b_1"),
        ("anthropic", "https://api.anthropic.com", "POST", "/v1/messages"),
        ("openrouter", "https://openrouter.ai/api", "GET", "/v1/key"),
        ("openrouter", "https://openrouter.ai/api", "GET", "/v1/keys"),
        ("custom", "https://api.elevenlabs.io", "POST", "/v1/text-to-speech/voice"),
        ("custom", "https://streaming.assemblyai.com", "GET", "/v3/ws"),
        # An unknown host with the path of a known one, and hosts that only look like one.
        ("custom", "https://api.example.com", "POST", "/v1/realtime/client_secrets"),
        ("custom", "https://api.openai.com.example.com", "POST", "/v1/realtime/client_secrets"),
        ("custom", "https://notapi.openai.com", "POST", "/v1/realtime/client_secrets"),
        ("custom", "not a URL", "POST", "/v1/realtime/client_secrets"),
    ],
)
def test_ordinary_calls_do_not_mint(provider: str, url: str, method: str, path: str) -> None:
    assert not mints(provider, url, method, path.encode())


@pytest.mark.parametrize(
    "path",
    [
        "/v1/realtime/client_secrets/",
        "/V1/RealTime/Client_Secrets",
        "/v1/realtime/client%5Fsecrets",
        "/v1/realtime/client%5fsecrets",
        "/v1/realtime/client%255Fsecrets",
        "/v1/realtime%2Fclient_secrets",
        "/v1/realtime%2F%2Fclient_secrets",
        "/v1%2Frealtime%2Fclient_secrets%2F",
        "/v1/realtime;v=1/client_secrets",
        "/v1/realtime/client_secrets;v=1",
        "/v1/realtime/client_secrets%3Bv=1",
        "/v1/realtime/client_secrets%3Fmodel=x",
        "/v1/realtime/client_secrets%23x",
        "/v1/realtime/client_secrets%20",
        "/v1/realtime/client_secrets.",
        "/v1/realtime./client_secrets",
        "/v1/realtime%20/client_secrets",
        "/v1/realtime;/client_secrets/%2F",
        "/%76%31/%72%65%61%6c%74%69%6d%65/%63%6c%69%65%6e%74%5f%73%65%63%72%65%74%73",
    ],
)
def test_look_alike_spellings_mint(path: str) -> None:
    check_path(path.encode())
    assert mints(*OPENAI, "POST", path.encode())


def _documented() -> Iterator[tuple[str, str, str, str]]:
    for slug, paths in MINTING_PATHS.items():
        host = paths.hosts[0] if not paths.hosts[0].startswith(".") else f"api{paths.hosts[0]}"
        for method, group in (("POST", paths.writes), ("GET", paths.any_method)):
            yield from ((slug, f"https://{host}", method, path.replace("*", "x")) for path in group if path)


@given(st.sampled_from(list(_documented())), st.data())
def test_any_encoding_of_a_documented_path_mints(call: tuple[str, str, str, str], data: Any) -> None:
    slug, url, method, path = call
    spelled = "/v1"
    for character in path:
        form = data.draw(st.sampled_from(["plain", "swapped", "encoded", "twice"]))
        code = f"%{ord(character):02x}"
        spelled += {
            "plain": character,
            "swapped": character.swapcase(),
            "encoded": code,
            "twice": code.replace("%", "%25"),
        }[form]
    try:
        check_path(spelled.encode())
    except BadPath:
        return
    assert mints(slug, url, method, spelled.encode())


def test_every_way_to_write_mints() -> None:
    for method in minting.WRITES:
        assert mints(*OPENAI, method, b"/v1/realtime/client_secrets")


def test_every_provider_path_is_in_canonical_form() -> None:
    for paths in MINTING_PATHS.values():
        for path in paths.writes + paths.any_method:
            assert path == path.lower()
            assert path == "" or (path.startswith("/") and not path.endswith("/"))


def test_no_key_check_mints() -> None:
    for provider in providers.PROVIDERS.values():
        if provider.key_check is not None:
            path = provider.key_check.path.partition("?")[0].encode()
            for url in provider.destination_urls:
                assert not mints(provider.slug, url, "GET", path)


def test_connection_test_never_mints() -> None:
    openai = providers.get("openai")
    assert choose(openai, ["POST /v1/realtime/client_secrets"], openai.destination_url) is None
    chosen = choose(openai, ["POST /v1/realtime/client_secrets", "POST /v1/responses"], openai.destination_url)
    assert str(chosen) == "POST /v1/responses"


# --- Through a running Strake ----------------------------------------------------------------------------------------

CLIENT_SECRETS = "/openai/v1/realtime/client_secrets"


@pytest.fixture
def azure(strake: Strake, upstream: Upstream) -> Endpoint:
    return strake.connect(upstream.url, provider="azure-openai")


def test_minting_is_refused_before_the_provider(azure: Endpoint, upstream: Upstream) -> None:
    response = httpx.post(azure.url + CLIENT_SECRETS, headers=azure.bearer, json={})
    assert (response.status_code, response.headers["x-strake-error"]) == (403, "mints_credentials")
    assert response.headers["x-should-retry"] == "false"
    assert response.json()["error"]["code"] == "mints_credentials"
    assert "add a token that allows it" in response.json()["error"]["message"]
    assert not any(exchange.method == "POST" for exchange in upstream.exchanges)


def test_token_may_allow_minting(strake: Strake, azure: Endpoint, upstream: Upstream) -> None:
    allowing = strake.issue(azure, allow_minting=True)
    response = httpx.post(azure.url + CLIENT_SECRETS, headers=allowing.bearer, json={})
    assert (response.status_code, upstream.last.path) == (200, CLIENT_SECRETS)


def test_handshakes_meet_the_same_rule(strake: Strake, upstream: Upstream) -> None:
    """The row names another provider, since no provider with a destination of one's own mints for a GET."""
    endpoint = strake.connect(upstream.url)
    set_provider = (
        "from credentials.models import Endpoint; "
        "Endpoint.objects.filter(subdomain=sys.argv[1]).update(provider='elevenlabs')"
    )
    strake.python(set_provider, endpoint.subdomain)
    upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    request = get(endpoint, "/v1/convai/conversation/token", *upgrade, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    response = ask(strake.address, request)
    assert (response.status, response.all("x-strake-error")) == (403, [b"mints_credentials"])
    assert upstream.exchanges == []
