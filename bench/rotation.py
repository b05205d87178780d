"""Rotate the master key of a busy installation, and kill the rotation at random points with kill -9.

    python -m bench.rotation [--rows 10000] [--kills 100] [--postgres postgres://postgres@127.0.0.1:5432/postgres]

Starts a Strake of its own with that many sealed keys, an upstream that tells which key it got, and clients that call
random endpoints all the while. Exits with 1 if one request failed or got another key, if a key was lost, or if
anything but the three wrap columns changed; and if no kill hit a rotation between two rows, which would show nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import secrets
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg

from tests.running import ROOT, Strake
from tests.upstream import Exchange, Upstream

SEED = """
import json, uuid
from django.db import transaction
from django.utils import timezone
from accounts import tokens
from accounts.models import User
from credentials import keyring_guard
from credentials.models import BEARER_TOKEN_PREFIX, BearerToken, Credential, Endpoint
rows, url, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
alice = User.objects.create(email="alice@example.org")
known = []
with transaction.atomic():
    for start in range(0, rows, 1000):
        endpoints = [Endpoint(owner=alice, label="bench", provider="custom") for _ in range(min(1000, rows - start))]
        credentials, bearers = [], []
        for number, endpoint in enumerate(endpoints, start):
            key = f"sk-{number}-{uuid.uuid4().hex}"
            credential = Credential(
                endpoint=endpoint, destination_url=url, header_name="Authorization", header_template="Bearer {{secret}}"
            )
            credential.secret = key
            credential.sealed_at = timezone.now()
            token = tokens.mint(BEARER_TOKEN_PREFIX)
            credentials.append(credential)
            bearers.append(BearerToken(endpoint=endpoint, label="bench", digest=tokens.digest(token), preview="…"))
            known.append([endpoint.subdomain, token, key])
        Endpoint.objects.bulk_create(endpoints)
        Credential.objects.bulk_create(credentials)
        BearerToken.objects.bulk_create(bearers)
    keyring_guard.confirm(credential.master_key_id)
with open(path, "w") as file:
    json.dump(known, file)
"""

# Everything of every row but the three columns a rotation may change.
FINGERPRINT = """
import hashlib
from credentials.models import Credential
fields = [f.attname for f in Credential._meta.concrete_fields]
fields = [name for name in fields if name not in {"master_key_id", "wrapped_dek", "wrapped_dek_iv"}]
digest = hashlib.sha256()
for row in Credential.objects.order_by("pk").values_list(*fields).iterator(chunk_size=2000):
    digest.update(repr([bytes(v) if isinstance(v, memoryview) else v for v in row]).encode())
