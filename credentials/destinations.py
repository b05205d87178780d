"""Destination URLs, header names and header templates that a person may choose."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from django.conf import settings

from credentials.egress import Holes, IPAddress, is_public
from credentials.errors import InvalidDestination
from credentials.providers import SECRET_PLACEHOLDER

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
_HOST = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,=:@-]+)*")
_LOCAL_SUFFIXES = (".local", ".internal", ".localhost", ".lan", ".home.arpa", ".intranet", ".corp")

# Headers that steer the connection or are set by the proxy itself; a key in one of them would break the request.
FORBIDDEN_HEADERS = frozenset(
    """
    accept-encoding connection content-encoding content-length content-type cookie date expect forwarded host
    keep-alive origin proxy-authenticate proxy-authorization proxy-connection referer te trailer transfer-encoding
    upgrade user-agent via x-forwarded-for x-forwarded-host x-forwarded-proto x-real-ip
    """.split()  # noqa: SIM905  (one name per line would be a page)
)


@dataclass(frozen=True, slots=True)
class Destination:
    """A checked destination URL in its one canonical spelling; `base_path` has no trailing slash."""

    scheme: str
    host: str
    port: int
    base_path: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.base_path}"

    @property
    def netloc(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


def parse(url: str) -> Destination:
    """The parts of a destination URL, without asking whether it is allowed. Raises `InvalidDestination`."""
    url = url.strip()
    if re.search(r"[\x00-\x20\x7f]", url):
        # `urlsplit` would drop tabs and line breaks, and join what stands around them.
        raise InvalidDestination("The destination may hold no spaces or line breaks inside.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidDestination("That is not a URL. It should look like https://api.example.com") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidDestination("The destination should look like https://api.example.com")
    if parts.username is not None or parts.password is not None:
        raise InvalidDestination("Leave user name and password out of the URL; the key goes into the header.")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise InvalidDestination("The destination must end before any ? or #. Tools add those to each call.")
    host = parts.hostname
    if _literal(host) is None:
        host = _hostname(f"[{host}]" if "[" in parts.netloc else host)
    path = parts.path.rstrip("/")
    if not _PATH.fullmatch(path) or any(set(segment) == {"."} for segment in path.split("/") if segment):
        raise InvalidDestination("The destination's path may hold plain segments only, like /api/v1")
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    return Destination(parts.scheme, host, port, path)


def check(url: str) -> Destination:
    """A destination a person may use: https, port 443, a public name; or through a hole the operator has opened.

    This is the kind check with the clear message. What counts is `credentials.egress` at connect time.
    Raises `InvalidDestination`.
    """
    destination = parse(url)
    if _is_strake_itself(destination):
        raise InvalidDestination("That is this Strake itself. Its requests would run in a circle.")
    holes = Holes(settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS)
    literal = _literal(destination.host)
    if holes.has_host(destination.host, destination.port) or (literal is not None and holes.has_address(literal)):
        return destination
    if literal is None and holes.networks and _resolves_into(destination, holes):
        return destination
    if destination.scheme != "https":
        raise InvalidDestination("The destination must start with https:// so that the key travels encrypted.")
    if literal is not None:
        raise InvalidDestination("Use a host name, not an IP address.")
    if destination.port != 443:
        raise InvalidDestination("Only port 443 is allowed here. An operator can open others.")
    name = destination.host
    if "." not in name or name.endswith(_LOCAL_SUFFIXES) or _is_number_like(name):
        raise InvalidDestination("That host is private. An operator can open it; see the configuration page.")
    if _resolves_privately(destination):
        raise InvalidDestination(
            "That host has a private address. An operator can open it; see the configuration page."
        )
    return destination


def check_header(name: str, template: str) -> tuple[str, str]:
    """A header name and template a person may use, as given but stripped. Raises `InvalidDestination`."""
    name, template = name.strip(), template.strip()
    if not _TOKEN.fullmatch(name) or len(name) > 64:
        raise InvalidDestination("A header name is letters, digits and dashes, like X-Api-Key.", field="header_name")
    if name.lower() in FORBIDDEN_HEADERS:
        raise InvalidDestination(f"A key cannot be sent in the header {name}.", field="header_name")
    if template.count(SECRET_PLACEHOLDER) != 1:
        raise InvalidDestination(
            f"The template must hold {SECRET_PLACEHOLDER} exactly once, like Bearer {SECRET_PLACEHOLDER}",
            field="header_template",
        )
    if len(template) > 256 or not all(" " <= character <= "~" for character in template):
        raise InvalidDestination("The template may hold plain visible characters only.", field="header_template")
    return name, template


def _is_strake_itself(destination: Destination) -> bool:
    """Whether requests would come back here: an endpoint whose key is its own token would call itself for ever."""
    base = settings.STRAKE_BASE
    own = {base.hostname} | ({"localhost", "127.0.0.1", "::1"} if settings.STRAKE_EMBEDDED else set())
    port = base.port or {"http": 80, "https": 443}[base.scheme]
    domain = settings.STRAKE_PROXY_DOMAIN
    return (destination.host in own and destination.port in {port, settings.PORT}) or bool(
        domain and f".{destination.host}".endswith(f".{domain}")
    )


def _literal(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _hostname(host: str) -> str:
    try:
        name = host.encode("idna").decode().lower().rstrip(".") if not host.isascii() else host.lower().rstrip(".")
    except UnicodeError:
        name = ""
    if not _HOST.fullmatch(name):
        raise InvalidDestination("That is not a host name. It should look like api.example.com")
    return name


def _is_number_like(name: str) -> bool:
    """Whether `getaddrinfo` may read the name as an IPv4 address: 127.1, 0x7f.1, 0177.0.0.1, 2130706433."""
    return re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)", name.rpartition(".")[2]) is not None


def _addresses(destination: Destination) -> list[IPAddress]:
    try:
        infos = socket.getaddrinfo(destination.host, destination.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []  # unknown today; the check at connect time decides
    return [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in infos]


def _resolves_into(destination: Destination, holes: Holes) -> bool:
    addresses = _addresses(destination)
    return bool(addresses) and all(holes.has_address(address) for address in addresses)


def _resolves_privately(destination: Destination) -> bool:
    return not all(is_public(address) for address in _addresses(destination))
