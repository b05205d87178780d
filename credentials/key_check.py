"""Ask the provider whether a pasted key is valid, before it is sealed."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
from django.conf import settings
from yarl import URL

from credentials.destinations import Destination
from credentials.egress import Guard, Holes
from credentials.errors import KeyRefused, KeyUnchecked
from credentials.providers import SECRET_PLACEHOLDER, Provider

logger = logging.getLogger(__name__)
SECONDS = 10


def check_key(
    *, provider: Provider, destination: Destination, header_name: str, header_template: str, key: str
) -> None:
    """Return if the provider accepts the key, or has nothing that could be asked.

    Raises `KeyRefused` on 401 and 403, `KeyUnchecked` where the provider does not answer or not clearly. Blocks for up
    to ten seconds; call it outside of transactions.
    """
    if provider.key_check is None:
        return
    header = (header_name, header_template.replace(SECRET_PLACEHOLDER, key))
    url = destination.url + provider.key_check.path
    status = asyncio.run(_ask(url, [*provider.key_check.headers, header], plain=destination.scheme == "http"))
    if status in {401, 403}:
        raise KeyRefused(f"{provider.name} says this key is not valid. Copy it again, or make a new one there.")
    if not 200 <= status < 300:
        raise KeyUnchecked(f"{provider.name} could not be asked whether this key is valid.")


async def _ask(url: str, headers: list[tuple[str, str]], *, plain: bool) -> int:
    """The status of one GET; 0 where there is no answer."""
    guard = Guard(Holes(settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS), plain=plain)
    connector = aiohttp.TCPConnector(resolver=guard, socket_factory=guard.socket, use_dns_cache=False)  # type: ignore[arg-type]
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=SECONDS),
                trust_env=False,
            ) as session,
            session.get(URL(url, encoded=True), headers=headers, allow_redirects=False) as response,
        ):
            return response.status
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        # Only the kind of error: its text can quote the header, and with it the key.
        logger.info("key_check_failed kind=%s", type(error).__name__)
        return 0
