"""What a proxy process reports in its heartbeat: its master keys, its request log, and its requests in flight."""

from __future__ import annotations

import heapq
from operator import itemgetter

from credentials.vault import keyring
from credentials.vault.heartbeats import Vitals
from proxy.application import ProxyApplication

MAX_ENDPOINTS = 100  # of those with requests in flight, the busiest


def measure(application: ProxyApplication) -> Vitals:
    """Return the vitals of an application that has started. Safe to call from any thread that may block.

    Raises `KeyringError` if no keyring was ever read.
    """
    ring = keyring.poll()
    counts = application.in_flight.counts()
    busiest = heapq.nlargest(MAX_ENDPOINTS, counts.items(), key=itemgetter(1))
    return Vitals(
        primary_key_id=ring.primary_id,
        key_ids={key_id: ring.check_value(key_id).hex() for key_id in ring.ids},
        waiting=application.request_log.waiting,
        lag_seconds=application.request_log.lag_seconds,
        lost=application.request_log.lost,
        in_flight={str(endpoint_id): count for endpoint_id, count in busiest},
        in_flight_total=sum(counts.values()),
    )
