"""The OpenAPI document of the management API."""

from __future__ import annotations

from typing import Any

from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema
from ninja.operation import Operation

from credentials.api.access import AccessTokenAuth

_WITHOUT_BODY = frozenset({400, 401, 403, 411, 413, 429, 503})


def errors(*statuses: int) -> frozenset[int]:
    """The statuses of the errors that an operation may answer: `statuses`, and those of every operation."""
    return _WITHOUT_BODY | frozenset(statuses)


class Document(OpenAPISchema):
    """Ninja's document, which also says what scope each operation needs."""

    def operation_details(self, operation: Operation) -> dict[str, Any]:
        details: dict[str, Any] = super().operation_details(operation)
        scopes = [auth.scope for auth in operation.auth_callbacks if isinstance(auth, AccessTokenAuth)]
        if scopes:
            # OpenAPI 3.1 has scopes for schemes other than OAuth too.
            details["security"] = [{AccessTokenAuth.__name__: scopes}]
        return details


class ManagementAPI(NinjaAPI):
    """A NinjaAPI with operation ids that do not change with the name of a module. Generated clients use them.

    Its document is made once, which takes half a second of processor time, and is not to be changed.
    """

    def __init__(self, **options: Any) -> None:
        self._documents: dict[str, Document] = {}  # by the path before all others
        super().__init__(**options)

    def get_openapi_schema(
        self, *, path_prefix: str | None = None, path_params: dict[str, Any] | None = None
    ) -> OpenAPISchema:
        prefix = self.get_root_path(path_params or {}) if path_prefix is None else path_prefix
        if prefix not in self._documents:
            self._documents[prefix] = Document(self, prefix)
        return self._documents[prefix]

    def get_openapi_operation_id(self, operation: Operation) -> str:
        return f"credentials_api_{operation.view_func.__name__}"
