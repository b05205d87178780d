"""The row that a request is decided by, and the one SQL statement that reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import cache
from ipaddress import ip_network
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import FilteredRelation, Q, QuerySet

from credentials import providers
from credentials.errors import InvalidDestination
from credentials.models import Endpoint
from credentials.token_limits import LIMIT_NAMES
from credentials.vault.envelope import Binding, SealedRecord, WrappedKey, extras_of
from proxy.access import minting
from proxy.access.derived_token import DerivedRecord
from proxy.access.path_patterns import PathPatterns
from proxy.http import key_places
from proxy.http.key_places import KeyPlaces
from proxy.metrics import traffic
from proxy.upstream.origin import Origin, destination


class Row(NamedTuple):
    """An endpoint, its credential, and the presented token.

    `token_id` is None if the endpoint has no such token, and so are the fields after it up to `allowed_networks`,
    and the ones from `allow_minting` on to `concurrent_requests`. The `parent_` fields are None for a token without a
    parent. `format` is None if the endpoint has no sealed key. The fields of the derived token are as the driver
    returns them, since few requests need them.
    """

    endpoint_id: UUID
    owner_id: UUID
    provider: str
    paused_at: datetime | str | None
    credential_id: UUID
    destination_url: str
    header_name: str
    header_template: str
    format: int | None
    master_key_id: str
    wrapped_dek: bytes
    wrapped_dek_iv: bytes
    ciphertext: bytes
    iv: bytes
    token_id: str | None
    expires_at: datetime | None
    revoked_at: datetime | str | None
    requests_per_minute: int | None
    allowed_paths: list[str]
    allowed_networks: list[str]
    max_streams: int | None
    suspended_at: datetime | str | None
    owner_email: str
    allow_minting: bool | int | None
    kind: str
    places: str  # JSON, which few credentials need
    parameters: str
    allowed_origins: list[str]
    requests_per_day: int | None
    requests_per_month: int | None
    concurrent_requests: int | None
    parent_id: str | None
    parent_expires_at: datetime | None
    parent_revoked_at: datetime | str | None
    parent_requests_per_minute: int | None
    parent_allowed_paths: list[str]
    parent_allowed_networks: list[str]
    parent_allow_minting: bool | int | None
    parent_allowed_origins: list[str]
    parent_requests_per_day: int | None
    parent_requests_per_month: int | None
    parent_concurrent_requests: int | None
    derived_format: int | None
    derived_master_key_id: str | None
    derived_wrapped_dek: bytes | None
    derived_wrapped_dek_iv: bytes | None
    derived_ciphertext: bytes | None
    derived_iv: bytes | None
    derived_source_iv: bytes | None
    derived_issued_at: datetime | str | None
    derived_expires_at: datetime | str | None
    derived_renewing_until: datetime | str | None
    derived_failed_at: datetime | str | None
    derived_failure: str | None


class Budget(NamedTuple):
    """How many requests with a token and its children may be forwarded in a day and in a month of UTC."""

    token_id: str
    endpoint_id: UUID
    per_day: int | None
    per_month: int | None


class Parent:
    """The limits of a token's parent. They apply to the token too."""

    __slots__ = ("concurrent_requests", "minting", "networks", "paths", "requests_per_minute", "token_id")
    parent = None

    def __init__(self, row: Row, token_id: str) -> None:
        self.token_id = token_id
        self.requests_per_minute = row.parent_requests_per_minute
        self.concurrent_requests = row.parent_concurrent_requests
        self.networks = tuple(ip_network(network) for network in row.parent_allowed_networks)
        self.paths = PathPatterns(tuple(row.parent_allowed_paths)) if row.parent_allowed_paths else None
        self.minting = None if row.parent_allow_minting else minting.rules(row.provider, row.destination_url)


