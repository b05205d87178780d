"""Ids of failed requests: a line in the log and the response that it is about have the same one."""

from __future__ import annotations

import secrets

from django.http import HttpRequest

_KEY = "strake/request_id"  # no header of a client can have such a name (PEP 3333)


def new() -> str:
    """Return the id of another request."""
    return f"req_{secrets.token_hex(8)}"


def request_id(request: HttpRequest) -> str:
    """Return the id of a request for a page. It is made when it is first asked for."""
    found: str = request.META.setdefault(_KEY, "") or new()
    request.META[_KEY] = found
    return found
