"""The reference page of the management API, rendered from its OpenAPI document without third-party scripts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from credentials.api.routes import api

_FORM = "application/x-www-form-urlencoded"
STATUSES = {
    "400": "The body isn't valid JSON.",
    "401": "The access token is missing, wrong, expired or revoked.",
    "403": "The access token lacks a scope, the network isn't allowed, or a quota is reached.",
    "404": "It doesn't exist, or belongs to someone else.",
    "411": "The request has no Content-Length.",
    "412": "Someone else changed it meanwhile.",
    "413": "The body is too large.",
    "422": "A field is wrong. The message names it.",
    "429": "Too many requests, or too many wrong tokens.",
    "502": "The provider couldn't check the key. Nothing was saved.",
    "503": "Strake is busy, or can't reach one of its stores.",
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a request body, or one parameter in the query or the headers."""

    name: str
    kind: str
    required: bool
    description: str
    is_header: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One operation of the API as the page shows it.

    `response` is an example, or "" without a body. `scope` is "" if the operation needs no access token.
    """

    anchor: str
    method: str
    path: str
    summary: str
    description: str
    scope: str
    parameters: list[Field]
    fields: list[Field]
    errors: list[str]
    status: str
    response: str
    curl: str


@require_safe
def api_docs(request: HttpRequest) -> HttpResponse:
    context = {"calls": calls(), "statuses": STATUSES.items(), "base": f"{settings.STRAKE_BASE_URL}/api/v1"}
    return render(request, "credentials/api_docs.html", context)


@cache
def calls() -> list[Call]:
    """All operations, in the order of the document."""
    document = api.get_openapi_schema(path_prefix="/api/v1")
    schemas = document["components"]["schemas"]
    return [
        _call(path, method, operation, schemas)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def _call(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]) -> Call:
    is_form = _FORM in operation.get("requestBody", {}).get("content", {})
    body = _schema(operation.get("requestBody", {}))
    security = operation.get("security", [])
    fields = _fields(_resolve(body, schemas), schemas) if body else []
    status = next(code for code in map(str, operation["responses"]) if code.startswith("2"))
    response = _schema(operation["responses"].get(int(status), {}))
    return Call(
        anchor=operation["operationId"],
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        description=operation.get("description", ""),
        scope=next((scope for scheme in security for scopes in scheme.values() for scope in scopes), ""),
        parameters=[
            Field(
                one["name"],
                _kind(one["schema"]),
                one["required"],
                _description(one["schema"]),
                is_header=one["in"] == "header",
            )
            for one in operation["parameters"]
            if one["in"] != "path"
        ],
        fields=fields,
        errors=sorted(code for code in map(str, operation["responses"]) if not code.startswith("2")),
        status=status,
        response=json.dumps(_example(response, schemas), indent=2, ensure_ascii=False) if response else "",
        curl=_form_curl(path, _resolve(body, schemas)) if is_form else _curl(path, method.upper(), body, schemas),
    )


def _schema(part: dict[str, Any]) -> dict[str, Any]:
    content = part.get("content", {})
    schema: dict[str, Any] = (content.get("application/json") or content.get(_FORM) or {}).get("schema", {})
    return schema


def _resolve(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    if "allOf" in schema:
        return _resolve(schema["allOf"][0], schemas)
    if "$ref" in schema:
        return _resolve(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    return schema


def _fields(schema: dict[str, Any], schemas: dict[str, Any]) -> list[Field]:
    required = schema.get("required", [])
    return [
        Field(name, _kind(_resolve(field, schemas)), name in required, _description(field))
        for name, field in schema.get("properties", {}).items()
    ]


def _description(field: dict[str, Any]) -> str:
    """The description of a field, its bounds and an example."""
    bounds = next(option for option in field.get("anyOf", [field]) if option.get("type") != "null")
    sentences = [field.get("description", "")]
    if "minimum" in bounds and "maximum" in bounds:
        sentences.append(f"From {bounds['minimum']:,} to {bounds['maximum']:,}.")
    if "examples" in field:
        sentences.append(f"For example {json.dumps(field['examples'][0])}.")
    return " ".join(sentence for sentence in sentences if sentence)


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"] if option.get("type") != "null")
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}s"
    if "enum" in schema:
        return " or ".join(schema["enum"])
    return {"integer": "whole number", "boolean": "true or false"}.get(schema.get("type", ""), "string")


def _example(schema: dict[str, Any], schemas: dict[str, Any], name: str = "") -> Any:
    """A value that conforms to `schema`: one of its examples if it has any, else a sample for `name`."""
    schema = _resolve(schema, schemas)
    if schema.get("examples"):
        return schema["examples"][0]
    if "properties" in schema:
        return {key: _example(value, schemas, key) for key, value in schema["properties"].items()}
    if schema.get("type") == "array":
        return [_example(schema["items"], schemas)]
    if "anyOf" in schema:
        return None
    if schema.get("format") == "date-time":
        return "2026-11-24T12:00:00Z"
    if schema.get("type") in {"integer", "boolean"}:
        return schema.get("default", 0)
    return _SAMPLES.get(name, "…")


_SAMPLES = {
    "email": "ann@example.org",
    "subdomain": "k3v9q2m7x1ab",
    "label": "Editor",
    "provider": "openai",
    "url": f"{settings.STRAKE_BASE_URL}/p/k3v9q2m7x1ab",
    "destination_url": "https://api.openai.com",
    "id": "ctok_5hV0cPq2mXkZ81aB",
    "token_id": "ctok_5hV0cPq2mXkZ81aB",
    "preview": "strk_8Kf2…",
    "plaintext": "strk_…",
}


def _form_curl(path: str, body: dict[str, Any]) -> str:
    """The line for an operation that takes a form, and no access token."""
    samples = ((name, field.get("examples", ["…"])[0]) for name, field in body["properties"].items())
    fields = [f"-d '{name}={sample}'" for name, sample in samples]
    return " \\\n  ".join([f"curl {settings.STRAKE_BASE_URL}{path}", *fields])


def _curl(path: str, method: str, body: dict[str, Any], schemas: dict[str, Any]) -> str:
    path = re.sub(r"\{(\w+)\}", lambda name: f"${name[1].upper()}", path)
    lines = [f"curl {settings.STRAKE_BASE_URL}{path}", '-H "Authorization: Bearer $STRAKE_ACCESS_TOKEN"']
    if method not in {"GET", "POST"} or (method == "POST" and not body):
        lines.append(f"-X {method}")
    if body:
        resolved = _resolve(body, schemas)
        keys = resolved.get("required") or list(resolved["properties"])[:1]
        sample = {key: _example(resolved["properties"][key], schemas, key) for key in keys}
        lines.append("--json " + f"'{json.dumps(sample, ensure_ascii=False)}'")
    return " \\\n  ".join(lines)
