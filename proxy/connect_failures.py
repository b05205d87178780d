"""Why a provider could not be reached: one error for each kind of failure, because each needs other advice.

UpstreamUnreachable (502)
├── UpstreamNameUnknown (502)
├── UpstreamRefused (502)
├── UpstreamConnectTimeout (502)
├── UpstreamTLS (502)
├── UpstreamCertificate (502)
└── UpstreamWrongScheme (502)
"""

from __future__ import annotations

import errno
import ssl

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


# What OpenSSL says of a server that answers a handshake in plain text. It depends on its version and the first bytes.
_NOT_TLS = frozenset(
    {"HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "WRONG_VERSION_NUMBER"}
)


def unreachable(error: Exception) -> UpstreamUnreachable:
    """Return the error for an exception of connecting. Its kind for the log has neither a host name nor an address."""
    name = type(error).__name__
    match error:
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
