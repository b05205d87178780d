"""Access tokens of clouds: the request that buys one with a sealed secret, and what its response means.

`azure_entra` is OAuth 2.0 client credentials (RFC 6749 §4.4), and the secret is the client secret.
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
`google_service_account` is a JWT assertion (RFC 7523), and the secret is the body of the private key's PEM.
https://developers.google.com/identity/protocols/oauth2/service-account#httprest

Each kind has one token server, which no person can choose. The key check asks it for a pasted secret, and
`proxy.upstream.renewals` for a stored one. Nothing here sends or stores anything.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key
from django.conf import settings

from credentials.errors import CloudTokenError, InvalidKey
from credentials.vault.provider_key import ProviderKey
from credentials.vault.sealing import wipe

AZURE_ENTRA = "azure_entra"
GOOGLE_SERVICE_ACCOUNT = "google_service_account"

ENTRA_SCOPE = "https://cognitiveservices.azure.com/.default"
GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GOOGLE_SERVER = "https://oauth2.googleapis.com/token"

HEADERS = (("Accept", "application/json"), ("Accept-Encoding", "identity"), ("User-Agent", "Strake"))
CONTENT_TYPE = "application/x-www-form-urlencoded"
MAX_RESPONSE_BYTES = 64 * 1024
MAX_KEY_FILE_LENGTH = 16 * 1024
MAX_LIFETIME_SECONDS = 24 * 60 * 60
# Google accepts up to an hour. The assertion is used at once.
ASSERTION_SECONDS = 600

# The codes of RFC 6749 §5.2, after which only another secret, or a change at the cloud, helps.
REFUSALS = frozenset(
    {
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "unauthorized_client",
        "unsupported_grant_type",
    }
)
# Why there was no usable response, or why Strake could not keep the token. Another attempt may help.
TROUBLES = frozenset({"invalid_response", "not_stored", "server_error", "unreachable"})

REASONS = {
    "invalid_client": "The secret is wrong, has expired or was deleted. Create another one and replace it here.",
    "invalid_grant": (
        "The service account or its key was deleted or disabled, or the clock of Strake's machine is wrong. Create "
        "another key and replace it here."
    ),
    "invalid_request": "The tenant or the application is unknown. Check both, and create the endpoint again.",
    "invalid_scope": "The account may get no tokens for this API. Change that at the cloud.",
    "unauthorized_client": "The tenant has no such application, or it was disabled. Change that at the cloud.",
    "unsupported_grant_type": "The cloud gives this kind of account no tokens. Use another one.",
    "invalid_response": "The token server's response was unclear. Strake asks again with the next requests.",
    "not_stored": "Strake couldn't encrypt the token. The operator's log has the details.",
    "server_error": "The token server was in trouble. Strake asks again with the next requests.",
    "unreachable": "Strake couldn't reach the token server. Strake asks again with the next requests.",
}

_TENANT = re.compile(r"[0-9A-Za-z]([0-9A-Za-z-]{0,61}[0-9A-Za-z])?(\.[0-9A-Za-z]([0-9A-Za-z-]{0,61}[0-9A-Za-z])?)*")
_SHARED_TENANTS = frozenset({"common", "consumers", "organizations"})  # Entra knows no application in these
_CLIENT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EMAIL = re.compile(r"[0-9A-Za-z._-]{1,100}@[0-9a-z.-]{1,150}")
_KEY_ID = re.compile(r"[0-9A-Za-z_-]{1,128}")
_PEM = re.compile(r"\s*-----BEGIN PRIVATE KEY-----([A-Za-z0-9+/=\s]+)-----END PRIVATE KEY-----\s*")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986 §2.3
_HEXADECIMAL = b"0123456789ABCDEF"


class TokenRequest(NamedTuple):
    """A POST to a token server. The body holds a secret, and the caller must wipe it."""

    url: str
    body: bytearray


class AccessToken(NamedTuple):
    """What a token server gave, and for how many seconds."""

    token: ProviderKey
    seconds: int


class Secret(NamedTuple):
    """A pasted secret, ready to be sealed, and the parameters that are bound into the seal."""

    key: ProviderKey
    parameters: dict[str, str]


# --- What people paste ---------------------------------------------------------------------------------------------


def secret_of(kind: str, pasted: str | ProviderKey, *, tenant: str = "", client_id: str = "") -> Secret:
    """Check what a person pasted for a credential of this kind. Raises `InvalidKey`."""
    if kind == AZURE_ENTRA:
        return entra_secret(pasted, tenant=tenant, client_id=client_id)
    if kind == GOOGLE_SERVICE_ACCOUNT:
        return google_secret(pasted)
    if tenant.strip() or client_id.strip():
        raise InvalidKey(
            "A tenant and a client ID belong to an Entra ID application. Choose that kind, or leave both empty.",
            field="tenant",
        )
    if isinstance(pasted, str) and pasted.lstrip().startswith("{"):
        raise InvalidKey("That is a JSON file and no API key. A service account's key file is a kind of its own.")
    return Secret(ProviderKey(pasted), {})


def entra_secret(client_secret: str | ProviderKey, *, tenant: str, client_id: str) -> Secret:
    """Check an Entra application's tenant, client id and client secret. Raises `InvalidKey`."""
    tenant, client_id = tenant.strip().lower(), client_id.strip().lower()
    if not _TENANT.fullmatch(tenant) or len(tenant) > 253 or tenant in _SHARED_TENANTS:
        raise InvalidKey(
            "Enter the directory (tenant) ID from the application's overview page in Entra: a UUID or a domain name.",
            field="tenant",
        )
    if not _CLIENT_ID.fullmatch(client_id):
        raise InvalidKey(
            "Enter the application (client) ID from the application's overview page in Entra. It is a UUID.",
            field="client_id",
        )
    key = ProviderKey(client_secret)
    if _CLIENT_ID.fullmatch(key.reveal().lower()):
        raise InvalidKey("That is an ID. Copy the client secret's Value, which Entra shows only when you create it.")
    return Secret(key, {"tenant": tenant, "client_id": client_id, "scope": ENTRA_SCOPE})


