"""The headers of a request that may pass, as the server picks them by their names."""

from __future__ import annotations

from proxy.http.names import NAMES, NOT_FOR_UPSTREAM, Headers


def passing(sent: Headers) -> Headers:
    return [pair for pair in sent if not NAMES[pair[0]].kinds & NOT_FOR_UPSTREAM]
