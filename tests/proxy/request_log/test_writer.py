"""Records, totals and times of last use, as both databases store them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from credentials.models import BearerToken
from proxy.models import RequestRecord, RequestRollup
from proxy.request_log import writer
from proxy.request_log.histogram import bucket, percentile
from proxy.request_log.portions import MAX_PORTIONS
from proxy.request_log.writer import Entry, write
from tests.support import factories
from tests.support.database_roles import Database, migrated
from tests.support.running import Strake, prepare_home

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def strake(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated_database: Path
) -> Iterator[Strake]:
    """A Strake that is not running, with a migrated database."""
    home = tmp_path_factory.mktemp("writer") / "home"
    if request.param == "postgresql":
        with migrated(request.getfixturevalue("postgres_cluster"), home) as database:
            yield database.strake
    else:
        strake = Strake(prepare_home(home, migrated_database))
        yield strake
        strake.hang_up()


def run(strake: Strake, code: str) -> Any:
    """Run code with an endpoint, its token and `write`, and return what it assigns to `result`."""
    done = strake.call("run", code=f"{PREPARED}{code}\nprint(json.dumps(result, default=str))")
    return json.loads(done["output"])


PREPARED = """
import json
from datetime import UTC, datetime
from uuid import uuid4
from credentials.models import BearerToken, Endpoint
from proxy.models import RequestRecord, RequestRollup
from proxy.request_log import writer
from proxy.request_log.writer import CLOSED, OPENED, Entry, write
from tests.support import factories
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
connected = factories.make_endpoint(owner=factories.make_user(f"{uuid4()}@example.org"))
endpoint, token = connected.endpoint, connected.token
def entry(at, status=200, latency_ms=30, first_byte_ms=15, error="", phase="", token=token):
    return Entry(endpoint.pk, token.pk, status, latency_ms, first_byte_ms, at, error, phase)
def last_use():
    token.refresh_from_db()
    return token.last_used_at and token.last_used_at.timestamp() - NOON
"""


# --- What is stored ------------------------------------------------------------------------------------------------


def test_every_value_of_a_record_is_stored(strake: Strake) -> None:
    result = run(
        strake,
        """
moments = [NOON + 1, NOON + 2.000001, NOON + 3.5, 946684799.25]
write([entry(moments[0]), entry(moments[1], 502, 7, None, "upstream_unreachable"),
       entry(moments[2], 101, 2**31 + 5, 2**31 + 5, "", OPENED), entry(moments[3], 101, 10**10, None, "ended", CLOSED)])
rows = RequestRecord.objects.filter(endpoint=endpoint, token=token).order_by("-at")
result = [[*row[1:], row[0] == datetime.fromtimestamp(at, UTC)] for row, at in zip(
    rows.values_list("at", "status", "latency_ms", "first_byte_ms", "error", "phase"),
    sorted(moments, reverse=True), strict=True)]
""",
    )
    assert result == [
        [101, 2**31 - 1, 2**31 - 1, "", "opened", True],
        [502, 7, None, "upstream_unreachable", "", True],
        [200, 30, 15, "", "", True],
        [101, 2**31 - 1, None, "ended", "closed", True],
    ]


def test_totals_of_batches_are_added(strake: Strake) -> None:
    result = run(
        strake,
        """
other = factories.make_token(endpoint=endpoint)[0]
write([entry(NOON + 1), entry(NOON + 2, latency_ms=26), entry(NOON + 3599, 503, 9), entry(NOON, token=other)])
write([entry(NOON + 5, latency_ms=1000), entry(NOON + 6), entry(NOON + 3600, 404, 10**7)])
write([entry(NOON + 7, latency_ms=990)])
found = RequestRollup.objects.filter(endpoint=endpoint).order_by("hour", "status_class", "-count")
result = [[row.hour.hour, row.status_class, row.token_id == token.pk, row.count, row.latency_max_ms,
           row.latency_histogram] for row in found]
""",
    )
    assert result == [
        [12, 2, True, 5, 1000, {"26": 1, "30": 2, "1008": 1, "976": 1}],
        [12, 2, False, 1, 30, {"30": 1}],
        [12, 5, True, 1, 9, {"9": 1}],
        [13, 4, True, 1, 10**7, {str(bucket(10**7)): 1}],
    ]


def test_only_answered_requests_have_a_latency(strake: Strake) -> None:
    """A failure after ten seconds of waiting, and a client that left, say nothing about how fast the provider is."""
    result = run(
        strake,
        """
write([entry(NOON, 502, 10_000, None, "upstream_connect_timeout"), entry(NOON, 502, 800, 400, "upstream_broken"),
       entry(NOON, 499, 60_000, None), entry(NOON, 500, 90, 80)])
write([entry(NOON, 502, 10_000, None, "upstream_connect_timeout")])
result = list(RequestRollup.objects.filter(endpoint=endpoint).order_by("status_class").values_list(
    "status_class", "count", "latency_max_ms", "latency_histogram"))
""",
    )
    assert result == [[4, 1, 0, {}], [5, 4, 90, {str(bucket(90)): 1}]]


def test_websocket_is_rolled_up_once_by_its_handshake(strake: Strake) -> None:
    result = run(
        strake,
        """
