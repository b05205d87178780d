"""The errors of a token that has used up what its owner allows it. They are errors as those of `proxy.errors` are."""

from __future__ import annotations

from proxy.errors import ProxyError


class TokenBusy(ProxyError):
    """The token, or its parent with all children, has reached its concurrent requests in this process."""

    status = 429
    code = "token_busy"
    message = "Too many requests with this Strake token are in flight. Wait until some of them have finished."


class BudgetExceeded(ProxyError):
    """The token, or its parent with all children, has used up its requests of the day or of the month.

    SDKs shall not repeat the request: `retry_after` is hours or days.
    """

    status = 429
    code = "budget_exceeded"
    is_retryable = False
    message = "This Strake token has used up its requests of this day or month."

    def __init__(self, period: str, *, retry_after: int) -> None:
        """`period` is "day" or "month"."""
        super().__init__(
            f"This Strake token has used up its requests of this {period}. The next {period} begins at midnight UTC. "
            "The endpoint's owner can raise the limit.",
            retry_after=retry_after,
        )
