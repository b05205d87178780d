"""Entity tags and `If-Match` (RFC 9110, sections 8.8.3 and 13.1.1), so that no client undoes another's changes.

The tag of an endpoint or a token covers what people change: label, state, limits, destination, key, secret. It does not
cover when something was last used, which would change it with every request. No answer is a 304.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

from django.db import transaction
from django.http import HttpResponse
from ninja import Header

from accounts.actors import Person
from credentials import services
from credentials.api.errors import PreconditionFailed
from credentials.models import BearerToken, Endpoint
from credentials.services.common import find_token
from credentials.token_limits import LIMIT_NAMES

IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="Change it only if it still has this ETag. Otherwise the answer is a 412."),
]
_TAGS = re.compile(r'(W/)?"[\x21\x23-\x7e\x80-\U0010ffff]*"')


def set_etag(response: HttpResponse, found: Endpoint | BearerToken) -> None:
    response.headers["ETag"] = etag(found)


def etag(found: Endpoint | BearerToken) -> str:
    """The strong entity tag of an endpoint or a token."""
    if isinstance(found, Endpoint):
        state = [str(found.pk), found.label, found.paused_at, found.max_streams, found.credential.sealed_at]
    else:
        state = [found.pk, found.label, found.preview, found.revoked_at]
        state += [getattr(found, name) for name in LIMIT_NAMES]
    digest = hashlib.sha256(json.dumps(state, default=_text).encode()).hexdigest()
    return f'"{digest[:32]}"'


def require(found: Endpoint | BearerToken, if_match: str | None) -> None:
    """Raise `PreconditionFailed` unless `if_match` is None, `*` or has the tag of `found`. Weak tags never match."""
    if if_match is None or if_match.strip() == "*":
        return
    if etag(found) not in (match[0] for match in _TAGS.finditer(if_match)):
        raise PreconditionFailed


@contextmanager
def unchanged_endpoint(actor: Person, subdomain: str, if_match: str | None) -> Iterator[None]:
    """Run a change of an endpoint in one transaction, in which nobody else changes it.

    Raises `NotFound` and `PreconditionFailed`.
    """
    with transaction.atomic():
        if if_match is not None:
            endpoint = services.get_endpoint(actor=actor, subdomain=subdomain)
            locked = Endpoint.objects.select_for_update().filter(pk=endpoint.pk).first()
            require(locked or endpoint, if_match)
        yield


@contextmanager
def unchanged_token(actor: Person, subdomain: str, token_id: str, if_match: str | None) -> Iterator[None]:
    """The same for a token of an endpoint."""
    with transaction.atomic():
        if if_match is not None:
            token = find_token(actor, token_id, subdomain)
            parent = [] if token.parent_id is None else [token.parent_id]
            for pk in [*parent, token.pk]:  # in the order in which `update_token` locks them
                list(BearerToken.objects.select_for_update().filter(pk=pk))
            token.refresh_from_db()
            require(token, if_match)
        yield


def _text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
