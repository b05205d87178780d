"""All mutations: small edits that break one property each. `test_catalogue.py` checks that they still apply.

If it fails, find the code that took the place of `before`, and quote that in the file under `tests/mutations/of/`.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.mutations.mutation import Mutation
from tests.mutations.of import accounts, credentials, pages, proxy, strake


def all_mutations() -> Iterator[tuple[str, Mutation]]:
    """Yield every mutation with the path of its file."""
    for area in (accounts, credentials, proxy, strake, pages):
        for path, mutations in area.BY_FILE.items():
            for mutation in mutations:
                yield path, mutation
