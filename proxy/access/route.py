"""The row that a request is decided by, and the one SQL statement that reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import FilteredRelation, Q

from credentials.errors import CannotOpen
from credentials.models import Endpoint
from credentials.vault.envelope import Binding, SealedRecord, WrappedKey, extras_of
from proxy.access.derived_token import DerivedRecord


class Route(NamedTuple):
    """An endpoint, its credential, and the presented token.

    `token_id` is None if the endpoint has no such token, and so are the fields after it up to `allowed_networks`, and
    `allow_minting` and `allowed_origins`. `format` is None if the endpoint has no sealed key. The fields of the derived
    token are as the driver returns them, since few requests need them.
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

    @property
    def derived(self) -> DerivedRecord | None:
        """The access token of a cloud credential, or None if none was ever asked for."""
        return None if self.derived_format is None else DerivedRecord.of(self[_FIRST_DERIVED:])

    @property
    def binding(self) -> Binding:
        """What the key is bound to. Raises `CannotOpen`."""
        return Binding(
            self.credential_id,
            self.endpoint_id,
            self.owner_id,
            self.provider,
            self.destination_url,
            self.header_name,
            self.header_template,
            self._extras(),
        )

    def _extras(self) -> str:
        """Raises `CannotOpen` if the row holds what no credential is saved with."""
        if self.kind == "static" and self.places == "[]" and self.parameters == "{}":
            return ""
        try:
            return extras_of(str(self.kind), json.loads(self.places), json.loads(self.parameters))
        except (TypeError, ValueError):
            raise CannotOpen from None

    @property
    def parameter_values(self) -> dict[str, str]:
        """The parameters of a cloud credential. The seal vouches for them, so open the key first."""
        values: dict[str, str] = json.loads(self.parameters)
        return values

    @property
    def sealed(self) -> SealedRecord:
        """The sealed record. Raises `CannotOpen` if there is none."""
        if self.format is None:
            raise CannotOpen
        wrap = WrappedKey(self.master_key_id, self.wrapped_dek, self.wrapped_dek_iv)
        return SealedRecord(self.format, wrap, self.ciphertext, self.iv)


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
    **{f"derived_{field}": f"credential__derived_token__{field}" for field in DerivedRecord._fields},
}
_FIRST_DERIVED = Route._fields.index("derived_format")

Converters = tuple[tuple[int, Callable[[Any], Any]], ...]


@cache
def statement(placeholder: str) -> str:
    """Return the SQL that reads one row in the order of `Route`. Its parameters are the digest, then the subdomain.

    `placeholder` is the driver's parameter marker. `%d` in it is replaced with the parameter's number.
    """
    query = (
        Endpoint.objects.order_by()
        .annotate(token=FilteredRelation("tokens", condition=Q(tokens__digest=b"digest")))
        .filter(subdomain="subdomain")
        .values_list(*(_PATHS[field] for field in Route._fields))
        .query
    )
    sql, parameters = query.get_compiler(using="default").as_sql()
    if len(parameters) != 2 or bytes(getattr(parameters[0], "obj", parameters[0])) != b"digest":
        raise AssertionError("The look-up no longer takes the digest and the subdomain in this order.")
    for number in (1, 2):
        sql = sql.replace("%s", placeholder.replace("%d", str(number)), 1)
    return str(sql)


def converters(**by_field: Callable[[Any], Any]) -> Converters:
    """Prepare functions for `route_from`, each of which turns a driver's value into the value of a field."""
    return tuple((Route._fields.index(field), convert) for field, convert in by_field.items())


def route_from(row: Any, convert: Converters) -> Route:
    """Return the `Route` of a row that `statement` selected."""
    values = list(row)
    for index, function in convert:
        values[index] = function(values[index])
    return Route(*values)


def list_from_json(text: str | None) -> list[str]:
    """Return the list that a JSON column holds. Both drivers return its text."""
    return [] if text is None or text == "[]" else list(json.loads(text))
