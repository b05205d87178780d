"""Secrets of clouds: what people paste, how it is checked, and what the requests and responses of token servers are."""

from __future__ import annotations

import io
import json
from typing import Any
from urllib.parse import parse_qs

import google.auth.jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from django.core.management import CommandError, call_command
from django.test import Client
from pytest_django import Settings

from accounts import access_tokens
from accounts.actors import Person
from accounts.models import AuditEvent, User
from credentials import cloud_tokens, services
from credentials.errors import CannotOpen, CloudTokenError, InvalidKey, KeyRefused, KeyUnchecked
from credentials.models import Credential, DerivedToken, Endpoint
from credentials.vault import keyring
from proxy.unsealing import open_key
from tests.support import factories
from tests.support.pages import text
from tests.support.token_server import (
    CLIENT_ID,
    CLIENT_SECRET,
    EMAIL,
    ENTRA_PARAMETERS,
    GOOGLE_PARAMETERS,
    TENANT,
    TokenServer,
    key_body,
    key_file,
    private_key,
)
from tests.support.token_urls import urls_on
from tests.support.upstream import Upstream, fixed

ENTRA = {"kind": "azure_entra", "tenant": TENANT, "client_id": CLIENT_ID}


def pem_of(key: Any) -> str:
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text.decode()


# --- What people paste ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [key_file(), f"\n {key_file()}\n", key_file().replace("\n", "")])
def test_key_file_becomes_key_and_parameters(text: str) -> None:
    key, parameters = cloud_tokens.google_secret(text)
    assert key.reveal() == key_body()
    assert parameters == GOOGLE_PARAMETERS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AQ.key",
        "[]",
        "{" * 5000,
        key_file()[:-40],
        key_file(type="authorized_user"),
        key_file(token_uri="https://attacker.example/token"),
        key_file(token_uri="https://oauth2.googleapis.com/token/"),
        key_file(token_uri=None),
        key_file(universe_domain="s3nscloud.example"),
        key_file(client_email=None),
        key_file(client_email="a@b\r\nX: y"),
        key_file(private_key_id=7),
        key_file(private_key=None),
        key_file(private_key="-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        key_file(private_key=pem_of(ec.generate_private_key(ec.SECP256R1()))),
        key_file(private_key=pem_of(rsa.generate_private_key(65537, 1024))),
        key_file(private_key=pem_of(private_key()).replace("PRIVATE", "RSA PRIVATE")),
        key_file(padding="x" * cloud_tokens.MAX_KEY_FILE_LENGTH),
    ],
)
def test_other_key_files_are_refused(text: str) -> None:
    with pytest.raises(InvalidKey) as refused:
        cloud_tokens.google_secret(text)
    assert key_body()[100:120] not in str(refused.value)
    assert refused.value.__context__ is None, "an error report would show the text in the frames of json"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tenant": ""}, "tenant"),
        ({"tenant": "common"}, "tenant"),
        ({"tenant": "a/../../b"}, "tenant"),
        ({"tenant": "a.example/x?y"}, "tenant"),
        ({"client_id": "my-app"}, "client_id"),
        ({"client_secret": ""}, "api_key"),
        ({"client_secret": CLIENT_ID.upper()}, "api_key"),
    ],
)
def test_other_entra_values_are_refused(changes: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidKey) as refused:
        cloud_tokens.entra_secret(
            **{"client_secret": CLIENT_SECRET, "tenant": TENANT, "client_id": CLIENT_ID} | changes
        )
    assert refused.value.field == field


def test_pasted_json_needs_its_kind() -> None:
    with pytest.raises(InvalidKey, match="kind"):
        cloud_tokens.secret_of("static", key_file())


# --- Requests and responses ----------------------------------------------------------------------------------------


def test_token_servers_are_pinned(settings: Settings) -> None:
    assert settings.STRAKE_TOKEN_URLS == {
        "azure_entra": "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token",
        "google_service_account": "https://oauth2.googleapis.com/token",
    }
    assert cloud_tokens.hosts() == {"login.microsoftonline.com", "oauth2.googleapis.com"}
    url, _ = cloud_tokens.build_request("azure_entra", ENTRA_PARAMETERS, b"x")
    assert url == f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token"


def test_assertion_satisfies_googles_library() -> None:
    request = cloud_tokens.build_request("google_service_account", GOOGLE_PARAMETERS, key_body().encode())
    fields = parse_qs(request.body.decode())
    public_key = private_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    decode: Any = google.auth.jwt.decode
    claims = decode(fields["assertion"][0], certs=public_key, audience=request.url)
    assert (claims["iss"], claims["scope"]) == (EMAIL, GOOGLE_PARAMETERS["scope"])


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("static", {}), ("azure_entra", {}), ("azure_entra", ENTRA_PARAMETERS | {"tenant": "x/y"})],
)
def test_unknown_parameters_build_no_request(kind: str, parameters: dict[str, str]) -> None:
    with pytest.raises(CloudTokenError, match="invalid_request"):
        cloud_tokens.build_request(kind, parameters, b"secret")


