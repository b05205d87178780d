"""A cloud's token server on loopback, and the credentials that it knows."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import threading
from functools import cache
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.upstream import Exchange, Upstream

TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT_ID = "66666666-7777-8888-9999-000000000000"
CLIENT_SECRET = "Q~canary&client=secret+0123456789"  # with what a form has to encode
ENTRA_PARAMETERS = {
    "tenant": TENANT,
    "client_id": CLIENT_ID,
    "scope": "https://cognitiveservices.azure.com/.default",
}
ENTRA_PATH = f"/{TENANT}/oauth2/v2.0/token"
EMAIL = "caller@project.iam.gserviceaccount.com"
KEY_ID = "0123456789abcdef0123456789abcdef01234567"
GOOGLE_PARAMETERS = {
    "client_email": EMAIL,
    "key_id": KEY_ID,
    "scope": "https://www.googleapis.com/auth/cloud-platform",
}
GOOGLE_PATH = "/token"


def environment_of(server: Upstream, **more: str) -> dict[str, str]:
    """The environment of a Strake whose clouds are one server on loopback."""
    return {"DJANGO_SETTINGS_MODULE": "tests.support.token_server_settings", "TEST_TOKEN_SERVER": server.url, **more}


@cache
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def key_body() -> str:
    """The private key as it is sealed: the body of its PEM."""
    der = private_key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return base64.b64encode(der).decode()


def key_file(**changes: Any) -> str:
    """The JSON key file of the service account."""
    pem = private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    document = {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": KEY_ID,
        "private_key": pem,
        "client_email": EMAIL,
        "client_id": "100000000000000000000",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": "https://oauth2.googleapis.com/token",
        "auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs",
        "client_x509_cert_url": "https://www.googleapis.com/robot/v1/metadata/x509/caller",
        "universe_domain": "googleapis.com",
    }
    return json.dumps({name: value for name, value in (document | changes).items() if value is not None}, indent=2)


class TokenServer(Upstream):
    """Gives a new access token for each valid request, as Entra and Google do.

    `hold` stops the responses until `release`. With `failure`, a status and an error code, it gives none. `lifetime`
    is in seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.default = self._respond
        self.lifetime = 3600
        self.failure: tuple[int, str] | None = None
        self.given: list[str] = []
        self.problems: list[str] = []
        self._numbers = itertools.count(1)
        self._free = threading.Event()
        self._free.set()

    def clear(self) -> None:
        super().clear()
        self.default = self._respond
        self.lifetime, self.failure = 3600, None
        self.given.clear()
        self.problems.clear()
        self._free.set()

    def hold(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    async def _respond(self, exchange: Exchange) -> None:
        if problem := self._problem_of(exchange):
            self.problems.append(problem)
            await _send(exchange, 400, {"error": "invalid_request", "error_description": problem})
            return
        while not self._free.is_set():  # noqa: ASYNC110  (another thread sets it)
            await asyncio.sleep(0.01)
        if self.failure is not None:
            status, code = self.failure
            await _send(exchange, status, {"error": code, "error_description": f"AADSTS70002: {CLIENT_SECRET}"})
            return
        token = f"ya29.canary-{next(self._numbers)}-" + "t" * 400
        self.given.append(token)
        await _send(exchange, 200, {"token_type": "Bearer", "expires_in": self.lifetime, "access_token": token})

    def _problem_of(self, exchange: Exchange) -> str:
        if exchange.method != "POST" or exchange.query:
            return "not a POST without a query"
        if exchange.header("content-type") != b"application/x-www-form-urlencoded":
            return "not a form"
        fields = {name: values[0] for name, values in parse_qs(exchange.body.decode(), strict_parsing=True).items()}
        if exchange.path == ENTRA_PATH:
            expected = {
                "grant_type": "client_credentials",
                "client_id": CLIENT_ID,
                "client_secret": CLIENT_SECRET,
                "scope": ENTRA_PARAMETERS["scope"],
            }
            return "" if fields == expected else f"fields {sorted(fields)}"
        if exchange.path == GOOGLE_PATH:
            if fields.keys() != {"grant_type", "assertion"}:
                return f"fields {sorted(fields)}"
            if fields["grant_type"] != "urn:ietf:params:oauth:grant-type:jwt-bearer":
                return "grant type"
            return _problem_of_assertion(fields["assertion"], self.url + GOOGLE_PATH)
        return f"path {exchange.path}"


def _problem_of_assertion(assertion: str, audience: str) -> str:
    signed, _, signature = assertion.rpartition(".")
    private_key().public_key().verify(_decode(signature), signed.encode(), PKCS1v15(), SHA256())
    header, claims = (json.loads(_decode(part)) for part in signed.split("."))
    if header != {"alg": "RS256", "typ": "JWT", "kid": KEY_ID}:
        return f"header {header}"
    lifetime = claims.pop("exp") - claims.pop("iat")
    if claims != {"iss": EMAIL, "scope": GOOGLE_PARAMETERS["scope"], "aud": audience} or not 0 < lifetime <= 3600:
        return f"claims {claims}"
    return ""


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def _send(exchange: Exchange, status: int, document: dict[str, Any]) -> None:
    headers = [("Content-Type", "application/json; charset=utf-8"), ("Cache-Control", "no-store")]
    await exchange.respond(status, headers, json.dumps(document).encode())
