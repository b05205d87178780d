"""Create many bearer tokens in the configured database: `python -m bench.fill COUNT`."""

from __future__ import annotations

import os
import secrets
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")
django.setup()

from credentials.models import BearerToken, Endpoint  # noqa: E402


def main(count: int) -> None:
    """Create `count` tokens: half for the endpoint that is measured, and half for another one."""
    used = Endpoint.objects.get()
    other = Endpoint.objects.create(owner=used.owner, label="Other", provider="openai")
    for start in range(0, count, 10_000):
        BearerToken.objects.bulk_create(
            [
                BearerToken(
                    endpoint=(used, other)[index % 2], label="x", digest=secrets.token_bytes(32), preview="strk_…"
                )
                for index in range(start, min(start + 10_000, count))
            ],
            batch_size=1000,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]))
