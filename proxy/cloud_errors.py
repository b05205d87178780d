"""Why there is no access token for an endpoint whose key is a cloud's.

ProxyError (500)
├── CloudSecretRefused (502)
└── TokenServerUnavailable (502)
"""

from __future__ import annotations

from proxy.errors import ProxyError


class CloudSecretRefused(ProxyError):
    """A cloud's token server refuses the stored secret, so there is no access token for the provider."""

    status = 502
    code = "cloud_secret_refused"
    is_retryable = False
    message = (
        "The cloud gave no access token for this endpoint, because it refuses the stored secret. The endpoint's owner "
        "finds the reason on its page in the Strake dashboard."
    )


class TokenServerUnavailable(ProxyError):
    """A cloud's token server did not answer, or not usefully, so there is no access token for the provider."""

    status = 502
    code = "token_server_unavailable"
    message = "The cloud's token server did not give an access token for this endpoint. Try again in a moment."
