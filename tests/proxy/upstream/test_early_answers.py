"""An upstream that answers before it has read the request, and closes: the client gets its answer."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.early_answers import ANSWERS, BODY, post, refusing_upstream
from tests.support.running import Strake, prepare_home

TRIES = 10


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def trusting(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory, migrated_database: Path
) -> Iterator[Strake]:
    """A Strake that trusts the authority."""
    environment = {
        "SSL_CERT_FILE": str(authority.path),
        "STRAKE_ALLOWED_PRIVATE_UPSTREAMS": "127.0.0.1/32,::1/128",
    }
    with Strake(
        prepare_home(tmp_path_factory.mktemp("trusting") / "strake", migrated_database), environment
    ) as running:
        yield running


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [100_000, 1_000_000])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_early_answer_arrives(
    scheme: str, answer: str, size: int, chunked: bool, trusting: Strake, authority: Authority
) -> None:
    tls: ssl.SSLContext | None = authority.server("localhost") if scheme == "https" else None
    with refusing_upstream(ANSWERS[answer], tls=tls) as port:
        endpoint = trusting.connect(f"{scheme}://localhost:{port}")
        head = f"POST {endpoint.path}/v1/files HTTP/1.1\r\nAuthorization: Bearer {endpoint.token}\r\n"
        for _ in range(TRIES):
            received = post(trusting.address, head, size, chunked=chunked)
            assert received.split(b"\r\n")[0] == ANSWERS[answer].split(b"\r\n")[0]
            assert BODY in received
