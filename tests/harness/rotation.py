"""Rotate the master key of a busy Strake, and kill rotations at random points.

    python -m tests.harness.rotation [--rows 10000] [--kills 100] [--database postgresql]

Starts a Strake with that many sealed keys, an upstream that reports the key it received, and clients that call random
endpoints. Exits with 1 if a request failed or used another key, if a key was lost, if a column other than the three of
the wrapped key changed, or if no kill hit a rotation between two rows, since such a run shows nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg

from tests.harness import database
from tests.support.running import ROOT, Strake
from tests.support.upstream import Exchange, Upstream

SEED = """
import json, uuid
from django.db import transaction
from django.utils import timezone
from accounts import tokens
from accounts.models import User
from credentials import vault
from credentials.vault.provider_key import ProviderKey
from credentials.models import BEARER_TOKEN_PREFIX, BearerToken, Credential, Endpoint, SealedKey
rows, url, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
alice = User.objects.create(email="alice@example.org")
known = []
with transaction.atomic():
    for start in range(0, rows, 1000):
        endpoints = [Endpoint(owner=alice, label="bench", provider="custom") for _ in range(min(1000, rows - start))]
        credentials, sealed, bearers = [], [], []
        for number, endpoint in enumerate(endpoints, start):
            key = f"sk-{number}-{uuid.uuid4().hex}"
            credential = Credential(
                endpoint=endpoint, destination_url=url, header_name="Authorization", header_template="Bearer {{secret}}"
            )
            # Without `save`, one INSERT writes many rows.
            record = vault.seal(ProviderKey(key), credential.binding()).register()
            sealed.append(SealedKey.of(credential, record))
            credential.sealed_at = timezone.now()
            token = tokens.mint(BEARER_TOKEN_PREFIX)
            credentials.append(credential)
            bearers.append(BearerToken(endpoint=endpoint, label="bench", digest=tokens.digest(token), preview="…"))
            known.append([endpoint.subdomain, token, key])
        Endpoint.objects.bulk_create(endpoints)
        Credential.objects.bulk_create(credentials)
        SealedKey.objects.bulk_create(sealed)
        BearerToken.objects.bulk_create(bearers)
with open(path, "w") as file:
    json.dump(known, file)
"""

# A digest of every column except the three that a rotation may change.
FINGERPRINT = """
import hashlib
from credentials.models import Credential, SealedKey
digest = hashlib.sha256()
for model in (Credential, SealedKey):
    fields = [f.attname for f in model._meta.concrete_fields]
    fields = [name for name in fields if name not in {"master_key_id", "wrapped_dek", "wrapped_dek_iv"}]
    for row in model.objects.order_by("pk").values_list(*fields).iterator(chunk_size=2000):
        digest.update(repr([bytes(v) if isinstance(v, memoryview) else v for v in row]).encode())