class Route:
    """A row, and what follows from it for every request. A look-up keeps it until the row changes.

    It never holds a key. `sealed` is None if no key is stored, `binding` if the row holds what no credential is saved
    with, and `destination` if its URL was edited in the database: then nothing can be forwarded.
    """

    # More attributes than Python keeps in an object without them.
    __slots__ = (
        "_parameters",
        "binding",
        "budgets",
        "buys_token",
        "concurrent_requests",
        "connection_id",
        "credential_id",
        "derived",
        "destination",
        "destination_url",
        "dialect",
        "endpoint_id",
        "expires_at",
        "header_name",
        "is_ended",
        "is_fixed",
        "is_metered",
        "is_paused",
        "iv",
        "kind",
        "lists_origins",
        "master_key_id",
        "max_streams",
        "measure",
        "minting",
        "networks",
        "origins",
        "owner_email",
        "owner_id",
        "parent",
        "paths",
        "places",
        "provider",
        "requests_per_minute",
        "sealed",
        "token_id",
    )

    def __init__(self, row: Row) -> None:
        self.endpoint_id = row.endpoint_id
        self.owner_id = row.owner_id
        self.owner_email = row.owner_email
        self.provider = row.provider
        self.measure = traffic.of(row.provider).add
        self.destination_url = row.destination_url
        self.credential_id = row.credential_id
        self.kind = row.kind
        self.buys_token = row.kind != "static"  # the stored secret is not sent itself, but buys what is
        self.header_name = row.header_name
        self.max_streams = row.max_streams
        # The token.
        self.token_id = row.token_id
        self.parent = None if row.parent_id is None else Parent(row, row.parent_id)
        self.is_ended = (
            row.token_id is None
            or row.revoked_at is not None
            or row.parent_revoked_at is not None
            or row.suspended_at is not None
        )
        self.expires_at = earlier(row.expires_at, row.parent_expires_at)
        self.is_paused = row.paused_at is not None
        self.requests_per_minute = row.requests_per_minute
        self.networks = tuple(ip_network(network) for network in row.allowed_networks)
        self.paths = PathPatterns(tuple(row.allowed_paths)) if row.allowed_paths else None
        self.concurrent_requests = row.concurrent_requests
        self.budgets = _budgets(row)
        self.is_metered = (
            bool(self.budgets)
            or row.requests_per_minute is not None
            or (self.parent is not None and self.parent.requests_per_minute is not None)
        )
        self.origins = frozenset(origin.encode("latin-1") for origin in row.allowed_origins)
        self.lists_origins = bool(self.origins)
        if row.parent_id is not None:
            self.lists_origins = bool(row.allowed_origins or row.parent_allowed_origins)
            self.origins &= {origin.encode("latin-1") for origin in row.parent_allowed_origins}
        self.minting = None if row.allow_minting else minting.rules(row.provider, row.destination_url)
        # The key.
        self.iv = row.iv or b""
        self.master_key_id = row.master_key_id
        self.sealed = _sealed(row)
        self.binding = _binding(row)
        self.places = _places(row)
        self.derived = None if row.derived_format is None else DerivedRecord.of(row[_FIRST_DERIVED:])
        self._parameters = row.parameters
        # The destination.
        self.destination = _destination(row)
        preset = providers.PROVIDERS.get(row.provider)
        self.dialect = preset.dialect if preset is not None else None
        self.is_fixed = providers.has_fixed_destination(row.provider)
        # Of connections: a new key has a new initialisation vector.
        self.connection_id = row.credential_id.bytes + self.iv

    @property
    def parameter_values(self) -> dict[str, str]:
        """The parameters of a cloud credential. The seal vouches for them, so open the key first."""
        values: dict[str, str] = json.loads(self._parameters)
        return values


def earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    """Return the earlier of two expiries. None is never."""
    if one is None or other is None:
        return one or other
    return min(one, other)


def _budgets(row: Row) -> tuple[Budget, ...]:
    found = (
        (row.token_id, row.requests_per_day, row.requests_per_month),
        (row.parent_id, row.parent_requests_per_day, row.parent_requests_per_month),
    )
    return tuple(
        Budget(token_id, row.endpoint_id, per_day, per_month)
        for token_id, per_day, per_month in found
        if token_id is not None and (per_day is not None or per_month is not None)
    )


def _sealed(row: Row) -> SealedRecord | None:
    if row.format is None:
        return None
    return SealedRecord(
        row.format, WrappedKey(row.master_key_id, row.wrapped_dek, row.wrapped_dek_iv), row.ciphertext, row.iv
    )


def _binding(row: Row) -> Binding | None:
    extras = ""
    if (row.kind, row.places, row.parameters) != ("static", "[]", "{}"):
        try:
            extras = extras_of(str(row.kind), json.loads(row.places), json.loads(row.parameters))
        except (TypeError, ValueError):
            return None
    return Binding(
        row.credential_id,
        row.endpoint_id,
        row.owner_id,
        row.provider,
        row.destination_url,
        row.header_name,
        row.header_template,
        extras,
    )


