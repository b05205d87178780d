"""Run by a test: rotate in child processes that kill themselves with SIGKILL at one SQL statement after another.

Prints, as JSON, how many children were killed before one came through, and whether every key opened after each.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import django
from django.db import connection

django.setup()

from accounts.audit import OPERATOR  # noqa: E402
from credentials import keyring, rotation  # noqa: E402
from credentials.models import Credential  # noqa: E402
from proxy.unsealing import open_key  # noqa: E402


def rotate(kill_at: int) -> None:
    count = 0

    def die_in_time(execute, *arguments):
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(*arguments)

    with connection.execute_wrapper(die_in_time):
        rotation.rotate(actor=OPERATOR, batch=4)


def state() -> dict[str, object]:
    """What the database holds now, read in a process of its own."""
    ring = keyring.configured()
    rows = list(Credential.objects.select_related("endpoint").order_by("pk"))
    return {
        "keys": [open_key(row.sealed(), row.binding(), ring).decode() for row in rows],
        "ciphertexts": [bytes(row.ciphertext).hex() for row in rows],
        "under": sorted({row.master_key_id for row in rows}),
        "done": sum(row.master_key_id == ring.primary_id for row in rows),
    }


def in_child(work) -> tuple[int, str]:
    """The exit status of a forked child and what its work returned."""
    connection.close()  # a connection must not be shared across the fork
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
kills, statement, progress = 0, int(sys.argv[1]), []
while True:
    status, _ = in_child(lambda at=statement: rotate(at))
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
