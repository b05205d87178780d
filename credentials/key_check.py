"""Asks the provider whether a pasted key is valid, before the key is sealed."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx
from django.conf import settings

from accounts.transactions import without_connection
from credentials import cloud_tokens
from credentials.cloud_tokens import TokenRequest
from credentials.destinations import Destination
from credentials.egress import EgressPolicy
from credentials.egress_allowlist import EgressAllowlist
from credentials.egress_transport import EgressTransport
from credentials.errors import CloudTokenError, KeyRefused, KeyUnchecked
from credentials.places import Place, fill, fill_all
from credentials.providers import Provider
from credentials.vault.provider_key import ProviderKey
from credentials.vault.sealing import wipe

logger = logging.getLogger(__name__)

MAX_SECONDS = 10
_NO_RESPONSE = (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL, httpcore.ProtocolError)


def check_key(
    *,
    provider: Provider,
    destination: Destination,
    header_name: str,
    header_template: str,
    key: str,
    places: Sequence[Place] = (),
    owner_id: Hashable = None,
    owner_email: str = "",
) -> None:
    """Send the provider's key check. Does nothing if the provider has none.

    `owner_id` and `owner_email` are those of the endpoint's owner: their share of look-ups is used, and the operator's
    allowlist for them. Blocks for up to `MAX_SECONDS`, so call it outside of transactions. Raises `KeyRefused` on
    one of the check's `refusals`, and `KeyUnchecked` if the provider cannot be reached or responds with another status
    than 2xx.
    """
    if provider.key_check is None:
        return
    url = destination.url + provider.check_path_at(destination.url)
    headers, query = fill_all(places, key)
    if header_name:
        headers.append((header_name, fill(header_template, key)))
    if query:
        url += ("&" if "?" in url else "?") + query
    policy = EgressPolicy(
        EgressAllowlist(settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS),
        plain=destination.scheme == "http",
        owner_email=owner_email,
    )
    transport = EgressTransport(policy, seconds=MAX_SECONDS, owner_id=owner_id)
    status = _get(url, [*provider.key_check.headers, *headers], transport)
    if status in provider.key_check.refusals:
        raise KeyRefused(f"{provider.name} rejected this key. Check that you copied all of it, or create a new one.")
    if not 200 <= status < 300:
        raise KeyUnchecked(f"Couldn't check this key: {provider.name} didn't respond as expected. Nothing was saved.")


def buy_token(
    *, kind: str, parameters: Mapping[str, str], key: ProviderKey, owner_id: Hashable = None, owner_email: str = ""
) -> ProviderKey:
    """Return an access token that a cloud gives for a pasted secret. The arguments and limits are as for `check_key`.

    Raises `KeyRefused` if the token server refuses the secret, and `KeyUnchecked` if it gives no clear answer.
    """
    request = cloud_tokens.build_request(kind, parameters, key.reveal().encode())
    policy = EgressPolicy(
        EgressAllowlist(settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS),
        plain=request.url.startswith("http:"),
        owner_email=owner_email,
    )
    try:
        status, body = _post(request, EgressTransport(policy, seconds=MAX_SECONDS, owner_id=owner_id))
        return cloud_tokens.read_response(status, body).token
    except CloudTokenError as error:
        if error.code in cloud_tokens.REFUSALS:
            reason = cloud_tokens.REASONS[error.code]
            raise KeyRefused(f"The cloud refuses this secret ({error.code}). {reason}") from None
        raise KeyUnchecked(
            "Couldn't check this key: the cloud's token server didn't respond as expected. Nothing was saved."
        ) from None
    finally:
        wipe(request.body)


def _post(request: TokenRequest, transport: EgressTransport) -> tuple[int, bytes]:
    """Return the status and the body of the response. Raises `CloudTokenError`."""
    headers = {"Content-Type": cloud_tokens.CONTENT_TYPE}
    try:
        with (
            without_connection(),
            _client(transport) as client,
            client.stream("POST", request.url, headers=headers, content=bytes(request.body)) as response,
        ):
            body = b""
            for part in response.iter_raw():
                body += part
                if len(body) > cloud_tokens.MAX_RESPONSE_BYTES:
                    raise CloudTokenError("invalid_response")
            return response.status_code, body
    except _NO_RESPONSE as error:
        logger.info("token_check_failed kind=%s", type(error).__name__)  # its text can quote the request
        raise CloudTokenError("unreachable") from None


def _client(transport: EgressTransport) -> httpx.Client:
    return httpx.Client(
        transport=transport,
        trust_env=False,
        headers={"User-Agent": "Strake", "Accept-Encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
    )


def _get(url: str, headers: list[tuple[str, str]], transport: EgressTransport) -> int:
    """Return the status of one GET, or 0 if there is no response. The body is not read. Redirects are not followed."""
    try:
        with (
            without_connection(),
            _client(transport) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            return response.status_code
    except _NO_RESPONSE as error:
        # The text of an error can quote the header, and with it the key.
        logger.info("key_check_failed kind=%s", type(error).__name__)
        return 0