GOOD = {"access_token": "ya29.x", "token_type": "bearer", "expires_in": 3599}


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, {"error": "invalid_client"}, "invalid_client"),
        (400, {"error": "invalid_grant"}, "invalid_grant"),
        (400, {"error": "made_up_by_a_server"}, "invalid_response"),
        (400, {"error": {"code": "invalid_client"}}, "invalid_response"),
        (302, {}, "invalid_response"),
        (429, {"error": "invalid_client"}, "server_error"),
        (500, {}, "server_error"),
        (200, {}, "invalid_response"),
        (200, GOOD | {"access_token": 7}, "invalid_response"),
        (200, GOOD | {"access_token": "a\r\nX: y"}, "invalid_response"),
        (200, GOOD | {"token_type": "mac"}, "invalid_response"),
        (200, GOOD | {"expires_in": 0}, "invalid_response"),
        (200, GOOD | {"expires_in": True}, "invalid_response"),
        (200, GOOD | {"expires_in": "3599"}, "invalid_response"),
    ],
)
def test_other_responses_give_no_token(status: int, body: dict[str, Any], code: str) -> None:
    with pytest.raises(CloudTokenError) as failed:
        cloud_tokens.read_response(status, json.dumps(body).encode())
    assert failed.value.code == code
    assert code in cloud_tokens.REASONS


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 100_000, b'"text"', b"<html>"])
def test_garbage_gives_no_token(body: bytes) -> None:
    with pytest.raises(CloudTokenError, match="invalid_response"):
        cloud_tokens.read_response(200, body)


def test_good_response_gives_a_token() -> None:
    token, seconds = cloud_tokens.read_response(200, json.dumps(GOOD).encode())
    assert (token.reveal(), seconds) == ("ya29.x", 3599)


# --- Connecting ----------------------------------------------------------------------------------------------------


@pytest.fixture
def clouds(settings: Settings, token_server: TokenServer) -> TokenServer:
    settings.STRAKE_TOKEN_URLS = urls_on(token_server.url, settings.STRAKE_TOKEN_URLS)
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.1/32"]
    return token_server


@pytest.fixture
def browser(client: Client, alice: User) -> Client:
    """A browser in which Alice is signed in."""
    client.force_login(alice)
    return client


def opened(credential: Credential) -> str:
    return open_key(credential.sealed(), credential.binding(), keyring.current()).decode()


def connect(alice: User, upstream: Upstream, **changes: Any) -> Endpoint:
    fields: dict[str, Any] = {
        "provider": "azure-openai",
        "api_key": CLIENT_SECRET,
        "destination_url": upstream.url,
        **ENTRA,
    }
    return services.connect(actor=Person(alice), owner=alice, **fields | changes).endpoint


def test_entra_secret_is_checked_and_sealed(alice: User, clouds: TokenServer, upstream: Upstream) -> None:
    credential = connect(alice, upstream).credential
    assert (credential.kind, credential.parameters) == ("azure_entra", ENTRA_PARAMETERS)
    assert (credential.header_name, credential.header_template) == ("Authorization", "Bearer {{secret}}")
    assert opened(credential) == CLIENT_SECRET
    assert len(clouds.exchanges) == 1
    assert upstream.last.header("authorization") == f"Bearer {clouds.given[0]}".encode()
    event = AuditEvent.objects.get(action="endpoint.connected")
    assert event.details["client_id"] == CLIENT_ID
    assert CLIENT_SECRET not in json.dumps(event.details)
    assert not DerivedToken.objects.exists(), "the web half stores no token"


def test_service_account_is_checked_and_sealed(alice: User, clouds: TokenServer, upstream: Upstream) -> None:
    fields = {"provider": "vertex", "destination_url": "https://aiplatform.googleapis.com", "api_key": key_file()}
    kind = {"kind": "google_service_account", "tenant": "", "client_id": ""}
    credential = connect(alice, upstream, **fields, **kind).credential
    assert (credential.kind, credential.parameters) == ("google_service_account", GOOGLE_PARAMETERS)
    assert opened(credential) == key_body()
    assert clouds.problems == []
    assert len(clouds.given) == 1


@pytest.mark.parametrize("failure", [(401, "invalid_client"), (400, "unauthorized_client")])
def test_refused_secret_is_not_saved(
    failure: tuple[int, str], alice: User, clouds: TokenServer, upstream: Upstream
) -> None:
    clouds.failure = failure
    with pytest.raises(KeyRefused, match=failure[1]) as refused:
        connect(alice, upstream, unchecked=True)
    assert CLIENT_SECRET not in str(refused.value)
    assert not Endpoint.objects.exists()


def test_token_without_a_role_is_refused(alice: User, clouds: TokenServer, upstream: Upstream) -> None:
    upstream.default = fixed(403)
    with pytest.raises(KeyRefused, match="role"):
        connect(alice, upstream)


def test_silent_token_server_leaves_it_unchecked(alice: User, clouds: TokenServer, upstream: Upstream) -> None:
    clouds.failure = (503, "temporarily_unavailable")
    with pytest.raises(KeyUnchecked):
        connect(alice, upstream)
    assert connect(alice, upstream, unchecked=True).credential.kind == "azure_entra"