print(digest.hexdigest())
"""

RATE = """
import time
from accounts.actors import OPERATOR
from credentials.vault import rotation
start = time.perf_counter()
done = rotation.rotate(actor=OPERATOR, batch=int(sys.argv[1]), no_server=True).rewrapped
print(done / (time.perf_counter() - start))
"""


def key_digest(authorization: bytes) -> bytes:
    return hashlib.sha256(authorization).hexdigest().encode()


async def respond_with_key_digest(exchange: Exchange) -> None:
    """Respond with a digest of the received key."""
    exchange.connection.upstream.exchanges.clear()  # nothing reads them, and there are many
    await exchange.respond(body=key_digest(exchange.header("authorization") or b""))


class Traffic:
    """Clients that call random endpoints until they are stopped, and check every response."""

    def __init__(self, port: int, known: list[list[str]], clients: int) -> None:
        self.port, self.known, self.clients = port, known, clients
        self.responses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.ended_early = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended_early = not self._thread.is_alive()
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(random.Random(n)) for n in range(self.clients)))

    async def _client(self, chooser: random.Random) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while not self._stop.is_set():
            subdomain, token, key = chooser.choice(self.known)
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
                matches = body == key_digest(f"Bearer {key}".encode())
                self.responses[status if status != "200" or matches else "wrong key"] += 1
            # An unreadable response is a failed request. The traffic goes on.
            except (OSError, EOFError, ValueError, RuntimeError, IndexError, asyncio.LimitOverrunError) as error:
                self.responses[type(error).__name__] += 1
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.latencies.append(time.perf_counter() - started)
            await asyncio.sleep(0.02)
        writer.close()


def rotate_and_kill(strake: Strake, batch: int, is_due: Callable[[], bool]) -> bool:
    """Start a rotation and kill it once `is_due()`. Returns False if it had finished before."""
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


def rows_left(strake: Strake) -> int:
    """Count the rows that are not under the primary key. Asks the database directly, since it runs often."""
    primary = json.loads((strake.home / "vault/master-keys.json").read_text())["primary"]
    if url := strake.environment.get("DATABASE_URL"):
        with psycopg.connect(url) as postgresql:
            query = "SELECT count(*) FROM credentials_sealedkey WHERE master_key_id <> %s"
            row = postgresql.execute(query, [primary]).fetchone()
    else:
        with contextlib.closing(sqlite3.connect(strake.home / "data/strake.sqlite3", timeout=10)) as sqlite:
            query = "SELECT count(*) FROM credentials_sealedkey WHERE master_key_id <> ?"
            row = sqlite.execute(query, [primary]).fetchone()
    assert row is not None
    count: int = row[0]
    return count


def _is_past(end: float) -> bool:
    return time.monotonic() >= end


def _has_reached(strake: Strake, rows: int) -> bool:
    return rows_left(strake) <= rows


def retire_old_keys(strake: Strake) -> None:
    keys = json.loads((strake.home / "vault/master-keys.json").read_text())
    for key_id in [key_id for key_id in keys["keys"] if key_id != keys["primary"]]:
        strake.manage("retire_master_key", key_id, check=True)


def kill_rotations(strake: Strake, kills: int, batch: int, seconds: float) -> tuple[int, int]:
    """Kill `kills` rotations, alternately at a random row and at a random time within `seconds`, which one takes.

    After each finished rotation, retires its old key and creates a new one. Returns how many rotations were killed
    between their first and their last row, and how many finished.
    """
    chooser, half_way, finished = random.Random(4), 0, 0
    strake.manage("create_master_key", check=True)
    remaining = rows_left(strake)
    while kills:
        if kills % 2:
            end = time.monotonic() + chooser.uniform(0, seconds)
            killed = rotate_and_kill(strake, batch, partial(_is_past, end))
        else:
            rows = chooser.randrange(remaining)
            killed = rotate_and_kill(strake, batch, partial(_has_reached, strake, rows))
        kills -= killed
        now = rows_left(strake)
        if now > remaining:
            raise SystemExit("rows returned to an old key")
        half_way += killed and 0 < now < remaining
        remaining = now
        if not remaining:
            finished += 1
            retire_old_keys(strake)
            strake.manage("create_master_key", check=True)
            remaining = rows_left(strake)
    strake.manage("rotate_master_key", check=True)
    retire_old_keys(strake)
    return half_way, finished + 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.rotation")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, database(options.database) as environment, Upstream() as upstream:
        upstream.default = respond_with_key_digest
        strake = Strake(Path(folder) / "home", environment)
        strake.manage("migrate", "-v0", check=True)
        known_path = Path(folder) / "known.json"
        strake.python(SEED, str(options.rows), upstream.url, str(known_path))
        known = json.loads(known_path.read_text())
        before = strake.python(FINGERPRINT)
        print(f"{options.rows:,} sealed keys on {options.database}", flush=True)

        strake.manage("create_master_key", "--no-server", check=True)
        rate = float(strake.python(RATE, str(options.batch)))
        print(f"{rate:,.0f} rows/s rewrapped without load", flush=True)

        with strake, Traffic(strake.port, known, options.clients) as traffic:
            time.sleep(1)
            strake.manage("create_master_key", check=True)
            started = time.perf_counter()
            strake.manage("rotate_master_key", "--batch", str(options.batch), check=True)
            whole = time.perf_counter() - started
            print(f"{whole:.1f} s for `manage.py rotate_master_key` under load", flush=True)
            half_way, finished = kill_rotations(strake, options.kills, options.batch, whole)
            time.sleep(1)
        verified = strake.manage("verify_vault", check=False)
        unchanged = strake.python(FINGERPRINT) == before
        latencies = sorted(traffic.latencies)
        failed = sum(traffic.responses.values()) - traffic.responses["200"]
        print(f"{options.kills} kills, {half_way} of them between two rows; {finished} rotations finished")
        print(f"{sum(traffic.responses.values()):,} requests, {failed} failed: {dict(traffic.responses)}")
        print(f"latency: median {latencies[len(latencies) // 2] * 1000:.1f} ms, worst {latencies[-1] * 1000:.0f} ms")
        print(f"verify_vault: {verified.stdout.strip() or verified.stderr.strip()}")
        print(f"other columns changed: {'no' if unchanged else 'YES'}")
        if traffic.ended_early:
            print("the traffic ended before the rotations")
        shown = half_way > 0 and traffic.responses["200"] > 0 and not traffic.ended_early
        return int(failed > 0 or verified.returncode != 0 or not unchanged or not shown)


if __name__ == "__main__":
    sys.exit(main())
