"""Where `manage.py export_audit` sends events: a stream, an HTTPS receiver, or a syslog server.

Whatever leaves this machine goes only where the egress policy allows it: to port 443 of public addresses, and to what
STRAKE_ALLOWED_PRIVATE_UPSTREAMS opens. Every event is sent at least once. A receiver that needs each one only once can
tell by `sequence`.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from typing import Any, Protocol, TextIO
from urllib.parse import SplitResult, urlsplit

import httpcore
import httpx
from django.conf import settings

from accounts import audit_export
from credentials import egress_tls, resolver
from credentials.egress import EgressPolicy
from credentials.egress_allowlist import EgressAllowlist
from credentials.egress_transport import EgressTransport

SECONDS = 30
FORMS = "https://HOST[:PORT]/PATH, syslog+tls://HOST[:6514] or syslog+tcp://HOST[:601]"
# RFC 5424 §6: facility 13 (log audit), severity 6 (informational), version 1. A message identifier, no process id.
_SYSLOG_HEADER = "<110>1 {at} {host} strake - audit - "
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # RFC 5424 §6.4: what follows is UTF-8
_SYSLOG_PORTS = {"syslog+tls": 6514, "syslog+tcp": 601}
_FAILURES = (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL, httpcore.ProtocolError)


class UnknownReceiver(ValueError):
    """The URL names no receiver. The message says what one looks like."""


class NotDelivered(Exception):
    """The receiver did not take the events. The message says why, without the URL's path."""


class Receiver(Protocol):
    """Takes events in order. `deliver` returns once they are delivered, or raises `NotDelivered`."""

    def deliver(self, events: Sequence[dict[str, Any]]) -> None: ...

    def close(self) -> None: ...


class Stream:
    """A pipe, or with `is_file` a file, whose events are on the disk before their position is."""

    def __init__(self, stream: TextIO, *, is_file: bool = False) -> None:
        self._stream = stream
        self._is_file = is_file

    def deliver(self, events: Sequence[dict[str, Any]]) -> None:
        self._stream.writelines(map(audit_export.line, events))
        self._stream.flush()
        if self._is_file:
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Leave the stream to whoever opened it."""


class HTTPReceiver:
    """Sends lines of JSON by POST. Any status of 2xx takes them."""

    def __init__(self, url: SplitResult, authorization: str) -> None:
        self._url = url.geturl()
        self._plain = url.scheme == "http"
        self._headers = {"Content-Type": "application/x-ndjson", "User-Agent": "Strake", "Accept-Encoding": "identity"}
        if authorization:
            self._headers["Authorization"] = authorization

    def deliver(self, events: Sequence[dict[str, Any]]) -> None:
        transport = EgressTransport(_policy(plain=self._plain), seconds=SECONDS)
        body = "".join(map(audit_export.line, events)).encode()
        try:
            with (
                httpx.Client(transport=transport, trust_env=False, headers=self._headers) as client,
                client.stream("POST", self._url, content=body) as response,
            ):
                status = response.status_code
        except _FAILURES as error:
            raise NotDelivered(f"The receiver cannot be reached: {_reason(error)}.") from None
        if not 200 <= status < 300:
            raise NotDelivered(f"The receiver responded with status {status}.")

    def close(self) -> None:
        """No connection outlives a batch."""


class SyslogReceiver:
    """Sends each event as a message of RFC 5424, framed by its length (RFC 6587 §3.4.1), over TLS (RFC 5425) or TCP.

    Syslog has no acknowledgement. What the server loses after TCP has taken it is lost, and the numbers show the gap.
    """

    def __init__(self, url: SplitResult) -> None:
        self._host, self._port = url.hostname or "", url.port or _SYSLOG_PORTS[url.scheme]
        self._is_plain = url.scheme == "syslog+tcp"
        self._connection: socket.socket | None = None

    def deliver(self, events: Sequence[dict[str, Any]]) -> None:
        try:
            if self._connection is not None and _has_ended(self._connection):
                self.close()
            if self._connection is None:
                self._connection = self._connect()
            self._connection.sendall(b"".join(map(_frame, events)))
        except OSError as error:
            self.close()
            raise NotDelivered(f"The syslog server cannot be reached: {_reason(error)}.") from None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> socket.socket:
        policy = _policy(plain=self._is_plain)
        addresses = policy.check(self._host, self._port, resolver.shared().resolve(self._host, None, seconds=SECONDS))
        failure = OSError("the host has no address")
        for info in addresses:
            connection = policy.create_socket(info)
            try:
                connection.settimeout(SECONDS)
                connection.connect(info[4])
                return connection if self._is_plain else _wrapped(connection, self._host)
            except OSError as error:
                connection.close()
                failure = error
        raise failure


def receiver_of(url: str, authorization: str = "") -> Receiver:
    """Return the receiver at a URL. `authorization` is the header for HTTPS. Raises `UnknownReceiver`."""
    try:
        parts = urlsplit(url)
        is_complete = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise UnknownReceiver(f"Write {FORMS}.") from None
    if not is_complete or parts.username is not None or parts.fragment:
        raise UnknownReceiver(f"Write {FORMS}, without a user name.")
    if parts.scheme in {"https", "http"}:  # http only to what the operator's allowlist opens
        return HTTPReceiver(parts, authorization)
    if parts.scheme in _SYSLOG_PORTS:
        return SyslogReceiver(parts)
    raise UnknownReceiver(f"Write {FORMS}. Syslog over UDP loses messages, so Strake does not send it.")


def _policy(*, plain: bool) -> EgressPolicy:
    return EgressPolicy(EgressAllowlist(settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS), plain=plain)


def _frame(event: dict[str, Any]) -> bytes:
    header = _SYSLOG_HEADER.format(at=event["at"], host=settings.STRAKE_BASE.hostname)
    message = header.encode() + _BYTE_ORDER_MARK + audit_export.line(event).rstrip().encode()
    return f"{len(message)} ".encode() + message


def _wrapped(connection: socket.socket, host: str) -> socket.socket:
    return egress_tls.client_context().wrap_socket(connection, server_hostname=host)


def _has_ended(connection: socket.socket) -> bool:
    """Return whether the server has closed the connection. A syslog server sends nothing."""
    connection.setblocking(False)
    try:
        return not connection.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    finally:
        connection.settimeout(SECONDS)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not valid"
    return getattr(error, "strerror", None) or type(error).__name__
