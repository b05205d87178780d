"""What decides whether a request in flight may go on, and the one SQL statement that reads it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from credentials.models import BearerToken
from proxy.access.route import earlier

_MARKER = "token-id"


class TokenState(NamedTuple):
    """A token, its endpoint, the endpoint's owner and the sealed provider key, as the database has them now.

    Revoked and expired as soon as either the token or its parent is.
    """

    token_id: str
    digest: bytes
    revoked_at: datetime | str | None
    expires_at: datetime | None
    paused_at: datetime | str | None
    suspended_at: datetime | str | None
    iv: bytes


@cache
def statement(condition: str) -> str:
    """Return the SQL that reads one row for each token, for `state_from`.

    `condition` is put behind the column of the token's id, such as `= ANY($1)`.
    """
    query = (
        BearerToken.objects.order_by()
        .filter(pk=_MARKER)
        .values_list(
            "id",
            "digest",
            "revoked_at",
            "expires_at",
            "endpoint__paused_at",
            "endpoint__owner__suspended_at",
            "endpoint__credential__sealed_key__iv",
            "parent__revoked_at",
            "parent__expires_at",
        )
        .query
    )
    sql, parameters = query.get_compiler(using="default").as_sql()
    if parameters != (_MARKER,) or sql.count(" = %s") != 1:
        raise AssertionError("The statement no longer takes the token's id as its only parameter.")
    return str(sql).replace(" = %s", f" {condition}")


def state_from(
    row: Any, *, bytes_from: Callable[[Any], bytes], time_from: Callable[[Any], datetime | None]
) -> TokenState:
    """Return the `TokenState` of a row that `statement` selected, with a driver's values converted."""
    token_id, digest, revoked_at, expires_at, paused_at, suspended_at, iv, parent_revoked_at, parent_expires_at = row
    return TokenState(
        token_id,
        bytes_from(digest),
        revoked_at or parent_revoked_at,
        earlier(time_from(expires_at), time_from(parent_expires_at)),
        paused_at,
        suspended_at,
        b"" if iv is None else bytes_from(iv),
    )
