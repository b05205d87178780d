"""Listening sockets: what `STRAKE_BIND` means, and errors that say what to do.

The sockets are opened before anything else starts, so that an address in use is the first and only message.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from strake.env import Environment

BACKLOG = 2048
FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
_NO_SUCH_ADDRESS = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


@dataclass(frozen=True, slots=True)
class TCPAddress:
    """An IP address and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a Unix socket. By default the server in front may connect, through the folder's group."""

    path: Path
    mode: int = 0o660

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TCPAddress | UnixAddress


class CannotListen(Exception):
    """An address cannot be listened on. `str(error)` says why and what to do. `errno` is the system's."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.errno = number


def loopback(port: int) -> list[Address]:
    """Loopback in both families, or in the one that this machine has."""
    return [TCPAddress(host, port) for host in ("127.0.0.1", "::1") if _is_ours(host)]


def parse(text: str, *, port: int, name: str = "STRAKE_BIND") -> list[Address]:
    """The addresses of a variable: `host:port`, `[v6]:port`, `localhost:port` or `unix:/path`, comma-separated.

    `*:port` means every address of this machine. An empty text means loopback on `port`. Raises `ImproperlyConfigured`.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        return loopback(port)
    return [address for word in words for address in _parse_one(word, name)]


def _parse_one(word: str, name: str) -> list[Address]:
    if word.startswith("unix:"):
        path = word.removeprefix("unix:")
        if not path.startswith("/"):
            raise ImproperlyConfigured(f"{name}: {word!r} must name an absolute path, like unix:/run/strake.sock.")
        return [UnixAddress(Path(path))]
    host, separator, digits = word.rpartition(":")
    if not (separator and digits.isascii() and digits.isdigit() and len(digits) < 6 and 0 < int(digits) < 65536):
        raise ImproperlyConfigured(
            f"{name}: {word!r} must be host:port, [IPv6 address]:port, *:port or unix:/path, like *:8000."
        )
    number = int(digits)
    if host == "localhost":
        return loopback(number)
    if host == "*":
        every = (str(ipaddress.IPv4Address(0)), str(ipaddress.IPv6Address(0)))
        return [TCPAddress(wildcard, number) for wildcard in every if _is_ours(wildcard)]
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        address = None
    if address is None or bracketed != (address.version == 6):
        raise ImproperlyConfigured(
            f"{name}: {word!r} must name an IP address of this machine, 0.0.0.0, [::] or localhost."
        )
    return [TCPAddress(str(address), number)]


def open_sockets(addresses: Sequence[Address]) -> list[socket.socket]:
    """Listen on every address. Raises `CannotListen` and closes what was opened."""
    with ExitStack() as opened:
        listeners = []
        for address in addresses:
            listener = _listen_unix(address) if isinstance(address, UnixAddress) else _listen_tcp(address)
            listeners.append(opened.enter_context(listener))
        opened.pop_all()
    return listeners


def passed_descriptors() -> range:
    """The descriptors of the sockets that systemd passed to this process, or to the supervisor that started it.

    See sd_listen_fds(3).
    """
    env = Environment()
    is_for_us = env.text("LISTEN_PID") in {str(os.getpid()), str(os.getppid())}
    return range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + env.number("LISTEN_FDS", 0, low=0, high=64) * is_for_us)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _is_ours(host: str) -> bool:
    """True if this machine has the address. One without IPv6 has no `::1`, and the other way around."""
    try:
        with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _listen_tcp(address: TCPAddress) -> socket.socket:
    try:
        listener = socket.socket(_family(address.host), socket.SOCK_STREAM)
    except OSError as error:
        raise _cannot_listen(address, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # 0.0.0.0 and [::] may both be listed
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(address, error) from None
    return listener


def _listen_unix(address: UnixAddress) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(address.path)
        listener.bind(str(address.path))
        address.path.chmod(address.mode)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(address, error) from None
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on any more. Raises `OSError` if somebody does, or if it is no socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise OSError(errno.EADDRINUSE, "in use")


def _cannot_listen(address: Address, error: OSError) -> CannotListen:
    if isinstance(address, UnixAddress):
        return CannotListen(_about_path(address.path, error), error.errno or 0)
    return CannotListen(_about_port(address, error), error.errno or 0)


def _about_port(address: TCPAddress, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {address.port} is taken, perhaps by another Strake. Stop that one, or choose another port: "
            f"PORT={address.port + 1 if address.port < 65535 else 8000} make run"
        )
    if error.errno == errno.EACCES:
        return (
            f"Port {address.port} is privileged: only root or a service with CAP_NET_BIND_SERVICE may listen on it. "
            "Choose one from 1024 on, and put a web server in front for 80 and 443."
        )
    if error.errno in _NO_SUCH_ADDRESS:
        return f"This machine has no address {address.host}. Name one of its addresses, 0.0.0.0 or [::] in STRAKE_BIND."
    return f"{address} cannot be listened on: {error.strerror}."


def _about_path(path: Path, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"The socket {path} is in use, perhaps by another Strake. Stop that one, or choose another path."
    if error.errno == errno.EEXIST:
        return f"{path} exists and is not a socket. Remove it, or choose another path in STRAKE_BIND."
    if error.errno == errno.ENOENT:
        return f"The folder {path.parent} does not exist. Create it, or choose another path in STRAKE_BIND."
    if len(os.fsencode(path)) > 100:
        return f"{path} is longer than a socket's path may be (about 100 bytes). Choose a shorter one in STRAKE_BIND."
    return f"The socket {path} cannot be created: {error.strerror}."
