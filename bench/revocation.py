"""Look for requests that are accepted after their token's rotation or revocation has returned, on four processes.

    python -m bench.revocation [--requests 100000] [--postgres postgres://postgres@127.0.0.1:5432/postgres]

On SQLite, or on PostgreSQL where a server is named. Exits with 1 if one such request was accepted, or if a live token
was refused.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import uvloop

from bench.gateways import provider
from bench.rotation import database
from tests import revocation
from tests.running import Strake


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", metavar="URL", help="a server on which a database can be made")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        database(options.postgres) as environment,
        provider() as upstream,
        Strake(Path(folder) / "home", {"WEB_CONCURRENCY": str(options.workers), **environment}) as strake,
    ):
        report = uvloop.run(revocation.run(strake, upstream.url, options.requests, seed=options.seed))
    print(f"{'PostgreSQL' if environment else 'SQLite'}, {options.workers} worker processes: {report}")
    broken = report.wrongly_accepted or report.wrongly_refused or set(report.statuses) != {200, 401}
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
