"""Errors that a retry cannot cure say so to SDKs, which would repeat the request otherwise."""

from __future__ import annotations

import pytest

from credentials.providers import Dialect
from proxy.errors import ProxyError
from proxy.http.error_response import error_classes, error_response

# Those that the same request may survive a little later. Every other one needs somebody who does something.
RETRYABLE = {
    *(
        "internal_error",
        "rate_limited",
        "too_many_at_once",
        "token_busy",
        "owner_busy",
        "too_many_wrong_tokens",
        "too_many_names",
    ),
    *("too_many_connects", "too_many_refusals", "store_unavailable", "key_replaced"),
    *("upstream_unreachable", "upstream_name_unknown", "upstream_refused", "upstream_connect_timeout", "upstream_tls"),
    *("upstream_invalid", "upstream_idle", "egress_proxy_unreachable", "egress_proxy_failed"),
    "token_server_unavailable",
}


def instance(error: type[ProxyError]) -> ProxyError:
    made = error.__new__(error)
    ProxyError.__init__(made)
    made.__dict__.setdefault("rate", [])
    return made


@pytest.mark.parametrize("error", error_classes(), ids=lambda error: error.code)
@pytest.mark.parametrize("dialect", Dialect)
def test_only_errors_that_pass_may_be_retried(error: type[ProxyError], dialect: Dialect) -> None:
    headers = error_response(instance(error), dialect).headers
    found = [value for name, value in headers if name == b"x-should-retry"]
    assert found == ([] if error.code in RETRYABLE else [b"false"])


def test_every_code_is_used_once() -> None:
    codes = [error.code for error in error_classes()]
    assert len(set(codes)) == len(codes)
    assert set(codes) >= RETRYABLE
    assert all(len(code) <= 32 for code in codes), "longer ones do not fit into the request log"


@pytest.mark.parametrize("error", error_classes(), ids=lambda error: error.code)
def test_no_message_logs_claude_code_out(error: type[ProxyError]) -> None:
    """Claude Code takes these words for a request to sign in again."""
    assert "invalid x-api-key" not in error.message.lower()
