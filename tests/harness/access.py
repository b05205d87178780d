"""An endpoint with one token, as the calls of the revocation harness change it, and what its upstream answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.support.upstream import Exchange

KEY = "sk-real-0123456789abcdefghijklmnop-"
PATH = "/v1/models"


@dataclass
class Access:
    """An endpoint with one token, and what its calls change. The two numbers are in its key and its destination."""

    upstream: str
    email: str
    key: int = 0
    destination: int = 0
    subdomain: str = ""
    token_id: str = ""
    token: str = field(default="", repr=False)
    seconds: float = 0.0  # after which the next token of `issue_for` runs out
    runs_out: float = 0.0  # when the token does, by `time.monotonic`, or 0

    @property
    def path(self) -> str:
        return f"/p/{self.subdomain}{PATH}"

    @property
    def answer(self) -> str:
        """What the upstream answers to a request with this access."""
        return answer_to(f"/{self.destination}{PATH}", f"Bearer {KEY}{self.key}")


def answer_to(path: str, authorization: str) -> str:
    return f"{path.removesuffix(PATH)} {authorization.rpartition('-')[2]}"


async def respond(exchange: Exchange) -> None:
    """Answer with the destination and the key of the request."""
    exchange.connection.upstream.exchanges.clear()  # nothing reads them, and there are many
    answer = answer_to(exchange.path, (exchange.header("authorization") or b"").decode("latin-1"))
    await exchange.respond(headers=[("x-answer", answer)], body=b"{}")
