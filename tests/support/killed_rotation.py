"""A script for tests: rotate in child processes that kill themselves at one SQL statement after another.

    python -m tests.support.killed_rotation FIRST_STATEMENT STEP

Fails if a key does not open after a kill. Prints as JSON how many children were killed before one finished, and how
many rows were done after each.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import django
from django.db import connection

django.setup()

from accounts.actors import OPERATOR  # noqa: E402
from credentials.models import Credential  # noqa: E402
from credentials.vault import keyring, rotation  # noqa: E402
from proxy.unsealing import open_key  # noqa: E402


def rotate(kill_at: int) -> None:
    count = 0

    def count_and_kill(execute: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(*arguments)

    with connection.execute_wrapper(count_and_kill):
        rotation.rotate(actor=OPERATOR, batch=4, no_server=True)


def state() -> dict[str, object]:
    """What the database holds now."""
    ring = keyring.reload()
    rows = list(Credential.objects.select_related("endpoint", "sealed_key").order_by("pk"))
    return {
        "keys": [open_key(row.sealed(), row.binding(), ring).decode() for row in rows],
        "ciphertexts": [row.sealed().ciphertext.hex() for row in rows],
        "under": sorted({row.sealed_key.master_key_id for row in rows}),
        "done": sum(row.sealed_key.master_key_id == ring.primary_id for row in rows),
    }


def in_child(work: Callable[[], object]) -> tuple[int, str]:
    """Run `work` in a forked child. Returns the exit status and the result as JSON."""
    connection.close()  # A connection must not be shared across the fork.
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        result = json.dumps(work())
        connection.close()
        os.write(writer, result.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        result = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), result


before = json.loads(in_child(state)[1])
kills, statement = 0, int(sys.argv[1])
progress: list[int] = []
while True:
    status, _ = in_child(partial(rotate, statement))
    now = json.loads(in_child(state)[1])
    assert now["keys"] == before["keys"], f"lost at statement {statement}"
    assert now["ciphertexts"] == before["ciphertexts"]
    progress.append(now["done"])
    if status == 0:
        break
    assert status == -signal.SIGKILL, status
    kills += 1
    statement += int(sys.argv[2])
sys.stdout.write(json.dumps({"kills": kills, "under": now["under"], "progress": progress}))
