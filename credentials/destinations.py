"""Parses and checks the destination URLs, header names and header templates that people enter."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from django.conf import settings

from accounts.addresses import IPAddress
from accounts.transactions import without_connection
from credentials import resolver
from credentials.egress import EgressPolicy, ForbiddenAddress, Reason, is_private_name
from credentials.egress_allowlist import SETTING, EgressAllowlist, Listing
from credentials.errors import InvalidDestination
from credentials.providers import BASE64_PLACEHOLDER, SECRET_PLACEHOLDER

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
_HOST = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,=:@-]+)*")
_DEFAULT_PORTS = {"http": 80, "https": 443}

_LOOK_UP_SECONDS = 5.0
_ROUND_IN_CIRCLES = "That is this Strake. Its requests would go round in circles."

# Headers that control the connection, or that the proxy sets. A key in one of them would break the request.
FORBIDDEN_HEADERS = frozenset(
    """
    accept-encoding connection content-encoding content-length content-type cookie date expect forwarded host
    keep-alive origin proxy-authenticate proxy-authorization proxy-connection referer te trailer transfer-encoding
    upgrade user-agent via x-forwarded-for x-forwarded-host x-forwarded-proto x-real-ip
    """.split()  # noqa: SIM905  (one name per line would be a page)
)
FORBIDDEN_PREFIXES = ("x-forwarded-", "x-strake-")


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination URL in its canonical form. `base_path` has no trailing slash."""

    scheme: str
    host: str
    port: int
    base_path: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.base_path}"

    @property
    def netloc(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse(url: str) -> Destination:
    """Parse a destination URL, without checking whether it is allowed. Raises `InvalidDestination`."""
    url = url.strip()
    if re.search(r"[\x00-\x20\x7f]", url):
        # `urlsplit` would remove tabs and line breaks, and join the text around them.
        raise InvalidDestination("The destination may not contain spaces or line breaks.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidDestination("That is not a URL. It should look like https://api.example.com") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidDestination("The destination should look like https://api.example.com")
    if parts.username is not None or parts.password is not None:
        raise InvalidDestination("Leave user name and password out of the URL. The key is sent in the header.")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise InvalidDestination("The destination must end before any ? or #. Tools add those to each request.")
    host = parts.hostname
    if _parse_literal(host) is None:
        host = _normalise_host(f"[{host}]" if "[" in parts.netloc else host)
    path = parts.path.rstrip("/")
    if not _PATH.fullmatch(path) or any(set(segment) == {"."} for segment in path.split("/") if segment):
        raise InvalidDestination("The destination's path may contain plain segments only, like /api/v1")
    return Destination(parts.scheme, host, _DEFAULT_PORTS[parts.scheme] if port is None else port, path)


def check(url: str, *, owner_id: Hashable = None, owner_email: str = "", resolve: bool = True) -> Destination:
    """Parse a destination URL and check that its owner may use it. Raises `InvalidDestination`.

    It must be https on port 443 of a public name, or in the operator's allowlist for this owner. This check is for a
    clear message. `credentials.egress` enforces the rules when connecting. `owner_id` is as for `Resolver.resolve`.
    Without `resolve`, it checks what it can without a look-up of the name, and does not wait.
    """
    destination = parse(url)
    if _is_strake(destination):
        raise InvalidDestination(_ROUND_IN_CIRCLES)
    allowlist = EgressAllowlist(settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS)
    objection = _objection(destination)
    if objection and not allowlist.holes:
        raise InvalidDestination(objection)
    policy = EgressPolicy(allowlist, plain=destination.scheme == "http", owner_email=owner_email)
    if not resolve and _parse_literal(destination.host) is None:
        return destination  # its addresses decide
    proxy = settings.STRAKE_EGRESS_PROXY
    if proxy is not None and proxy.gets_name(policy, destination.host, destination.port):
        return destination  # the proxy decides
    addresses = _resolve(destination, owner_id)
    listing = _listing(destination, addresses, allowlist, owner_email)
    if objection and listing is Listing.ABSENT:
        missing = _missing(destination, addresses, allowlist, owner_email)
        raise InvalidDestination(f"{missing}{_remedy(destination)}" if missing else objection)
    if listing is Listing.OTHERS:
        raise InvalidDestination(_message(Reason.OTHERS, destination))
    try:
        policy.check(destination.host, destination.port, addresses)
    except ForbiddenAddress as error:
        raise InvalidDestination(_message(error.reason, destination)) from None
    return destination


def check_header(name: str, template: str) -> tuple[str, str]:
    """Return a header name and template without surrounding spaces. Raises `InvalidDestination` if not allowed."""
    name, template = name.strip(), template.strip()
    check_header_name(name)
    if template.count(SECRET_PLACEHOLDER) + template.count(BASE64_PLACEHOLDER) != 1:
        raise InvalidDestination(
            f"The template must contain {SECRET_PLACEHOLDER} exactly once, like Bearer {SECRET_PLACEHOLDER}",
            field="header_template",
        )
    if len(template) > 256 or not all(" " <= character <= "~" for character in template):
        raise InvalidDestination(
            "The template may contain at most 256 printable ASCII characters.", field="header_template"
        )
    return name, template


def check_header_name(name: str) -> None:
    """Raises `InvalidDestination` for a header that cannot be set for a credential."""
    if not _TOKEN.fullmatch(name) or len(name) > 64:
        raise InvalidDestination(
            "A header name consists of letters, digits and dashes, like X-Api-Key.", field="header_name"
        )
    if name.lower() in FORBIDDEN_HEADERS or name.lower().startswith(FORBIDDEN_PREFIXES):
        raise InvalidDestination(f"A key cannot be sent in the header {name}.", field="header_name")


def _is_strake(destination: Destination) -> bool:
    """True if this Strake serves the destination. An endpoint whose key is its token would call itself endlessly."""
    base = settings.STRAKE_BASE
    hosts = {base.hostname} | ({"localhost", "127.0.0.1", "::1"} if settings.STRAKE_LOOPBACK else set())
    ports = {base.port or _DEFAULT_PORTS[base.scheme], settings.PORT}
    domain = settings.STRAKE_PROXY_DOMAIN
    return (destination.host in hosts and destination.port in ports) or bool(
        domain and f".{destination.host}".endswith(f".{domain}")
    )


def _objection(destination: Destination) -> str:
    """Return why only an entry in the allowlist would permit the destination, judging by the URL alone, or ""."""
    remedy = _remedy(destination)
    if destination.scheme != "https":
        return f"The destination must start with https:// so that the key is encrypted on its way. {remedy}"
    if _parse_literal(destination.host) is not None:
        return f"Use a host name, not an IP address. {remedy}"
    if destination.port != 443:
        return f"Only port 443 is allowed here. {remedy}"
    if is_private_name(destination.host):
        return f"That host is private. {remedy}"
    return ""


def _message(reason: Reason, destination: Destination) -> str:
    match reason:
        case Reason.STRAKE:
            return _ROUND_IN_CIRCLES
        case Reason.OWN_HOST:
            return f"That host is the machine that Strake runs on. {_remedy(destination)}"
        case Reason.OTHERS:
            return (
                "The operator has opened that destination for other people. An operator can add you: "
                f"{_entry(destination)}= and your email address in {SETTING}."
            )
        case Reason.PRIVATE | Reason.NOT_HTTPS:
            return f"That host has a private address. {_remedy(destination)}"


def _remedy(destination: Destination) -> str:
    entry = _entry(destination)
    return f"For a server of your own, an operator can add {entry} to {SETTING}. If it is the first: {SETTING}={entry}"


def _missing(destination: Destination, addresses: Sequence[str], allowlist: EgressAllowlist, owner_email: str) -> str:
    """Return a sentence about the addresses of the host that have no entry, if others have one, or ""."""
    absent = [
        address
        for address in addresses
        if allowlist.of_address(ipaddress.ip_address(address), destination.port, owner_email) is Listing.ABSENT
    ]
    if not absent or len(absent) == len(addresses):
        return ""
    return f"{destination.host} also leads to {' and '.join(absent)}, which {SETTING} does not open. "


def _entry(destination: Destination) -> str:
    host = f"[{destination.host}]" if ":" in destination.host else destination.host
    return f"{host}:{destination.port}"


def _listing(
    destination: Destination, addresses: Sequence[str], allowlist: EgressAllowlist, owner_email: str
) -> Listing:
    """Look up the host and port in the allowlist, or else all addresses of the host."""
    listing = allowlist.of_host(destination.host, destination.port, owner_email)
    if listing is not Listing.ABSENT or not addresses:
        return listing
    listings = {
        allowlist.of_address(ipaddress.ip_address(address), destination.port, owner_email) for address in addresses
    }
    return min(listings, key=lambda listing: listing.value)


def _parse_literal(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _normalise_host(host: str) -> str:
    try:
        name = host.encode("idna").decode().lower().rstrip(".") if not host.isascii() else host.lower().rstrip(".")
    except UnicodeError:
        name = ""
    if not _HOST.fullmatch(name):
        raise InvalidDestination("That is not a host name. It should look like api.example.com")
    return name


def _resolve(destination: Destination, owner_id: Hashable) -> Sequence[str]:
    """Return the addresses of a host, or none if it cannot be resolved now. Connecting will check it again.

    Raises `InvalidDestination` if the owner's share of look-ups is in use.
    """
    if _parse_literal(destination.host) is not None:
        return (destination.host,)
    try:
        with without_connection():
            return resolver.shared().resolve(destination.host, owner_id, seconds=_LOOK_UP_SECONDS)
    except resolver.TooManyLookUps:
        raise InvalidDestination(
            "Host names that you entered before are still being looked up. Check them, and try again in a minute."
        ) from None
    except resolver.NotResolved:
        return ()