def google_secret(key_file: str | ProviderKey) -> Secret:
    """Take the private key out of a service account's JSON key file. Raises `InvalidKey`.

    The rest of the file is public to whoever manages the account. It becomes parameters, or is dropped.
    """
    text = key_file.reveal() if isinstance(key_file, ProviderKey) else key_file
    if len(text) > MAX_KEY_FILE_LENGTH:
        raise InvalidKey("That is longer than a service account's key file. Paste the JSON file and nothing else.")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):  # the error of `json` quotes the document
        document = None
    if not isinstance(document, dict) or document.get("type") != "service_account":
        raise InvalidKey(
            "Paste the whole JSON key file of a service account. It starts with a brace and contains "
            '"type": "service_account".'
        )
    if document.get("token_uri") != GOOGLE_SERVER:
        raise InvalidKey(
            f"The key file names another token server than {GOOGLE_SERVER}, to which Strake does not send it. "
            "Download a new key file from Google Cloud."
        )
    if document.get("universe_domain", "googleapis.com") != "googleapis.com":
        raise InvalidKey("The key file is for another cloud than googleapis.com, which Strake does not support.")
    email, key_id, pem = (document.get(name) for name in ("client_email", "private_key_id", "private_key"))
    if not isinstance(email, str) or not _EMAIL.fullmatch(email):
        raise InvalidKey("The key file has no client_email. Download it again, and paste all of it.")
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise InvalidKey("The key file has no private_key_id. Download it again, and paste all of it.")
    found = _PEM.fullmatch(pem) if isinstance(pem, str) else None
    if found is None:
        raise InvalidKey("The private_key of the key file is incomplete. Download the file again, and paste all of it.")
    key = ProviderKey("".join(found[1].split()))
    _check_private_key(key)
    return Secret(key, {"client_email": email, "key_id": key_id, "scope": GOOGLE_SCOPE})


def _check_private_key(key: ProviderKey) -> None:
    try:
        private_key = _load(key.reveal().encode(), trusted=False)
        is_long_enough = private_key.key_size >= 2048
    except CloudTokenError:
        is_long_enough = False
    if not is_long_enough:
        raise InvalidKey("The private_key of the key file is no RSA key. Download the file again, and paste all of it.")


# --- The request ---------------------------------------------------------------------------------------------------


def hosts() -> frozenset[str]:
    """The hosts of the token servers."""
    return frozenset(host for url in settings.STRAKE_TOKEN_URLS.values() if (host := urlsplit(url).hostname))


def build_request(
    kind: str, parameters: Mapping[str, str], secret: bytes | bytearray, *, now: float | None = None
) -> TokenRequest:
    """Build the request for an access token. `secret` is as it was sealed, and `now` is the time, for tests.

    Raises `CloudTokenError` with `invalid_request` if `kind`, `parameters` or `secret` is not as these functions made
    them.
    """
    try:
        if kind == AZURE_ENTRA:
            return _entra_request(parameters, secret)
        if kind == GOOGLE_SERVICE_ACCOUNT:
            return _google_request(parameters, secret, int(time.time() if now is None else now))
    except KeyError:
        pass
    raise CloudTokenError("invalid_request")