write([entry(NOON, 101, 30, 30, "", OPENED)])
write([entry(NOON + 10**4, 101, 10**7, None, "ended", CLOSED)])
result = list(RequestRollup.objects.filter(endpoint=endpoint).values_list("status_class", "count", "latency_histogram"))
""",
    )
    assert result == [[1, 1, {"30": 1}]]


def test_last_use_is_written_once_a_minute_and_never_lowered(strake: Strake) -> None:
    result = run(
        strake,
        """
result = [last_use()]
for batch in ([100, 90], [101, 159], [160], [40], [1000]):
    write([entry(NOON + second) for second in batch])
    result.append(last_use())
BearerToken.objects.filter(pk=token.pk).update(last_used_at=datetime.fromtimestamp(NOON + 5000, UTC))
write([entry(NOON + 2000)])
result.append(last_use())
""",
    )
    assert result == [None, 100, 100, 160, 160, 1000, 5000]


def test_record_of_a_deleted_endpoint_is_written(strake: Strake) -> None:
    result = run(
        strake,
        """
write([entry(NOON)])
endpoint.delete()
result = [model.objects.filter(token_id=token.pk).count() for model in (RequestRecord, RequestRollup)]
endpoint = Endpoint(pk=connected.credential.endpoint_id)
write([entry(NOON)])
result.append(RequestRecord.objects.filter(token_id=token.pk).count())
""",
    )
    assert result == [0, 0, 1]


def test_large_batch_takes_few_statements(transactional_db: None) -> None:
    owner = factories.make_user()
    made = [factories.make_endpoint(owner=owner) for _ in range(20)]
    batch = [
        Entry(made[number % 20].endpoint.pk, made[number % 20].token.pk, 200, number % 500, 1, NOON + number / 1000)
        for number in range(2000)
    ]
    with CaptureQueriesContext(connection) as queries:
        write(batch)
    # Records, totals, last use, the transaction, and opening the connection.
    assert len(queries) <= 7 + MAX_PORTIONS
    assert RequestRecord.objects.count() == 2000
    assert sum(RequestRollup.objects.values_list("count", flat=True)) == 2000
    assert BearerToken.objects.filter(last_used_at=None).count() == 0


def test_memory_of_last_uses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_TOKENS", 10)
    last_use = writer._LastUse()
    for number in range(100):
        last_use.wrote({f"ctok_{number}": NOON})
    assert len(last_use._written) <= 11


def test_only_routing_metadata_is_stored() -> None:
    assert [field.name for field in RequestRecord._meta.get_fields()] == [
        "id",
        "endpoint",
        "token",
        "status",
        "error",
        "phase",
        "latency_ms",
        "first_byte_ms",
        "at",
    ]


# --- Histograms ----------------------------------------------------------------------------------------------------


@given(latency=st.integers(0, 2**31 - 1))
def test_bucket_is_near_its_latencies(latency: int) -> None:
    assert abs(bucket(latency) - latency) <= latency * 0.032
    assert bucket(bucket(latency)) == bucket(latency)
    if latency < 32:
        assert bucket(latency) == latency


@given(latencies=st.lists(st.integers(0, 10**6), min_size=1), share=st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_percentile_is_the_latency_of_a_request(latencies: list[int], share: float) -> None:
    counts = {latency: latencies.count(latency) for latency in latencies}
    found = percentile(counts, share)
    assert found in latencies
    assert sum(latency <= found for latency in latencies) >= share * len(latencies)
    assert sum(latency < found for latency in latencies) < share * len(latencies)


def test_percentile_of_nothing_is_none() -> None:
    assert percentile({}, 0.5) is None


# --- Several writers at once ---------------------------------------------------------------------------------------

WRITER = """
import json, random, sys, time
from uuid import UUID
from proxy.request_log.writer import Entry, write
rng, known = random.Random(sys.argv[1]), json.loads(sys.argv[2])
for batch in range(30):
    entries = [Entry(UUID(endpoint), token, 200, rng.randrange(2000), 5, {noon} + 61 * batch)
               for endpoint, token in rng.choices(known, k=200)]
    rng.shuffle(entries)
    write(entries)
"""


@pytest.mark.postgres
def test_writers_at_once_neither_block_nor_lose(postgres_cluster: Any, tmp_path_factory: Any) -> None:
    """Each shares rows of totals and tokens with the others, in random order, and retries nothing."""
    with migrated(postgres_cluster, tmp_path_factory.mktemp("writers") / "home") as database:
        known = [made(database) for _ in range(20)]
        with ThreadPoolExecutor(4) as pool:
            code = WRITER.replace("{noon}", str(NOON))
            list(pool.map(lambda number: database.strake.python(code, str(number), json.dumps(known)), range(4)))
        superuser = "postgres"
        assert database.execute(superuser, "SELECT count(*) FROM proxy_requestrecord") == [(24_000,)]
        totals = """
            SELECT sum(count), sum((SELECT sum(value::int) FROM jsonb_each_text(latency_histogram))) FROM proxy_rollup
        """
        assert database.execute(superuser, totals) == [(24_000, 24_000)]


def made(database: Database) -> tuple[str, str]:
    endpoint = database.strake.connect("https://api.example.com")
    [[endpoint_id, token_id]] = database.execute(
        "postgres",
        "SELECT endpoint.id::text, token.id FROM credentials_endpoint AS endpoint "
        f"JOIN credentials_bearertoken AS token ON endpoint_id = endpoint.id WHERE subdomain = '{endpoint.subdomain}'",
    )
    return str(endpoint_id), str(token_id)
