"""Start each gateway on one core, with the same provider. Other gateways are installed into `bench/.peers`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / ".peers"
PORTKEY_VERSION = "1.15.2"
GATEWAY_CORE, LOAD_CORE = "0", "1"
UPSTREAM_PORT = 9101
LITELLM_KEY = "sk-2f8a1c9be07d4455a6c3ffb1de90"


@dataclass
class Gateway:
    """A running gateway: its URL, the headers of requests, and the root of its process tree."""

    name: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    pid: int = 0

    def memory_mb(self) -> float:
        """The proportional set size of its process tree, which counts shared pages once."""
        total = 0
        for pid in _tree(self.pid):
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            except OSError:
                continue
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        return total / 1024


@contextmanager
def provider() -> Iterator[Gateway]:
    with _running([sys.executable, "-m", "bench.upstream", str(UPSTREAM_PORT)], LOAD_CORE) as pid:
        gateway = Gateway("direct", f"http://127.0.0.1:{UPSTREAM_PORT}", {"authorization": "Bearer sk-real"}, pid)
        _wait(f"{gateway.url}/v1/models")
        yield gateway


@contextmanager
def strake(tokens: int = 0) -> Iterator[Gateway]:
    """Strake with its defaults. `tokens` is the number of additional tokens in its database."""
    with _strake("strake", {}, [], tokens) as gateway:
        yield gateway


@contextmanager
def strake_limited() -> Iterator[Gateway]:
    """Strake with a token that has every kind of limit. Redis counts its requests per minute."""
    port = 9115
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    limits = ["--requests-per-minute", "1000000", "--expires-in-days", "1"]
    limits += ["--allow-path", "POST /v1/**", "--allow-path", "GET /v1/models", "--allow-network", "127.0.0.0/8"]
    with (
        _running(["redis-server", *options], LOAD_CORE),
        _strake("strake-limits", {"REDIS_URL": f"redis://127.0.0.1:{port}/0"}, limits, 0) as gateway,
    ):
        yield gateway


@contextmanager
def _strake(name: str, extra: dict[str, str], limits: list[str], tokens: int) -> Iterator[Gateway]:
    port = 9110
    with tempfile.TemporaryDirectory(prefix="strake-bench-") as home:
        environment = {
            "STRAKE_HOME": home,
            "PORT": str(port),
            "WEB_CONCURRENCY": "1",
            "STRAKE_ALLOWED_PRIVATE_UPSTREAMS": f"127.0.0.1:{UPSTREAM_PORT}",
            **extra,
        }
        manage = [sys.executable, "-W", "ignore", str(ROOT / "manage.py")]
        _run([*manage, "migrate", "-v0"], environment)
        connect = ["connect", "--email", "bench@example.org", "--provider", "custom", "--key-stdin", "--json"]
        destination = ["--destination", f"http://127.0.0.1:{UPSTREAM_PORT}"]
        made = json.loads(_run([*manage, *connect, *destination], environment, stdin="sk-bench-0123456789abcdef"))
        token = made["token"]
        if limits:
            issue = ["issue_token", made["subdomain"], "--json", *limits]
            token = json.loads(_run([*manage, *issue], environment))["token"]
        if tokens:
            _run([sys.executable, "-m", "bench.fill", str(tokens)], environment)
        with _running([*manage, "serve", "--no-link"], GATEWAY_CORE, environment) as pid:
            url = made["url"].replace("localhost", "127.0.0.1")
            _wait(f"http://127.0.0.1:{port}/healthz")
            yield Gateway(name, url, {"authorization": f"Bearer {token}"}, pid)


@contextmanager
def portkey() -> Iterator[Gateway]:
    folder = PEERS / "portkey"
    package = folder / "node_modules" / "@portkey-ai" / "gateway"
    if not package.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _run(
            [
                "npm",
                "install",
                "--no-audit",
                "--no-fund",
                "--prefix",
                str(folder),
                f"@portkey-ai/gateway@{PORTKEY_VERSION}",
            ]
        )
    command = ["node", str(package / "build" / "start-server.js"), "--port=9111", "--headless"]
    with _running(command, GATEWAY_CORE, {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}, cwd=package) as pid:
        headers = {
            "authorization": "Bearer sk-real",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{UPSTREAM_PORT}/v1",
        }
        _wait("http://127.0.0.1:9111/")
        yield Gateway("portkey", "http://127.0.0.1:9111", headers, pid)


@contextmanager
def litellm() -> Iterator[Gateway]:
    folder = PEERS / "litellm"
    if not (folder / "bin" / "litellm").exists():
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin" / "pip"), "install", "--quiet", "litellm[proxy]"])
    config = PEERS / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        "  - model_name: gpt-4o\n"
        f'    litellm_params: {{model: openai/gpt-4o, api_base: "http://127.0.0.1:{UPSTREAM_PORT}/v1", api_key: sk}}\n'
        f"general_settings: {{master_key: {LITELLM_KEY}}}\n"
        "litellm_settings: {telemetry: false}\n",
        encoding="utf-8",
    )
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [str(folder / "bin" / "litellm"), "--config", str(config), "--port", "9112", "--host", "127.0.0.1"]
    with _running(command, GATEWAY_CORE, environment) as pid:
        _wait("http://127.0.0.1:9112/health/liveliness", seconds=120)
        yield Gateway("litellm", "http://127.0.0.1:9112", {"authorization": f"Bearer {LITELLM_KEY}"}, pid)


@contextmanager
def naive() -> Iterator[Gateway]:
    environment = {"BENCH_UPSTREAM": f"http://127.0.0.1:{UPSTREAM_PORT}"}
    with _running([sys.executable, "-m", "bench.naive", "9113"], GATEWAY_CORE, environment) as pid:
        _wait("http://127.0.0.1:9113/v1/models")
        yield Gateway("django+httpx", "http://127.0.0.1:9113", {}, pid)


@contextmanager
def nginx() -> Iterator[Gateway]:
    """Only a header map, without vault, database or limits."""
    if shutil.which("nginx") is None:
        raise FileNotFoundError("nginx is not installed (apt-get install nginx-light)")
    with tempfile.TemporaryDirectory(prefix="strake-bench-nginx-") as folder:
        paths = "".join(f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        Path(folder, "nginx.conf").write_text(
            f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;"
            "events { worker_connections 8192; }"
            f"http {{ access_log off; keepalive_requests 1000000; {paths}"
            'map $http_authorization $key { default ""; "Bearer strk_bench" "Bearer sk-real"; }'
            f"upstream provider {{ server 127.0.0.1:{UPSTREAM_PORT}; keepalive 512; }}"
            "server { listen 127.0.0.1:9114 backlog=4096; location / { proxy_pass http://provider;"
            'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Authorization $key;'
            "proxy_buffering off; proxy_request_buffering off; } } }",
            encoding="utf-8",
        )
        with _running(["nginx", "-c", f"{folder}/nginx.conf"], GATEWAY_CORE) as pid:
            _wait("http://127.0.0.1:9114/v1/models")
            yield Gateway("nginx", "http://127.0.0.1:9114", {"authorization": "Bearer strk_bench"}, pid)


ALL: dict[str, Callable[[], AbstractContextManager[Gateway]]] = {
    "strake": strake,
    "strake-limits": strake_limited,
    "portkey": portkey,
    "litellm": litellm,
    "django+httpx": naive,
    "nginx": nginx,
}


@contextmanager
def _running(
    command: list[str], core: str, environment: dict[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[int]:
    """Run a process group on one core, and end it."""
    process = subprocess.Popen(
        ["taskset", "-c", core, *command],
        env={**_clean_environment(), **(environment or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _run(command: list[str], environment: dict[str, str] | None = None, *, stdin: str = "") -> str:
    done = subprocess.run(
        command,
        env={**_clean_environment(), **(environment or {})},
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command[:3]} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("STRAKE_")}


def _wait(url: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > end:
                raise TimeoutError(f"{url} does not respond") from None
            time.sleep(0.2)
        else:
            return


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        children = []
    return [pid, *(descendant for child in children for descendant in _tree(int(child)))]
