"""Removing old request records. On PostgreSQL each day is a partition, which is dropped whole.

The migration proxy.0004 has the function that drops days and creates the next fourteen, since that takes the rights of
the owner. So a fortnight may pass without it before records go to the default partition, which takes any row. No record
is ever refused for want of a partition. Records of before the migration, and those of odd days, are deleted in batches.
"""

from __future__ import annotations

from datetime import datetime

from django.db import connection

from accounts import retention
from proxy.models import RequestRecord

_BATCH_SIZE = 5000
# There is no index by id. The addresses of rows may be the same in two partitions, where both rows are old.
_DELETE_BATCH = """
DELETE FROM proxy_requestrecord WHERE at < %(until)s
AND ctid = ANY(ARRAY(SELECT ctid FROM proxy_requestrecord WHERE at < %(until)s LIMIT %(batch)s))
"""


def prune_days(keep_since: datetime) -> int:
    """Drop the days that ended before `keep_since`, and create those to come. Returns the number of dropped days.

    Drops nothing younger than a day. If a table is locked, its turn comes at the next call.
    """
    if connection.vendor != "postgresql":
        return 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT proxy_requestrecord_maintain(%s)", [keep_since])
        (dropped,) = cursor.fetchone()
    return int(dropped)


def prune_records(keep_since: datetime) -> int:
    """Delete single records of before `keep_since`. On PostgreSQL only those of whole days. Returns their number."""
    if connection.vendor != "postgresql":
        return retention.prune(RequestRecord.objects.filter(at__lt=keep_since))
    until = keep_since.replace(hour=0, minute=0, second=0, microsecond=0)
    total = 0
    with connection.cursor() as cursor:
        while True:
            cursor.execute(_DELETE_BATCH, {"until": until, "batch": _BATCH_SIZE})
            if not cursor.rowcount:
                return total
            total += cursor.rowcount