def _places(row: Row) -> KeyPlaces | None:
    try:
        return key_places.parse(row.header_name, row.header_template, row.places)
    except InvalidDestination:
        return None


def _destination(row: Row) -> tuple[Origin, bytes, bytes] | None:
    try:
        return destination(row.destination_url)
    except InvalidDestination:
        return None


# Django's path from an endpoint to each field, in the order of the fields.
_PATHS = {
    "endpoint_id": "id",
    "owner_id": "owner_id",
    "provider": "provider",
    "paused_at": "paused_at",
    "credential_id": "credential__id",
    "destination_url": "credential__destination_url",
    "header_name": "credential__header_name",
    "header_template": "credential__header_template",
    "format": "credential__sealed_key__format",
    "master_key_id": "credential__sealed_key__master_key_id",
    "wrapped_dek": "credential__sealed_key__wrapped_dek",
    "wrapped_dek_iv": "credential__sealed_key__wrapped_dek_iv",
    "ciphertext": "credential__sealed_key__ciphertext",
    "iv": "credential__sealed_key__iv",
    "token_id": "token__id",
    "expires_at": "token__expires_at",
    "revoked_at": "token__revoked_at",
    "requests_per_minute": "token__requests_per_minute",
    "allowed_paths": "token__allowed_paths",
    "allowed_networks": "token__allowed_networks",
    "max_streams": "max_streams",
    "suspended_at": "owner__suspended_at",
    "owner_email": "owner__email",
    "allow_minting": "token__allow_minting",
    "kind": "credential__kind",
    "places": "credential__places",
    "parameters": "credential__parameters",
    "allowed_origins": "token__allowed_origins",
    "requests_per_day": "token__requests_per_day",
    "requests_per_month": "token__requests_per_month",
    "concurrent_requests": "token__concurrent_requests",
    "parent_id": "token__parent_id",
    **{f"parent_{field}": f"token__parent__{field}" for field in ("revoked_at", *LIMIT_NAMES)},
    **{f"derived_{field}": f"credential__derived_token__{field}" for field in DerivedRecord._fields},
}
_FIRST_DERIVED = Row._fields.index("derived_format")

Converters = tuple[tuple[int, Callable[[Any], Any]], ...]


def rows(**annotations: Any) -> QuerySet[Endpoint, Any]:
    """Return the query of one row, in the order of `Row`, with these annotations before it. `compiled` completes it."""
    return (
        Endpoint.objects.order_by()
        .annotate(token=FilteredRelation("tokens", condition=Q(tokens__digest=b"digest")), **annotations)
        .filter(subdomain="subdomain")
        .values_list(*annotations, *(_PATHS[field] for field in Row._fields))
    )


def compiled(query: QuerySet[Endpoint, Any], *, digest: str, subdomain: str) -> str:
    """Return the SQL of `rows`, with the SQL of the token's digest and of the subdomain that it looks for."""
    sql, parameters = query.query.get_compiler(using="default").as_sql()
    if len(parameters) != 2 or bytes(getattr(parameters[0], "obj", parameters[0])) != b"digest":
        raise AssertionError("The look-up no longer takes the digest and the subdomain in this order.")
    return str(sql).replace("%s", digest, 1).replace("%s", subdomain, 1)


@cache
def statement(placeholder: str) -> str:
    """Return the SQL that reads one row. Its parameters are the digest, then the subdomain.

    `placeholder` is the driver's parameter marker.
    """
    return compiled(rows(), digest=placeholder, subdomain=placeholder)


def converters(**by_field: Callable[[Any], Any]) -> Converters:
    """Prepare functions for `route_from`, each of which turns a driver's value into the value of a field."""
    return tuple((Row._fields.index(field), convert) for field, convert in by_field.items())


def route_from(row: Any, convert: Converters) -> Route:
    """Return the `Route` of a row that `statement` selected."""
    values = list(row)
    for index, function in convert:
        values[index] = function(values[index])
    return Route(Row(*values))


def list_from_json(text: str | None) -> list[str]:
    """Return the list that a JSON column holds. Both drivers return its text."""
    return [] if text is None or text == "[]" else list(json.loads(text))
