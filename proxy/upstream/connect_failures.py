"""Why a provider could not be reached: one error for each kind of failure, because each needs other advice.

UpstreamUnreachable (502)
├── UpstreamNameUnknown (502)
├── UpstreamRefused (502)
├── UpstreamConnectTimeout (502)
├── UpstreamTLS (502)
├── UpstreamCertificate (502)
├── UpstreamWrongScheme (502)
├── ProxyUnreachable (502)
├── ProxyRefused (502)
└── ProxyFailed (502)
"""

from __future__ import annotations

import errno
import ssl

from credentials.egress_proxy import (
    EgressProxyError,
    EgressProxyFailed,
    EgressProxyRefused,
    EgressProxyUnauthorized,
)
from credentials.resolver import NotResolved
from proxy.errors import UpstreamUnreachable


class UpstreamNameUnknown(UpstreamUnreachable):
    """DNS has no address for the destination's host name, or does not answer."""

    code = "upstream_name_unknown"
    message = "The host name of this endpoint's destination could not be resolved."


class UpstreamRefused(UpstreamUnreachable):
    """Nothing listens at the destination's address and port."""

    code = "upstream_refused"
    message = "The connection was refused. Nothing listens at the destination of this endpoint."


class UpstreamConnectTimeout(UpstreamUnreachable):
    """The destination did not accept a connection in time."""

    code = "upstream_connect_timeout"
    message = "The destination of this endpoint did not accept a connection in time."


class UpstreamTLS(UpstreamUnreachable):
    """The TLS handshake failed for another reason than the certificate."""

    code = "upstream_tls"
    message = "The TLS handshake with the provider failed."


class UpstreamCertificate(UpstreamUnreachable):
    """The destination's certificate is not trusted, expired, or for another name."""

    code = "upstream_certificate"
    is_retryable = False
    message = (
        "The TLS certificate of this endpoint's destination is not valid: not trusted, expired, or for another name."
    )


class UpstreamWrongScheme(UpstreamUnreachable):
    """The destination says https:// and the server speaks plain HTTP, or the other way round."""

    code = "upstream_wrong_scheme"
    is_retryable = False
    message = (
        "The destination of this endpoint has the wrong scheme: https:// for a server without TLS, or http:// for one "
        "with TLS. Its owner must correct it."
    )


class ProxyUnreachable(UpstreamUnreachable):
    """The company's proxy does not answer, or is no HTTP proxy."""

    code = "egress_proxy_unreachable"
    message = "The proxy through which Strake reaches providers does not answer. Tell the operator."


class ProxyRefused(UpstreamUnreachable):
    """The company's proxy forbids the destination, or does not accept Strake's password."""

    code = "egress_proxy_refused"
    is_retryable = False
    message = (
        "The proxy through which Strake reaches providers refused the connection. The operator's log has its status: "
        "with 407 it wants another user name or password, otherwise it does not allow this destination."
    )


class ProxyFailed(UpstreamUnreachable):
    """The company's proxy could not connect to the destination."""

    code = "egress_proxy_failed"
    message = (
        "The proxy through which Strake reaches providers could not connect to the provider. If it lasts, tell the "
        "operator."
    )


# What OpenSSL says of a server that answers a handshake in plain text. It depends on its version and the first bytes.
_NOT_TLS = frozenset(
    {"HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "WRONG_VERSION_NUMBER"}
)


def unreachable(error: Exception) -> UpstreamUnreachable:
    """Return the error for an exception of connecting. Its kind for the log has neither a host name nor an address."""
    name = type(error).__name__
    match error:
        case EgressProxyError():
            return _without_tunnel(error)
        case NotResolved():
            return UpstreamNameUnknown("gaierror")
        case UnicodeError():
            return UpstreamNameUnknown(name)
        case TimeoutError():
            return UpstreamConnectTimeout(name)
        case ConnectionRefusedError():
            return UpstreamRefused(name)
        case ssl.SSLCertVerificationError():
            # OpenSSL's words, such as "certificate has expired". Only "Hostname mismatch, ..." has more behind it.
            return UpstreamCertificate(f"{name}: {error.verify_message.partition(',')[0]}")
        case ssl.SSLError():
            kind = UpstreamWrongScheme if error.reason in _NOT_TLS else UpstreamTLS
            return kind(f"{name}: {error.reason}")
        case OSError():
            return UpstreamUnreachable(f"{name}: {errno.errorcode.get(error.errno or 0, 'no errno')}")
    return UpstreamUnreachable(name)


def _without_tunnel(error: EgressProxyError) -> UpstreamUnreachable:
    kind = f"{type(error).__name__}: {error.status}" if error.status else type(error).__name__
    match error:
        case EgressProxyUnauthorized() | EgressProxyRefused():
            return ProxyRefused(kind)
        case EgressProxyFailed():
            return ProxyFailed(kind)
    return ProxyUnreachable(kind)
