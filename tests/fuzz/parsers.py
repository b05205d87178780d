"""Every fuzz target by name, and the corpus of each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")

import django

django.setup()

from tests.fuzz import proxy_parsers, text_parsers  # noqa: E402

CORPUS = Path(__file__).parent / "corpus"

TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (
        proxy_parsers.bearer,
        proxy_parsers.path,
        proxy_parsers.request_headers,
        proxy_parsers.response_headers,
        text_parsers.address,
        text_parsers.allowlist,
        text_parsers.client_address,
        text_parsers.database_url,
        text_parsers.destination,
        text_parsers.email,
        text_parsers.envelope,
        text_parsers.environment,
        text_parsers.header_template,
        text_parsers.limits,
        text_parsers.listen_addresses,
        text_parsers.master_keys,
        text_parsers.next_path,
        text_parsers.path_patterns,
        text_parsers.provider_key,
        text_parsers.token,
        text_parsers.wrapped_key,
    )
}


def seeds(name: str) -> list[bytes]:
    """The corpus of a target: examples to start from, and inputs that once broke it."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
