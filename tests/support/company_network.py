"""A Strake behind a company's proxy: `unshare -Urnm python -m tests.support.company_network`.

The namespace has no way out. provider.example is at a public address that the proxy, a tinyproxy with a password, can
reach, and its certificate is signed by the company's own authority. Prints JSON for each mode: the status of a request,
of a key check and of a WebSocket handshake, the way of each, what the proxy was asked for, and Strake's log.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from tests.support.certificates import Authority
from tests.support.forward_proxy import ForwardProxy
from tests.support.raw import ask
from tests.support.running import Strake
from tests.support.silent_names import prepare
from tests.support.upstream import Upstream, fixed, head, raw

ADDRESS = "93.184.216.34"
USER = "strake:canary7391"
ACCEPTED = head(101, [("Connection", "Upgrade"), ("Upgrade", "websocket")]) + b"\x88\x02\x03\xe8"


def make_reachable(address: str) -> None:
    """Route an address to this namespace, but with 127.0.0.1 as the source, so that it is not the machine's own.

    The same as `ip route add local ADDRESS dev lo src 127.0.0.1`. See rtnetlink(7).
    """
    attributes = ((1, socket.inet_aton(address)), (7, socket.inet_aton("127.0.0.1")), (4, struct.pack("I", 1)))
    body = struct.pack("8BI", socket.AF_INET, 32, 0, 0, 255, 4, 254, 2, 0)
    body += b"".join(struct.pack("HH", 8, kind) + value for kind, value in attributes)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.send(struct.pack("IHHII", 16 + len(body), 24, 0x1 | 0x4 | 0x400, 1, 0) + body)
        (error,) = struct.unpack_from("i", netlink.recv(4096), 16)
    if error:
        raise OSError(-error, "RTM_NEWROUTE failed")


def run(folder: Path, provider: Upstream, environment: dict[str, str]) -> dict[str, Any]:
    with ForwardProxy(folder / "forward", user=USER) as forward:
        variables = {
            "STRAKE_ALLOWED_PRIVATE_UPSTREAMS": "",
            "STRAKE_EGRESS_PROXY": forward.url.replace("//", f"//{USER}@"),
            "STRAKE_CHECK_SERVICES": "0",
            **environment,
        }
        with Strake(folder / "strake", variables) as strake:
            endpoint = strake.connect("https://provider.example", provider="azure-openai")
            key_check = provider.last.path
            status = httpx.get(f"{endpoint.url}/x", headers=endpoint.bearer, timeout=60).status_code
            handshake = (
                f"GET {endpoint.path}/socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
                f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n"
                f"Authorization: Bearer {endpoint.token}\r\n\r\n"
            )
            websocket = ask(strake.address, handshake.encode()).status
            check = strake.manage("check", "--deploy")
            return {
                "key_check": key_check,
                "status": status,
                "websocket": websocket,
                "asked": forward.asked(),
                "log": strake.log() + check.stdout + check.stderr,
            }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, "localhost")
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{ADDRESS} provider.example\n")
        make_reachable(ADDRESS)
        authority = Authority(folder / "authority")
        provider = Upstream(tls=authority.server("provider.example"), host="0.0.0.0")
        provider.port = 443
        trusted = {"STRAKE_CA_FILE": str(authority.path)}
        with provider:
            provider.default = fixed(200, [("Connection", "close")], b"{}")
            provider.on("/socket", raw(ACCEPTED))
            results = {}
            for mode, environment in {"addresses": {}, "names": {"STRAKE_EGRESS_PROXY_RESOLVES": "1"}}.items():
                (folder / mode).mkdir()
                results[mode] = run(folder / mode, provider, {**trusted, **environment})
        sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
