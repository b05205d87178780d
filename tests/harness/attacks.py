"""What a hostile account does: `python -m tests.harness.attacks NAME`, with its means as JSON on standard input.

It goes on until standard input closes, then prints how many requests it sent and what became of them. It is a process
of its own, so that its work does not count as its neighbour's.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from accounts import tokens
from tests.support.load import Client


@dataclass
class Attacker:
    """Sends requests at a rate, and counts what becomes of them. `means` is what it has: tokens, cookies, endpoints."""

    means: dict[str, Any]
    outcomes: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    numbers: random.Random = field(default_factory=random.Random)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.means["address"]
        return host, port

    async def paced(self, rate: float, concurrency: int, attack: Callable[[int], Awaitable[str]]) -> None:
        """Start `rate` requests a second, and never have more than `concurrency` waiting."""
        free = asyncio.Semaphore(concurrency)
        running: set[asyncio.Task[None]] = set()
        started = time.monotonic()

        async def one(number: int) -> None:
            try:
                self.outcomes[await attack(number)] += 1
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                self.outcomes["broken off"] += 1
            finally:
                free.release()

        for number in range(10**9):
            ahead = number / rate - (time.monotonic() - started)
            if ahead > 0:
                await asyncio.sleep(ahead)
            await free.acquire()
            self.sent += 1
            task = asyncio.create_task(one(number))
            running.add(task)
            task.add_done_callback(running.discard)

    async def request(self, method: str, path: str, headers: dict[str, str], body: str = "") -> str:
        """Send one request on a new connection, as somebody with many computers. Returns the status."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            origin = f"http://localhost:{self.address[1]}"
            lines = {
                "Host": f"localhost:{self.address[1]}",
                "Origin": origin,
                "Connection": "close",
                "X-Forwarded-For": self.any_address(),
                **headers,
            }
            if body or method == "POST":
                lines["Content-Length"] = str(len(body))
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n{body}".encode())
            answer = await reader.read()
            return answer[9:12].decode("latin-1") or "broken off"
        finally:
            writer.close()

    def any_address(self) -> str:
        return f"198.51.{self.numbers.randrange(256)}.{self.numbers.randrange(1, 255)}"

    def form(self, cookie: str) -> dict[str, str]:
        return {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}

    # --- The attacks ------------------------------------------------------------------------------------------------

    async def silent_names(self, scale: float) -> None:
        """Calls to endpoints whose names no server answers for."""
        endpoints = self.means["silent"]

        async def attack(number: int) -> str:
            endpoint = endpoints[number % len(endpoints)]
            return await self.request("GET", f"{endpoint['path']}/x", {"Authorization": f"Bearer {endpoint['token']}"})

        await self.paced(20 * scale, 64, attack)

    async def slow_destinations(self, scale: float) -> None:
        """Calls to a destination that accepts them and never answers."""
        endpoint = self.means["slow"]

        async def attack(_: int) -> str:
            return await self.request("POST", f"{endpoint['path']}/x", {"Authorization": f"Bearer {endpoint['token']}"})

        await self.paced(100 * scale, 1500, attack)

    async def refusals(self, scale: float) -> None:
        """Calls with a revoked token, and with tokens that never existed."""
        revoked = self.means["revoked"]
        unknown = [tokens.mint("strk_") for _ in range(50)]
        clients = [Client(self.address) for _ in range(32)]
        free = list(clients)

        async def attack(number: int) -> str:
            client = free.pop()
            try:
                token = revoked["token"] if number % 2 else unknown[number % len(unknown)]
                sample = await client.request(
                    f"{revoked['path']}/v1/models", token, headers={"X-Forwarded-For": self.any_address()}
                )
                return str(sample.status)
            finally:
                free.append(client)

        await self.paced(1000 * scale, len(clients), attack)

    async def quotas(self, scale: float) -> None:
        """Endpoints, tokens and access tokens, as many as there may be, and then more."""
        headers = {"Authorization": f"Bearer {self.means['access_token']}", "Content-Type": "application/json"}
        new = {"provider": "custom", "api_key": "sk-hostile", "destination_url": self.means["hole"], "unchecked": True}

        async def attack(number: int) -> str:
            if number % 3 == 0:
                return await self.request("POST", "/api/v1/endpoints", headers, json.dumps(new))
            subdomain = self.means["slow"]["subdomain"]
            return await self.request("POST", f"/api/v1/endpoints/{subdomain}/tokens", headers, "{}")

        await self.paced(20 * scale, 8, attack)

    async def checks(self, scale: float) -> None:
        """The button "Test it", and keys to check, with destinations that never answer."""
        cookie, csrf = self.means["cookie"], self.means["csrf"]
        headers = {"Authorization": f"Bearer {self.means['access_token']}", "Content-Type": "application/json"}

        async def attack(number: int) -> str:
            if number % 2:
                new = {
                    "provider": "azure-openai",
                    "api_key": "sk-hostile-0123456789",
                    "destination_url": f"https://connect-{secrets.token_hex(4)}.silent.test",
                }
                return await self.request("POST", "/api/v1/endpoints", headers, json.dumps(new))
            endpoint = self.numbers.choice([self.means["slow"], *self.means["silent"]])
            fields = f"csrfmiddlewaretoken={csrf}&token={endpoint['token']}"
            return await self.request("POST", f"/endpoints/{endpoint['subdomain']}/test/", self.form(cookie), fields)

        await self.paced(10 * scale, 60, attack)

    async def sign_in_flood(self, scale: float) -> None:
        """Sign-in links for addresses that do not exist, from a network of many addresses."""
        cookie, csrf = self.means["visitor_cookie"], self.means["visitor_csrf"]

        async def attack(_: int) -> str:
            fields = f"csrfmiddlewaretoken={csrf}&email={secrets.token_hex(6)}%40flood.example&next="
            return await self.request("POST", "/signin/", self.form(cookie), fields)

        await self.paced(30 * scale, 16, attack)

    async def everything(self, scale: float) -> None:
        """All of it together, each at a fifth of its rate."""
        each = (self.silent_names, self.slow_destinations, self.refusals, self.quotas, self.checks, self.sign_in_flood)
        await asyncio.gather(*(attack(scale / 5) for attack in each))


ATTACKS = (
    "silent_names",
    "slow_destinations",
    "refusals",
    "quotas",
    "checks",
    "sign_in_flood",
    "everything",
)


@contextmanager
def silent_server() -> Iterator[int]:
    """A loopback port whose connections are accepted by the kernel and read by nobody."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        yield listener.getsockname()[1]


async def run(name: str, means: dict[str, Any]) -> Attacker:
    attacker = Attacker(means)
    attacking = asyncio.create_task(getattr(attacker, name)(means["scale"]))
    closed = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await asyncio.wait({attacking, closed}, return_when=asyncio.FIRST_COMPLETED)
    if attacking.done():
        attacking.result()
    attacking.cancel()
    await asyncio.gather(attacking, return_exceptions=True)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    return attacker


def main() -> None:
    os.nice(5)
    means = json.loads(sys.stdin.readline())
    attacker = asyncio.run(run(sys.argv[1], means))
    outcomes = dict(attacker.outcomes)
    outcomes["unanswered"] = attacker.sent - sum(outcomes.values())
    sys.stdout.write(json.dumps({"sent": attacker.sent, "outcomes": outcomes}))


if __name__ == "__main__":
    main()
