"""Upstreams that answer during an upload and close: how often the client gets their answer.

    python -m tests.harness.early_answers --count 100

An upstream that does not read the rest of a request makes its kernel reset the connection. A client that is connected
directly reads the answer that arrived before the reset, so a client of Strake must get it too.
"""

from __future__ import annotations

import argparse
import ssl
import tempfile
from collections import Counter
from pathlib import Path

from tests.support.certificates import Authority
from tests.support.early_answers import ANSWERS, BODY, post, refusing_upstream
from tests.support.running import Strake

SIZES = (100_000, 1_000_000, 20_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder) / "authority")
        trusting = ssl.create_default_context(cafile=str(authority.path))
        environment = {
            "SSL_CERT_FILE": str(authority.path),
            "STRAKE_ALLOWED_PRIVATE_UPSTREAMS": "127.0.0.1/32,::1/128",
        }
        with Strake(Path(folder) / "strake", environment) as strake:
            for scheme, tls in (("http", None), ("https", authority.server("localhost"))):
                for answer in ANSWERS:
                    with refusing_upstream(ANSWERS[answer], tls=tls) as port:
                        endpoint = strake.connect(f"{scheme}://localhost:{port}")
                        for size in SIZES:
                            through, direct = Counter[str](), Counter[str]()
                            for _ in range(count):
                                line = f"POST {endpoint.path}/v1/files HTTP/1.1\r\n"
                                head = f"{line}Authorization: Bearer {endpoint.token}\r\n"
                                through[_outcome(post(strake.address, head, size))] += 1
                                client = trusting if tls else None
                                line = "POST /v1/files HTTP/1.1\r\n"
                                direct[_outcome(post(("127.0.0.1", port), line, size, tls=client))] += 1
                            print(f"{scheme}, {answer}, {size} bytes: {dict(through)} directly: {dict(direct)}")


def _outcome(received: bytes) -> str:
    status = received.split(b" ", 2)[1].decode() if received.startswith(b"HTTP/1.1 ") else "nothing"
    return f"{status} {'whole' if BODY in received else 'cut'}"


if __name__ == "__main__":
    main()
