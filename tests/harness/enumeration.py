"""Try to tell from the sign-in page who has an account.

    python -m tests.harness.enumeration [samples]

Starts a server where people of one domain may sign up, and requests links for four kinds of email address in random
order: known, unknown but allowed to sign up, unknown and not allowed, and over its limit. Compares status, length,
headers and times of the responses. Work that continues after a response could delay the next one, so it also times a
second request sent at once. Exits with 1 if two kinds can be told apart, or if their medians differ by more than 5 ms.
"""

from __future__ import annotations

import http.client
import random
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from urllib.parse import urlencode

from tests.support.running import ROOT, Strake

MAX_DIFFERENCE_MS = 5.0
WARM_UP = 50
KINDS = ("known", "may sign up", "may not", "limited")
LIMITED = "limited@known.example"
Sample = tuple[float, float, str]  # ms of the response, ms of the next one, and its visible parts
CREATE_USERS = """
import django; django.setup()
from accounts.models import User
User.objects.bulk_create(User(email=f"user{{number:05}}@known.example") for number in range({count}))
User.objects.create(email="{limited}")
"""


class Visitor:
    """A browser. Each request comes from another IP address, so that only the email address matters."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("localhost", port)
        status, headers, body = self._send("GET", "/signin/", None)
        self.cookie = next(value.partition(";")[0] for name, value in headers if name == "set-cookie")
        token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', body)
        if status != 200 or token is None:
            raise RuntimeError(f"the sign-in page responds with {status}")
        self.token = token[1]

    def request_link(self, email: str) -> Sample:
        """Request a link. Returns the times of this and the next response in ms, and the visible parts of this one."""
        form = urlencode({"csrfmiddlewaretoken": self.token, "email": email, "next": "/settings/"})
        before = time.perf_counter()
        status, headers, body = self._send("POST", "/signin/", form)
        between = time.perf_counter()
        self._send("GET", "/healthz", None)
        after = time.perf_counter()
        return (between - before) * 1000, (after - between) * 1000, _visible(status, headers, body, email)

    def _send(self, method: str, path: str, body: str | None) -> tuple[int, list[tuple[str, str]], str]:
        address = ".".join(str(random.randrange(1, 255)) for _ in range(4))
        headers = {"X-Forwarded-For": address, "Cookie": getattr(self, "cookie", "")}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        text = response.read().decode()
        return response.status, [(name.lower(), value) for name, value in response.getheaders()], text


def _visible(status: int, headers: list[tuple[str, str]], body: str, email: str) -> str:
    """Return a response without the parts that differ between any two: time, random values and email address."""
    seen = [str(status), str(len(body) - body.count(email) * len(email))]
    for name, value in headers:
        if name == "set-cookie":
            pair, _, attributes = value.partition(";")
            cookie, _, content = pair.partition("=")
            length = "" if cookie.startswith("strake-email-") else str(len(content))
            value = f"{cookie} {length}{re.sub(r'expires=[^;]+', '', attributes)}"
        if name != "date":
            seen.append(f"{name}: {value}")
    return "\n".join(seen)


def distance(first: list[float], second: list[float]) -> float:
    """Return the two-sample Kolmogorov-Smirnov statistic: the largest gap of the two distributions, 0 to 1."""
    first, second = sorted(first), sorted(second)
    i = j = 0
    gap = 0.0
    while i < len(first) and j < len(second):
        if first[i] <= second[j]:
            i += 1
        else:
            j += 1
        gap = max(gap, abs(i / len(first) - j / len(second)))
    return gap


def main() -> int:
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    each = samples // len(KINDS)
    with tempfile.TemporaryDirectory() as folder:
        environment = {"STRAKE_SIGNUP": "open.example", "STRAKE_TRUSTED_PROXIES": "1"}
        with Strake(Path(folder) / "home", environment) as server:
            script = CREATE_USERS.format(count=each + WARM_UP, limited=LIMITED)
            subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=server.environment, check=True)
            visitor = Visitor(server.port)
            for number in range(WARM_UP):
                visitor.request_link(f"user{each + number:05}@known.example")
                visitor.request_link(LIMITED)
            return report(measure(visitor, each))


def measure(visitor: Visitor, each: int) -> dict[str, list[Sample]]:
    numbers = iter(random.sample(range(each), each))
    order = [kind for kind in KINDS for _ in range(each)]
    random.shuffle(order)
    seen: dict[str, list[Sample]] = defaultdict(list)
    for kind in order:
        email = {
            "known": lambda: f"user{next(numbers):05}@known.example",
            "may sign up": lambda: f"user{secrets.randbelow(100_000):05}-{secrets.token_hex(2)}@open.example",
            "may not": lambda: f"user{secrets.randbelow(100_000):05}@known.invalid",
            "limited": lambda: LIMITED,
        }[kind]()
        seen[kind].append(visitor.request_link(email))
        time.sleep(random.uniform(0, 0.01))
    return seen


def response_times(samples: list[Sample]) -> list[float]:
    return [sample[0] for sample in samples]


def following_times(samples: list[Sample]) -> list[float]:
    return [sample[1] for sample in samples]


def report(seen: dict[str, list[Sample]]) -> int:
    print(f"{'':14} {'samples':>8} {'p50':>11} {'p95':>8} {'next p50':>9} {'p95':>8}   (ms)")
    for kind in KINDS:
        times, following = response_times(seen[kind]), following_times(seen[kind])
        print(
            f"{kind:14} {len(times):8} {statistics.median(times):11.2f} {_p95(times):8.2f}"
            f" {statistics.median(following):9.2f} {_p95(following):8.2f}"
        )
    apart = 0
    print(f"\n{'':28} {'Δp50':>13} {'KS':>6} {'next: Δp50':>12} {'KS':>6}")
    for first, second in combinations(KINDS, 2):
        line = f"{first + ' / ' + second:28}"
        for select in (response_times, following_times):
            a, b = select(seen[first]), select(seen[second])
            difference = abs(statistics.median(a) - statistics.median(b))
            apart += difference > MAX_DIFFERENCE_MS
            line += f" {difference:12.2f} {distance(a, b):6.3f}"
        print(line)
    distinct = {sample[2] for samples in seen.values() for sample in samples}
    print(f"\n{len(distinct)} distinct response{'s' if len(distinct) > 1 else ''}.")
    return 1 if apart or len(distinct) > 1 else 0


def _p95(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.95)]


if __name__ == "__main__":
    sys.exit(main())
