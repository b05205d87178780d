"""The proxy that connections to providers go through, where a company allows no other way out (STRAKE_EGRESS_PROXY).

Strake asks it for a tunnel (CONNECT, RFC 9110 §9.3.6) to an address that the egress policy has checked. TLS is inside
the tunnel, between Strake and the provider, so the proxy sees addresses and no requests.

Some proxies allow names only. With STRAKE_EGRESS_PROXY_RESOLVES=1 they get the name and resolve it, so which addresses
are allowed is then up to the proxy. Names that can be no public server, and those in the allowlist, are resolved here.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from accounts.addresses import IPAddress
from credentials import local_addresses
from credentials.egress import AddressInfo, EgressPolicy
from credentials.egress_allowlist import IPNetwork

SETTING = "STRAKE_EGRESS_PROXY"
EXCEPTIONS_SETTING = "STRAKE_EGRESS_NO_PROXY"
MAX_HEAD_BYTES = 16 * 1024
# Addresses of one provider that the proxy is asked for in turn, each with its share of the time.
MAX_ATTEMPTS = 4

_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\r\n]*)?\r\n")


class EgressProxyError(OSError):
    """The proxy gave no tunnel. An `OSError`, like any other failure to connect.

    `status` is that of its response, or 0. The name of the class is what the log says.
    """

    def __init__(self, status: int = 0) -> None:
        super().__init__()
        self.status = status


class EgressProxyUnreachable(EgressProxyError):
    """No connection to the proxy, or no answer in time."""


class EgressProxyInvalid(EgressProxyError):
    """What answers is no HTTP proxy."""


class EgressProxyUnauthorized(EgressProxyError):
    """The proxy wants a user name and a password, or others."""


class EgressProxyRefused(EgressProxyError):
    """The proxy forbids the destination (any other 4xx)."""


class EgressProxyFailed(EgressProxyError):
    """The proxy could not connect to the destination (any other status)."""


@dataclass(frozen=True, slots=True)
class EgressProxy:
    """A forward proxy, and the destinations that are reached without it.

    `names` are hosts, or suffixes that begin with a dot.
    """

    host: str
    port: int
    resolves: bool = False
    names: tuple[str, ...] = ()
    networks: tuple[IPNetwork, ...] = ()
    authorization: bytes = field(default=b"", repr=False)

    def gets_name(self, policy: EgressPolicy, host: str, port: int) -> bool:
        """Return whether the proxy resolves this name. Otherwise its addresses are checked here."""
        return self.resolves and not self._excepts(host) and policy.is_public_by_name(host, port)

    def reached_directly(self, host: str, infos: Iterable[AddressInfo]) -> list[AddressInfo]:
        """Return the addresses of a host that are connected to without the proxy.

        Addresses of this machine always are: behind the proxy, 127.0.0.1 is another machine.
        """
        if self._excepts(host):
            return list(infos)
        return [info for info in infos if self._is_near(ipaddress.ip_address(info[4][0]))]

    def request(self, authority: str) -> bytes:
        """Return the request for a tunnel."""
        lines = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n".encode()
        if self.authorization:
            lines += b"Proxy-Authorization: Basic %b\r\n" % self.authorization
        return lines + b"\r\n"

    def _excepts(self, host: str) -> bool:
        return any(host.endswith(name) if name.startswith(".") else host == name for name in self.names)

    def _is_near(self, address: IPAddress) -> bool:
        return local_addresses.is_own(address) or any(
            address in network for network in self.networks if network.version == address.version
        )


def authorities(infos: Iterable[AddressInfo]) -> list[str]:
    """Return what the proxy is asked to connect to, for checked addresses."""
    return [f"[{info[4][0]}]:{info[4][1]}" if ":" in info[4][0] else f"{info[4][0]}:{info[4][1]}" for info in infos]


def infos_of(addresses: Iterable[str], port: int) -> list[AddressInfo]:
    """Return the proxy's own addresses in the form for connecting. The operator named it, so no policy applies."""
    return [
        (
            socket.AF_INET6 if ":" in address else socket.AF_INET,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
            "",
            (address, port),
        )
        for address in addresses
    ]


def joined(received: bytes, data: bytes) -> bytes:
    """Return what has been received of a response with the next part. Raises `EgressProxyInvalid` if that is empty."""
    if not data:
        raise EgressProxyInvalid
    return received + data


def is_complete(received: bytes) -> bool:
    """Return whether the response to CONNECT has arrived, and the tunnel is open.

    Raises one of the `EgressProxyError`s if there is no tunnel. The proxy must send nothing after its head: in both
    protocols that Strake speaks, the client begins.
    """
    head, end, rest = received.partition(b"\r\n\r\n")
    if not end and len(received) < MAX_HEAD_BYTES:
        return False
    status_line = _STATUS_LINE.match(head + b"\r\n")
    if not end or status_line is None:
        raise EgressProxyInvalid
    status = int(status_line[1])
    if 200 <= status < 300:
        if rest:
            raise EgressProxyInvalid(status)
        return True
    if status in {401, 407}:  # tinyproxy answers 401 to a wrong password
        raise EgressProxyUnauthorized(status)
    raise (EgressProxyRefused if 400 <= status < 500 else EgressProxyFailed)(status)


def parse(url: str, *, resolves: bool, exceptions: Iterable[str]) -> EgressProxy:
    """Parse the settings. Raises `ImproperlyConfigured`, with a message that quotes no password."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise _not_a_proxy() from None
    if parts.scheme == "https":
        raise ImproperlyConfigured(
            f"{SETTING} must start with http://. Strake speaks HTTP to the proxy, and TLS to providers through it."
        )
    is_literal = _network(host) is not None
    if parts.scheme != "http" or not (is_literal or _HOST.fullmatch(host)) or not port:
        raise _not_a_proxy()
    if parts.path not in {"", "/"} or parts.query or parts.fragment or re.search(r"[\x00-\x20\x7f]", url):
        raise _not_a_proxy()
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if re.search(r"[\x00-\x1f\x7f]", user + password) or ":" in user:
        raise ImproperlyConfigured(f"{SETTING}: the user name or the password has a character that cannot be sent.")
    authorization = base64.b64encode(f"{user}:{password}".encode()) if user or password else b""
    names, networks = parse_exceptions(exceptions)
    return EgressProxy(host, port, resolves, names, networks, authorization)


def _not_a_proxy() -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"{SETTING} must look like http://proxy.example.org:3128 or http://user:password@proxy.example.org:3128, with "
        "the special characters of the password percent-encoded: # is %23, / is %2F, : is %3A, @ is %40."
    )


def parse_exceptions(entries: Iterable[str]) -> tuple[tuple[str, ...], tuple[IPNetwork, ...]]:
    """Return the names and the networks of the setting. Raises `ImproperlyConfigured`."""
    names: list[str] = []
    networks: list[IPNetwork] = []
    for entry in entries:
        name = entry.lower().rstrip(".")
        network = _network(name.strip("[]"))
        if network is not None:
            networks.append(network)
        elif _HOST.fullmatch(name.removeprefix(".")) and "/" not in name:
            names.append(name)
        else:
            raise ImproperlyConfigured(
                f"{EXCEPTIONS_SETTING}: {entry!r} is neither a host like ollama.lan, a suffix like .example.org, nor a "
                "network like 10.0.0.0/8. Ports are not part of it."
            )
    return tuple(names), tuple(networks)


def _network(text: str) -> IPNetwork | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
