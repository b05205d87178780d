"""`python -m strake.processes.web_probe`: exit 0 if the web half serves pages, for the health check of a container.

The web half listens on a Unix socket only. It imports no settings, because it runs every few seconds.
"""

from __future__ import annotations

import socket
import sys
from urllib.parse import urlsplit

from strake.env import Environment

TIMEOUT_SECONDS = 4


def main() -> int:
    env = Environment()
    host = urlsplit(env.text("STRAKE_BASE_URL", "http://localhost")).netloc
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(env.text("STRAKE_RUNTIME", "/run/strake") + "/web/web.sock")
        connection.sendall(f"GET /healthz HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        return int(b" 200 " not in connection.recv(16))


if __name__ == "__main__":
    sys.exit(main())