def test_token_server_obeys_the_egress_policy(
    alice: User, clouds: TokenServer, upstream: Upstream, settings: Settings
) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"127.0.0.1:{upstream.port}"]
    with pytest.raises(KeyUnchecked):
        connect(alice, upstream)
    assert clouds.exchanges == []


@pytest.mark.parametrize("provider", ["openai", "vertex", "custom"])
def test_other_providers_take_no_entra_secret(
    provider: str, alice: User, clouds: TokenServer, upstream: Upstream
) -> None:
    with pytest.raises(InvalidKey):
        connect(alice, upstream, provider=provider)
    assert clouds.exchanges == []


def test_replaced_secret_keeps_its_application(alice: User, clouds: TokenServer, upstream: Upstream) -> None:
    endpoint = connect(alice, upstream)
    DerivedToken.objects.create(credential=endpoint.credential, failure="invalid_client")
    services.replace_key(actor=Person(alice), subdomain=endpoint.subdomain, api_key=CLIENT_SECRET)
    services.change_destination(
        actor=Person(alice),
        subdomain=endpoint.subdomain,
        api_key=CLIENT_SECRET,
        destination_url=upstream.url + "/other",
    )
    credential = Credential.objects.get()
    assert (credential.kind, credential.parameters) == ("azure_entra", ENTRA_PARAMETERS)
    assert credential.destination_url == upstream.url + "/other"
    assert opened(credential) == CLIENT_SECRET
    assert not DerivedToken.objects.exists()


def test_form_connects_an_application(browser: Client, clouds: TokenServer, upstream: Upstream) -> None:
    page = text(browser.get("/endpoints/connect/azure-openai/"))
    assert "Client secret of an Entra ID application" in page
    data = {"api_key": CLIENT_SECRET, "destination_url": upstream.url, **ENTRA}
    wrong = browser.post("/endpoints/connect/azure-openai/", data | {"tenant": "common"})
    assert wrong.status_code == 400
    assert "directory (tenant) ID from" in text(wrong)
    assert CLIENT_SECRET not in wrong.content.decode()
    made = browser.post("/endpoints/connect/azure-openai/", data)
    assert made.status_code == 201
    assert Credential.objects.get().parameters == ENTRA_PARAMETERS


def test_form_connects_a_service_account(browser: Client, clouds: TokenServer) -> None:
    made = browser.post(
        "/endpoints/connect/vertex/",
        {
            "api_key": key_file().replace("\n", ""),  # as a browser's one-line field sends it
            "destination_url": "https://aiplatform.googleapis.com",
            "kind": "google_service_account",
        },
    )
    assert made.status_code == 201
    assert Credential.objects.get().parameters == GOOGLE_PARAMETERS


def test_page_tells_why_a_renewal_failed(browser: Client, alice: User, clouds: TokenServer, upstream: Upstream) -> None:
    endpoint = connect(alice, upstream)
    page = f"/endpoints/{endpoint.subdomain}/"
    assert "gave no access token" not in text(browser.get(page))
    DerivedToken.objects.create(credential=endpoint.credential, failure="invalid_client")
    shown = text(browser.get(page))
    assert "invalid_client" in shown
    assert "has expired" in shown
    assert CLIENT_ID in shown


def test_api_connects_an_application(alice: User, clouds: TokenServer, upstream: Upstream, client: Client) -> None:
    token = access_tokens.create(actor=Person(alice), user=alice, label="x").plaintext
    body = {"provider": "azure-openai", "api_key": CLIENT_SECRET, "destination_url": upstream.url, **ENTRA}
    call: dict[str, Any] = {
        "content_type": "application/json",
        "headers": {"Authorization": f"Bearer {token}"},
    }
    made = client.post("/api/v1/endpoints", json.dumps(body), **call)
    assert made.status_code == 201, made.content
    found = made.json()["endpoint"]
    assert (found["kind"], found["renewal_failure"]) == ("azure_entra", "")
    refused = client.post("/api/v1/endpoints", json.dumps(body | {"client_id": "x"}), **call)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_key")


def test_command_connects_a_service_account(
    db: None, clouds: TokenServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--email=a@example.org", "--provider=vertex", "--key-stdin"]
    arguments += ["--kind=google_service_account", "--destination=https://aiplatform.googleapis.com"]
    monkeypatch.setattr("sys.stdin", io.StringIO(key_file()))
    call_command("connect", *arguments, "--json")
    assert Credential.objects.get().parameters == GOOGLE_PARAMETERS
    monkeypatch.setattr("sys.stdin", io.StringIO(key_file(token_uri="https://attacker.example/token")))
    with pytest.raises(CommandError, match="another token server"):
        call_command("connect", *arguments)


def test_key_is_bound_to_its_parameters(alice: User) -> None:
    made = factories.make_endpoint(owner=alice, kind="azure_entra", parameters=ENTRA_PARAMETERS, key=CLIENT_SECRET)
    assert opened(made.credential) == CLIENT_SECRET
    Credential.objects.update(parameters=ENTRA_PARAMETERS | {"tenant": "attacker.example"})
    with pytest.raises(CannotOpen):
        opened(Credential.objects.get())
