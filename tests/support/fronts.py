"""Real reverse proxies in front of a running Strake, with the configuration that docs/operations.md recommends.

Only addresses, ports, names and paths of that configuration are replaced, and each replacement must apply.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import process
from tests.support.services import free_port, wait_for_port

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
PROGRAMS = {"nginx": "nginx", "caddy": "caddy", "haproxy": "haproxy"}


@dataclass
class Front:
    """A reverse proxy that listens with TLS on a loopback port. `spool` is the folder of its temporary files."""

    name: str
    port: int
    spool: Path
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    @contextlib.contextmanager
    def connected(self, *, receive_buffer: int = 0, seconds: float = 20) -> Iterator[ssl.SSLSocket]:
        """Connect with TLS, as an HTTP/1.1 client."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        with socket.socket() as plain:
            if receive_buffer:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            plain.settimeout(seconds)
            plain.connect(("127.0.0.1", self.port))
            with context.wrap_socket(plain, server_hostname="localhost") as connection:
                yield connection

    def spooled(self) -> list[str]:
        """What was ever written below `spool`: files, and the folders in which nginx has made one."""
        return [str(path) for path in self.spool.rglob("*") if path.is_file() or path.parent != self.spool]

    def open_files(self) -> set[str]:
        """The regular files that its processes have open, among them deleted ones."""
        pids = [self.process.pid, *_children(self.process.pid)]
        return {name for pid in pids for name in process.files(pid) if not name.startswith(("/dev/", "/proc/"))}


def documented(language: str) -> str:
    """Return the only block of this language in docs/operations.md."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", OPERATIONS.read_text(), flags=re.DOTALL | re.MULTILINE)
    return str(block)


@contextlib.contextmanager
def front(name: str, backend: int, folder: Path) -> Iterator[Front]:
    """Start a reverse proxy in front of a port of this machine, with its files in `folder`."""
    folder.mkdir()
    certificate, key = _certificate(folder)
    port = free_port()
    spool = folder / "spool"
    spool.mkdir()
    command = {"nginx": _nginx, "caddy": _caddy, "haproxy": _haproxy}[name](folder, port, backend, certificate, key)
    log = folder / "output"
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(spool), "XDG_DATA_HOME": str(folder)}
    with log.open("wb") as output:
        running = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        try:
            wait_for_port(port)
        except TimeoutError:
            raise RuntimeError(f"{name} does not start:\n{log.read_text(errors='replace')}") from None
        yield Front(name, port, spool, log, running)
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait(10)


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "private-key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        [*command.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True, timeout=60
    )
    return certificate, key


def _replace(text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        if old not in text:
            raise AssertionError(f"docs/operations.md does not contain {old!r}")
        text = text.replace(old, new)
    return text


def _nginx(folder: Path, port: int, backend: int, certificate: Path, key: Path) -> list[str]:
    servers = re.split(r"^server \{$", documented("nginx"), flags=re.MULTILINE)
    block = _replace(
        "server {".join(servers[:2]),  # without the one that redirects from port 80
        {
            "127.0.0.1:8000": f"127.0.0.1:{backend}",
            "listen 443 ssl http2": f"listen 127.0.0.1:{port} ssl http2",
            "    listen [::]:443 ssl http2;\n": "",
            "server_name strake.example.org": "server_name localhost",
            "/etc/letsencrypt/live/strake.example.org/fullchain.pem": str(certificate),
            "/etc/letsencrypt/live/strake.example.org/privkey.pem": str(key),
            "/var/log/nginx": str(folder),
        },
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"    {kind}_temp_path {folder}/{kind} 1 2;\n" for kind in kinds)
    # Debian's nginx.conf, as far as it matters. nginx makes two levels of folders for a temporary file, which stay.
    folders = folders.replace(f"{folder}/client_body", f"{folder}/spool/client_body")
    folders = folders.replace(f"{folder}/proxy", f"{folder}/spool/proxy")
    user = "user root;\n" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}daemon off;\nworker_processes 1;\npid {folder}/pid;\nevents {{ worker_connections 512; }}\n"
        f"http {{\n    sendfile on;\n    tcp_nopush on;\n    gzip on;\n{folders}{block}}}\n"
    )
    return ["nginx", "-e", str(folder / "start.log"), "-c", str(folder / "nginx.conf"), "-p", str(folder)]


def _caddy(folder: Path, port: int, backend: int, certificate: Path, key: Path) -> list[str]:
    block = _replace(
        documented("caddyfile"),
        {
            "127.0.0.1:8000": f"127.0.0.1:{backend}",
            "strake.example.org {": f"https://localhost:{port} {{",
            "/etc/caddy/fullchain.pem": str(certificate),
            "/etc/caddy/privkey.pem": str(key),
            # Caddy would listen on port 80 to redirect, and on the port of its own API.
            "{\n\t# These two": "{\n\tadmin off\n\tauto_https disable_redirects\n\t# These two",
        },
    )
    (folder / "Caddyfile").write_text(block)
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def _haproxy(folder: Path, port: int, backend: int, certificate: Path, key: Path) -> list[str]:
    both = folder / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    block = _replace(
        documented("haproxy"),
        {
            "127.0.0.1:8000": f"127.0.0.1:{backend}",
            "bind :443": f"bind 127.0.0.1:{port}",
            "/etc/haproxy/strake.pem": str(both),
        },
    )
    (folder / "haproxy.cfg").write_text(block)
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


def missing(name: str) -> str:
    """Why this machine cannot run the front, or an empty string."""
    return "" if shutil.which(PROGRAMS[name]) else f"{name} is not installed"


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
