"""A real forward proxy, tinyproxy, as companies have at the edge of their network."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.support.services import free_port, wait_for_port


class ForwardProxy:
    """A tinyproxy on a loopback port. Use it as a context manager.

    With `user`, it wants that user name and password, "name:password". With `names`, it refuses every other host.
    """

    def __init__(self, folder: Path, *, user: str = "", names: Sequence[str] = ()) -> None:
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self._log = folder / "tinyproxy.log"
        self._configuration = folder / "tinyproxy.conf"
        lines = [f"Port {self.port}", "Listen 127.0.0.1", "Timeout 60", "LogLevel Connect", f'LogFile "{self._log}"']
        if user:
            lines.append("BasicAuth {} {}".format(*user.split(":")))
        if names:
            filtered = folder / "filter"
            filtered.write_text("".join(f"^{re.escape(name)}$\n" for name in names))
            lines += [f'Filter "{filtered}"', "FilterExtended On", "FilterDefaultDeny Yes"]
        self._configuration.write_text("\n".join(lines) + "\n")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self) -> list[str]:
        """Return what it was asked to connect to, in order, as host:port."""
        if not self._log.exists():
            return []
        return re.findall(r": CONNECT (\S+) HTTP/1\.1", self._log.read_text())

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(["tinyproxy", "-d", "-c", str(self._configuration)], stdout=subprocess.DEVNULL)
        wait_for_port(self.port)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(60)
