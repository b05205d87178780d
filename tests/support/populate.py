"""Create a lot of data: `python -m tests.support.populate EMAIL`, with the environment of a running Strake.

The rows are created in bulk, so the keys of these endpoints do not open.
"""

from __future__ import annotations

import argparse
import os
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")

import django

if __name__ == "__main__":
    django.setup()

from django.db import connection, transaction
from django.utils import timezone

from accounts import tokens
from accounts.models import User
from credentials.models import BEARER_TOKEN_PREFIX, BearerToken, Credential, Endpoint, SealedKey
from proxy.models import RequestRecord, RequestRollup
from proxy.request_log.histogram import bucket
from tests.support import factories

LABELS = (
    "CI",
    "laptop",
    "Claude Code",
    "staging",
    "nightly evaluation",
    "support bot",
    "Cursor",
    "notebook",
    "demo day",
)
PROVIDERS = ("openai", "anthropic", "gemini", "openrouter", "mistral", "groq")


def populate(
    owner: User,
    *,
    endpoints: int = 500,
    tokens_each: int = 1,
    tokens_first: int = 50,
    records: int = 10_000,
    days: int = 30,
    others: int = 0,
) -> list[Endpoint]:
    """Create endpoints, tokens and requests of the last `days`, and `others` with an endpoint each.

    The numbers are the same in every run. Returns the endpoints of the owner.
    """
    rng = random.Random(5)
    now = timezone.now()
    with transaction.atomic():
        made = _endpoints(rng, [owner] * endpoints, now)
        people = User.objects.bulk_create(
            [User(email=f"person{number}@example.net") for number in range(others)], 5_000
        )
        if people:
            _endpoints(rng, people, now)
        issued = _tokens(rng, made, tokens_each, tokens_first, now)
        _requests(rng, made, issued, records, days, now)
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        # As it is in a Strake that did not write all of this at once.
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return made


def _endpoints(rng: random.Random, owners: Sequence[User], now: datetime) -> list[Endpoint]:
    """Create an endpoint for each of the owners."""
    # Its encrypted key is copied, and opens for its own row only.
    sealed = factories.make_endpoint(owner=owners[0]).credential
    made = [
        Endpoint(
            owner=owner,
            label=f"{rng.choice(LABELS)} {number}"
            if number
            else "A rather long name that somebody thought would help later",
            provider=rng.choice(PROVIDERS),
            paused_at=now if rng.random() < 0.05 else None,
            created_at=now - timedelta(hours=rng.randrange(1, 2000)),
        )
        for number, owner in enumerate(owners)
    ]
    Endpoint.objects.bulk_create(made, 5_000)
    own = {"id", "endpoint_id"}
    fields = [field.attname for field in Credential._meta.concrete_fields if field.attname not in own]
    copied = {field: getattr(sealed, field) for field in fields}
    credentials = [Credential(id=uuid.uuid4(), endpoint=endpoint, **copied) for endpoint in made]
    Credential.objects.bulk_create(credentials, 5_000)
    SealedKey.objects.bulk_create([SealedKey.of(credential, sealed.sealed()) for credential in credentials], 5_000)
    return made


def _tokens(
    rng: random.Random, endpoints: list[Endpoint], each: int, first: int, now: datetime
) -> dict[uuid.UUID, list[BearerToken]]:
    issued: dict[uuid.UUID, list[BearerToken]] = defaultdict(list)
    for index, endpoint in enumerate(endpoints):
        for number in range(first if index == 0 else each):
            plaintext = tokens.mint(BEARER_TOKEN_PREFIX)
            issued[endpoint.pk].append(
                BearerToken(
                    endpoint=endpoint,
                    label=f"{rng.choice(LABELS)} {number}",
                    digest=tokens.digest(plaintext),
                    preview=tokens.preview(plaintext, BEARER_TOKEN_PREFIX),
                    created_at=now - timedelta(days=rng.randrange(1, 60)),
                    last_used_at=now - timedelta(minutes=rng.randrange(1, 50_000)) if rng.random() < 0.8 else None,
                    requests_per_minute=60 if number % 5 == 1 else None,
                    allowed_paths=["POST /v1/chat/completions", "GET /v1/models"] if number % 5 == 2 else [],
                    allowed_networks=["192.0.2.0/24"] if number % 7 == 3 else [],
                    expires_at=now + timedelta(days=rng.randrange(1, 90)) if number % 4 == 3 else None,
                    revoked_at=now - timedelta(days=1) if number % 6 == 5 else None,
                )
            )
    BearerToken.objects.bulk_create([token for found in issued.values() for token in found])
    return issued


def _requests(
    rng: random.Random,
    endpoints: list[Endpoint],
    issued: dict[uuid.UUID, list[BearerToken]],
    count: int,
    days: int,
    now: datetime,
) -> None:
    rollups: dict[tuple[uuid.UUID, str, datetime, int], Counter[int]] = defaultdict(Counter)
    # The first endpoint gets half of the requests, as in real use.

    def records() -> Iterator[RequestRecord]:
        # In the order of time, in which a running Strake writes them.
        for age in sorted((days * 86400 * rng.random() ** 1.5 for _ in range(count)), reverse=True):
            endpoint = endpoints[0] if rng.random() < 0.5 else rng.choice(endpoints)
            at = now - timedelta(seconds=age)
            status = rng.choices((200, 401, 429, 502), (94, 2, 3, 1))[0]
            latency = int(rng.lognormvariate(6.5, 0.9)) if status == 200 else rng.randrange(1, 20)
            token = rng.choice(issued[endpoint.pk])
            rollups[endpoint.pk, token.pk, at.replace(minute=0, second=0, microsecond=0), status // 100][latency] += 1
            yield RequestRecord(
                endpoint=endpoint,
                token=token,
                status=status,
                latency_ms=latency,
                first_byte_ms=latency // 3,
                at=at,
            )

    batch: list[RequestRecord] = []
    for record in records():
        batch.append(record)
        if len(batch) == 20_000:
            RequestRecord.objects.bulk_create(batch)
            batch.clear()
    RequestRecord.objects.bulk_create(batch)
    RequestRollup.objects.bulk_create(
        [
            RequestRollup(
                endpoint_id=endpoint_id,
                token_id=token_id,
                hour=hour,
                status_class=status,
                count=latencies.total(),
                latency_max_ms=max(latencies),
                latency_histogram=_histogram(latencies),
            )
            for (endpoint_id, token_id, hour, status), latencies in rollups.items()
        ],
        batch_size=5_000,
    )


def _histogram(latencies: Counter[int]) -> dict[str, int]:
    histogram: Counter[int] = Counter()
    for latency, count in latencies.items():
        histogram[bucket(latency)] += count
    return {str(latency): count for latency, count in histogram.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("email")
    parser.add_argument("--endpoints", type=int, default=500)
    parser.add_argument("--records", type=int, default=10_000)
    given = parser.parse_args()
    owner, _ = User.objects.get_or_create(email=given.email)
    populate(owner, endpoints=given.endpoints, records=given.records)


if __name__ == "__main__":
    main()
