"""Audit events per second on PostgreSQL, with several writers: `DATABASE_URL=… python -m bench.audit_events`.

Use a new database, after `manage.py migrate`. Each writer is a process that changes a row and records an event, one
transaction after the other, as services do. Afterwards the chain is verified.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

WRITER = """
import sys, time, uuid
import django; django.setup()
from django.db import transaction
from accounts import audit
from accounts.actors import Person
from accounts.models import User
user = User.objects.create(email=f"{uuid.uuid4()}@example.org")
end, count, times = float(sys.argv[1]), 0, []
while time.time() < end:
    began = time.perf_counter()
    with transaction.atomic():
        User.objects.filter(pk=user.pk).update(session_epoch=count)
        if sys.argv[2] == "recorded":
            audit.record(Person(user, "192.0.2.1", "session abc123"), "session.all_revoked", account=user,
                subject_type="user", subject_id=user.pk, subject_label=user.email, details={"sessions": count})
    times.append(time.perf_counter() - began)
    count += 1
times.sort()
print(count, times[len(times) // 2], times[len(times) * 99 // 100])
"""


def measure(writers: int, seconds: float, what: str) -> None:
    end = time.time() + 5 + seconds  # five seconds to import Django
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "strake.settings"}
    command = [sys.executable, "-c", WRITER, str(end), what]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(writers)]
    time.sleep(max(0.0, end - seconds - time.time()))
    before, began = count(), time.time()
    time.sleep(max(0.0, end - time.time()))
    after, took = count(), time.time() - began
    rows = [tuple(map(float, process.communicate()[0].split())) for process in running]
    median, slowest = max(row[1] for row in rows), max(row[2] for row in rows)
    total = f"{(after - before) / took:,.0f} events/s" if what == "recorded" else "no events"
    print(f"{writers} writers, {what}: {total}, p50 {median * 1000:.1f} ms, p99 {slowest * 1000:.1f} ms a transaction")


def count() -> int:
    from accounts.models import AuditLink

    return AuditLink.objects.count()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.audit_events")
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    os.environ["DJANGO_SETTINGS_MODULE"] = "strake.settings"
    import django

    django.setup()
    measure(arguments.writers, arguments.seconds, "unrecorded")
    measure(arguments.writers, arguments.seconds, "recorded")


if __name__ == "__main__":
    main()
