"""A transaction around a part of a test, as pytest-django's around a whole one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction


@contextmanager
def rolled_back() -> Iterator[None]:
    """Undo what the block changes. Code in it runs as outside of a transaction (`accounts.transactions`)."""
    block = transaction.atomic()
    vars(block)["_from_testcase"] = True  # Django's mark for the transactions of tests
    with block:
        yield
        transaction.set_rollback(True)
