"""Closed-loop load, from wrk: each connection sends its next request once the response has arrived."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from dataclasses import dataclass

from bench.gateways import Target

BODY = '{"model":"gpt-4o","messages":[{"role":"user","content":"Hello there. How are you today? Answer briefly."}]}'
PATH = "/v1/chat/completions"
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True)
class Load:
    """One run of wrk: the number of requests, their rate, and percentiles of their latency in ms."""

    requests: int
    rps: float
    p50: float
    p99: float


def load(target: Target, connections: int, seconds: int) -> Load:
    """Call the target. Raises `RuntimeError` if a response is an error, or missing."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua", encoding="utf-8") as script:
        headers = {"content-type": "application/json", **target.headers}
        lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
        script.write("\n".join(['wrk.method = "POST"', f"wrk.body = {json.dumps(BODY)}", *lines]))
        script.flush()
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "120s", "--latency", "-s", script.name]
        done = subprocess.run(
            ["wrk", *options, f"{target.url}{PATH}"], capture_output=True, text=True, check=True, timeout=seconds + 60
        )
    return parse(done.stdout)


def parse(output: str) -> Load:
    """Read wrk's report."""
    requests = re.search(r"(\d+) requests in", output)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    errors = [line.strip() for line in output.splitlines() if "Non-2xx" in line or "Socket errors" in line]
    if requests is None or rate is None or errors:
        raise RuntimeError(f"not every request was answered: {errors or output}")
    return Load(int(requests[1]), float(rate[1]), _latency(output, "50%"), _latency(output, "99%"))


def _latency(output: str, percentile: str) -> float:
    match = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)\b", output)
    return float(match[1]) * _MILLISECONDS[match[2]] if match else float("nan")