print(digest.hexdigest())
"""

RATE = """
import time
from accounts.audit import OPERATOR
from credentials import rotation
start = time.perf_counter()
done = rotation.rotate(actor=OPERATOR, batch=int(sys.argv[1])).rewrapped
print(done / (time.perf_counter() - start))
"""


def key_digest(authorization: bytes) -> bytes:
    return hashlib.sha256(authorization).hexdigest().encode()


async def tell_key(exchange: Exchange) -> None:
    """Tell which key came, without repeating it."""
    exchange.connection.upstream.exchanges.clear()  # nobody looks at them here
    await exchange.answer(body=key_digest(exchange.header("authorization") or b""))


class Traffic:
    """Clients that call random endpoints until they are stopped, and look at every answer."""

    def __init__(self, port: int, known: list[list[str]], clients: int) -> None:
        self.port, self.known, self.clients = port, known, clients
        self.answers: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.ended_early = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        # Without traffic, no failed request would mean nothing.
        self.ended_early = not self._thread.is_alive()
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(random.Random(n)) for n in range(self.clients)))

    async def _client(self, chance: random.Random) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while not self._stop.is_set():
            subdomain, token, key = chance.choice(self.known)
            started = time.perf_counter()
            try:
                writer.write(
                    f"GET /p/{subdomain}/v1/models HTTP/1.1\r\nhost: localhost\r\n"
                    f"authorization: Bearer {token}\r\n\r\n".encode()
                )
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
                body = await reader.readexactly(length)
                status = head.split(b" ", 2)[1].decode()
                right = body == key_digest(f"Bearer {key}".encode())
                self.answers[status if status != "200" or right else "wrong key"] += 1
            # An answer that this cannot read is a failed request, and not the end of the traffic.
            except (OSError, EOFError, ValueError, RuntimeError, IndexError, asyncio.LimitOverrunError) as error:
                self.answers[type(error).__name__] += 1
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.latencies.append(time.perf_counter() - started)
            await asyncio.sleep(0.02)
        writer.close()


def rotate_and_kill(strake: Strake, batch: int, is_due: Callable[[], bool]) -> bool:
    """Start a rotation and kill it as soon as it is due. Whether it was still at work."""
    command = [sys.executable, "manage.py", "rotate_master_key", "--batch", str(batch)]
    with subprocess.Popen(
        command, cwd=ROOT, env=strake.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while process.poll() is None:
            if is_due():
                process.send_signal(signal.SIGKILL)
                return process.wait() == -signal.SIGKILL
            time.sleep(0.002)
        if process.returncode:
            raise SystemExit(f"the rotation failed: {process.communicate()[0]}")
        return False


def left(strake: Strake) -> int:
    """How many rows are not under the primary key; asked of the database itself, since it is asked often."""
    primary = json.loads((strake.home / "master-keys.json").read_text())["primary"]
    question = "SELECT count(*) FROM credentials_credential WHERE master_key_id <> "
    if url := strake.environment.get("DATABASE_URL"):
        with psycopg.connect(url) as connection:
            return connection.execute(question + "%s", [primary]).fetchone()[0]
    with contextlib.closing(sqlite3.connect(strake.home / "strake.sqlite3", timeout=10)) as connection:
        return connection.execute(question + "?", [primary]).fetchone()[0]


def retire_old_keys(strake: Strake) -> None:
    keys = json.loads((strake.home / "master-keys.json").read_text())
    for key_id in [key_id for key_id in keys["keys"] if key_id != keys["primary"]]:
        strake.manage("retire_master_key", key_id, check=True)


def kill_rotations(strake: Strake, kills: int, batch: int, seconds: float) -> tuple[int, int]:
    """Kill `kills` rotations, every other one at a random row, the rest at a random moment of the `seconds` one takes.

    Whenever one is through, its old key is retired and a new one made.

    Returns how many were killed after their first row and before their last, and how many rotations came to their end.
    """
    chance, half_way, finished = random.Random(4), 0, 0
    strake.manage("create_master_key", check=True)
    remaining = left(strake)
    while kills:
        if kills % 2:
            end = time.monotonic() + chance.uniform(0, seconds)
            killed = rotate_and_kill(strake, batch, lambda end=end: time.monotonic() >= end)
        else:
            rows = chance.randrange(remaining)
            killed = rotate_and_kill(strake, batch, lambda rows=rows: left(strake) <= rows)
        kills -= killed
        now = left(strake)
        if now > remaining:
            raise SystemExit("rows went back to an old key")
        # Killed after it had rewrapped some rows, and before the last of them.
        half_way += killed and 0 < now < remaining
        remaining = now
        if not remaining:
            finished += 1
            retire_old_keys(strake)
            strake.manage("create_master_key", check=True)
            remaining = left(strake)
    strake.manage("rotate_master_key", check=True)
    retire_old_keys(strake)
    return half_way, finished + 1


@contextlib.contextmanager
def database(server_url: str | None) -> Iterator[dict[str, str]]:
    """A new PostgreSQL database, dropped afterwards; without a server, SQLite."""
    if server_url is None:
        yield {}
        return
    name = f"strake_bench_{secrets.token_hex(4)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield {"DATABASE_URL": urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))}
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--postgres", metavar="URL", help="a server on which a database can be made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, database(options.postgres) as environment, Upstream() as upstream:
        upstream.default = tell_key
        strake = Strake(Path(folder) / "home", environment)
        strake.manage("migrate", "-v0", check=True)
        known_path = Path(folder) / "known.json"
        strake.python(SEED, str(options.rows), upstream.url, str(known_path))
        known = json.loads(known_path.read_text())
        before = strake.python(FINGERPRINT)
        print(f"{options.rows:,} sealed keys on {'PostgreSQL' if environment else 'SQLite'}", flush=True)

        strake.manage("create_master_key", check=True)
        rate = float(strake.python(RATE, str(options.batch)))
        print(f"{rate:,.0f} rows/s rewrapped with nothing else running", flush=True)

        with strake, Traffic(strake.port, known, options.clients) as traffic:
            time.sleep(1)
            strake.manage("create_master_key", check=True)
            started = time.perf_counter()
            strake.manage("rotate_master_key", "--batch", str(options.batch), check=True)
            whole = time.perf_counter() - started
            print(f"{whole:.1f} s for `manage.py rotate_master_key` as a whole, under load", flush=True)
            half_way, finished = kill_rotations(strake, options.kills, options.batch, whole)
            time.sleep(1)
        verified = strake.manage("verify_vault", check=False)
        unchanged = strake.python(FINGERPRINT) == before
        latencies = sorted(traffic.latencies)
        failed = sum(traffic.answers.values()) - traffic.answers["200"]
        print(f"{options.kills} kills, {half_way} of them between two rows; {finished} rotations came to their end")
        print(f"{sum(traffic.answers.values()):,} requests meanwhile, {failed} failed: {dict(traffic.answers)}")
        print(f"latency: median {latencies[len(latencies) // 2] * 1000:.1f} ms, worst {latencies[-1] * 1000:.0f} ms")
        print(f"verify_vault: {verified.stdout.strip() or verified.stderr.strip()}")
        print(f"anything changed besides the wraps: {'no' if unchanged else 'YES'}")
        if traffic.ended_early:
            print("the traffic ended before the rotations did")
        shown = half_way > 0 and traffic.answers["200"] > 0 and not traffic.ended_early
        return int(failed > 0 or verified.returncode != 0 or not unchanged or not shown)


if __name__ == "__main__":
    sys.exit(main())
