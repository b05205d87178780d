"""A running gateway and how to call it; the provider, and the gateways that Strake is compared with.

Peers are installed into `bench/.peers`, from npm and PyPI.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bench import measures
from bench.processes import LOAD_CORE, ON_GATEWAY_CORE, PEERS, run, running, wait_for
from tests.support.services import free_port

PORTKEY_VERSION = "1.15.2"
LITELLM_VERSION = "1.108.7"
LITELLM_KEY = "sk-2f8a1c9be07d4455a6c3ffb1de90"
QUIET_SECONDS, QUIET_SHARE = 0.2, 0.2  # a gateway is quiet if it uses less than this share of a core for so long
MANY_STREAMS = 16_384  # nginx: connections of one worker, two for each stream


@dataclass(frozen=True)
class Target:
    """Where to send requests, and with which headers."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 80)

    def head(self, path: str, content_length: int) -> bytes:
        """The head of a POST request."""
        parts = urlsplit(self.url)
        lines = {"host": parts.netloc, "content-type": "application/json", **self.headers}
        lines["content-length"] = str(content_length)
        fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"POST {parts.path}{path} HTTP/1.1\r\n{fields}\r\n".encode()


@dataclass
class Gateway:
    """A running gateway: its endpoints, the root of its process tree, and the processes of its stores."""

    name: str
    targets: list[Target]
    pid: int
    stores: Callable[[], list[int]] = list

    def memory_kb(self, field: str) -> int:
        return measures.memory_kb(measures.tree(self.pid), field)


@dataclass
class Spent:
    """Processor seconds."""

    gateway: float = 0.0
    stores: float = 0.0


@contextmanager
def metered(gateway: Gateway) -> Iterator[Spent]:
    """Measure what a block costs the gateway and its stores. Stores are moved to the load core first."""
    spent = Spent()
    processes, stores = measures.tree(gateway.pid), gateway.stores()
    for pid in stores:
        os.sched_setaffinity(pid, {LOAD_CORE})
    before, stores_before = measures.cpu_seconds(processes), measures.cpu_seconds(stores)
    yield spent
    spent.gateway = measures.cpu_seconds(processes) - before
    spent.stores = measures.cpu_seconds(stores) - stores_before


def settle(gateway: Gateway, seconds: float = 20) -> None:
    """Wait until the gateway has finished what earlier clients have left to it."""
    end = time.monotonic() + seconds
    busy = True
    while busy and time.monotonic() < end:
        with metered(gateway) as spent:
            time.sleep(QUIET_SECONDS)
        busy = spent.gateway > QUIET_SHARE * QUIET_SECONDS


Starter = Callable[[], AbstractContextManager[Gateway]]


@contextmanager
def provider() -> Iterator[Gateway]:
    """The provider, which is also the gateway "direct". It shares its core with the load."""
    port = free_port()
    with running("provider", [sys.executable, "-m", "bench.upstream", str(port)]) as pid:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/v1/models")
        yield Gateway("direct", [Target(url, {"authorization": "Bearer sk-real"})], pid)


@contextmanager
def portkey(upstream: str) -> Iterator[Gateway]:
    folder = PEERS / "portkey"
    package = folder / "node_modules" / "@portkey-ai" / "gateway"
    if not package.exists():
        folder.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder)]
        run([*install, f"@portkey-ai/gateway@{PORTKEY_VERSION}"])
    url = f"http://127.0.0.1:{free_port()}"
    command = ["node", str(package / "build" / "start-server.js"), f"--port={urlsplit(url).port}", "--headless"]
    headers = {
        "authorization": "Bearer sk-real",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"{upstream}/v1",
    }
    environment = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}
    with running("portkey", [*ON_GATEWAY_CORE, *command], environment, cwd=package) as pid:
        wait_for(f"{url}/")
        yield Gateway("portkey", [Target(url, headers)], pid)


@contextmanager
def litellm(upstream: str) -> Iterator[Gateway]:
    folder = PEERS / "litellm"
    if not (folder / "bin" / "litellm").exists():
        run([sys.executable, "-m", "venv", str(folder)])
        run([str(folder / "bin" / "pip"), "install", "--quiet", f"litellm[proxy]=={LITELLM_VERSION}"])
    config = PEERS / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        "  - model_name: gpt-4o\n"
        f'    litellm_params: {{model: openai/gpt-4o, api_base: "{upstream}/v1", api_key: sk}}\n'
        f"general_settings: {{master_key: {LITELLM_KEY}}}\n"
        "litellm_settings: {telemetry: false}\n",
        encoding="utf-8",
    )
    url = f"http://127.0.0.1:{free_port()}"
    command = [str(folder / "bin" / "litellm"), "--config", str(config), "--num_workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(urlsplit(url).port)]
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with running("litellm", [*ON_GATEWAY_CORE, *command], environment) as pid:
        wait_for(f"{url}/health/liveliness", seconds=180)
        yield Gateway("litellm", [Target(url, {"authorization": f"Bearer {LITELLM_KEY}"})], pid)


@contextmanager
def nginx(upstream: str) -> Iterator[Gateway]:
    """Only a header map, without vault, database or limits. Buffers are as docs/operations.md recommends."""
    if shutil.which("nginx") is None:
        raise FileNotFoundError("nginx is not installed (apt-get install nginx-light)")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="strake-bench-nginx-") as folder:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in kinds)
        Path(folder, "nginx.conf").write_text(
            f"daemon off; worker_processes 1; worker_rlimit_nofile {MANY_STREAMS}; pid {folder}/pid; "
            f"events {{ worker_connections {MANY_STREAMS}; }} "
            f"http {{ access_log off; keepalive_requests 1000000; client_max_body_size 0; {paths} "
            'map $http_authorization $key { default ""; "Bearer strk_bench" "Bearer sk-real"; } '
            f"upstream provider {{ server {urlsplit(upstream).netloc}; keepalive 512; keepalive_requests 1000000; }} "
            f"server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://provider; "
            'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Authorization $key; '
            "proxy_buffering off; proxy_request_buffering off; proxy_max_temp_file_size 0; "
            "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k; } } }",
            encoding="utf-8",
        )
        command = ["nginx", "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]
        with running("nginx", [*ON_GATEWAY_CORE, *command]) as pid:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/v1/models")
            yield Gateway("nginx", [Target(url, {"authorization": "Bearer strk_bench"})], pid)