def _entra_request(parameters: Mapping[str, str], secret: bytes | bytearray) -> TokenRequest:
    tenant = parameters["tenant"]
    if not _TENANT.fullmatch(tenant):
        raise CloudTokenError("invalid_request")
    body = _form(
        grant_type=b"client_credentials",
        client_id=parameters["client_id"].encode(),
        scope=parameters["scope"].encode(),
        client_secret=secret,
    )
    return TokenRequest(settings.STRAKE_TOKEN_URLS[AZURE_ENTRA].replace("{tenant}", tenant), body)


def _google_request(parameters: Mapping[str, str], secret: bytes | bytearray, now: int) -> TokenRequest:
    url = settings.STRAKE_TOKEN_URLS[GOOGLE_SERVICE_ACCOUNT]
    header = {"alg": "RS256", "typ": "JWT", "kid": parameters["key_id"]}
    claims = {
        "iss": parameters["client_email"],
        "scope": parameters["scope"],
        "aud": url,
        "iat": now,
        "exp": now + ASSERTION_SECONDS,
    }
    signed = b".".join(_base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    signature = _load(secret, trusted=True).sign(signed, PKCS1v15(), SHA256())
    assertion = bytearray(b".").join((signed, _base64url(signature)))
    body = _form(grant_type=b"urn:ietf:params:oauth:grant-type:jwt-bearer", assertion=assertion)
    wipe(assertion)
    return TokenRequest(url, body)


def _load(encoded: bytes | bytearray, *, trusted: bool) -> RSAPrivateKey:
    """Load a private key in base64. Raises `CloudTokenError`. The numbers of a trusted one are not checked again."""
    der = bytearray(len(encoded) // 4 * 3 - encoded.count(b"="))
    try:
        # In small pieces and in place: a copy of the whole key could not be wiped.
        for position in range(len(encoded) // 4):
            piece = binascii.a2b_base64(encoded[4 * position : 4 * position + 4])
            der[3 * position : 3 * position + len(piece)] = piece
        private_key = load_der_private_key(der, None, unsafe_skip_rsa_key_validation=trusted)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CloudTokenError("invalid_request") from None
    finally:
        wipe(der)
    if not isinstance(private_key, RSAPrivateKey):
        raise CloudTokenError("invalid_request")
    return private_key


def _form(**fields: bytes | bytearray) -> bytearray:
    """Encode a form. `urlencode` would leave copies of the secret that cannot be wiped."""
    sizes = [len(name) + 2 + sum(1 if byte in _UNRESERVED else 3 for byte in value) for name, value in fields.items()]
    body = bytearray(sum(sizes) - 1)  # of its final size: one that grows leaves copies behind
    position = 0
    for name, value in fields.items():
        prefix = b"&" * bool(position) + name.encode() + b"="
        body[position : position + len(prefix)] = prefix
        position += len(prefix)
        for byte in value:
            if byte in _UNRESERVED:
                body[position] = byte
                position += 1
            else:
                body[position : position + 3] = (ord("%"), _HEXADECIMAL[byte >> 4], _HEXADECIMAL[byte & 15])
                position += 3
    return body


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


# --- The response --------------------------------------------------------------------------------------------------


def read_response(status: int, body: bytes | bytearray) -> AccessToken:
    """Return what a token server gave. Raises `CloudTokenError`, which quotes nothing of the response."""
    if status == 429 or status >= 500:
        raise CloudTokenError("server_error")
    document = _parse(body)
    if status != 200:
        code = document.get("error")
        raise CloudTokenError(code if isinstance(code, str) and code in REFUSALS else "invalid_response")
    token, kind, seconds = (document.get(name) for name in ("access_token", "token_type", "expires_in"))
    if not isinstance(token, str) or not isinstance(kind, str) or kind.lower() != "bearer":
        raise CloudTokenError("invalid_response")
    if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds < 1:
        raise CloudTokenError("invalid_response")
    try:
        return AccessToken(ProviderKey(token), min(seconds, MAX_LIFETIME_SECONDS))
    except InvalidKey:
        raise CloudTokenError("invalid_response") from None


def _parse(body: bytes | bytearray) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return {}
    return document if isinstance(document, dict) else {}
