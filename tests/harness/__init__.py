"""Experiments that try to break a property of a running Strake. They take minutes, so run them by hand.

python -m tests.harness.revocation    is a revoked token ever accepted?
python -m tests.harness.rotation      does a killed rotation lose a key, or fail a request?
python -m tests.harness.enumeration   do responses tell who has an account?
python -m tests.harness.faults        what does each fault of a machine, a store or the network cost? (as root)
python -m tests.harness.hostile       what does a hostile account cost its neighbours?
python -m tests.harness.request_log   how fast is the request log written, and a day of it dropped?
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import postgres


@contextmanager
def database(name: str) -> Iterator[dict[str, str]]:
    """Yield the environment variables for a new database. `name` is "sqlite" or "postgresql"."""
    if name == "sqlite":
        yield {}
        return
    with postgres.cluster() as cluster:
        yield {"DATABASE_URL": cluster.url}
