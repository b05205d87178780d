"""Only a few modules can open a sealed key: a check of the source code, so that no new path goes unnoticed."""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from django.conf import settings

from proxy.upstream.origin import Origin
from proxy.views import UpstreamTarget

ROOT: Path = settings.ROOT
PACKAGES = ("accounts", "credentials", "proxy", "strake")
SOURCES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if "migrations" not in path.parts
}

# Each name leads to a key. The modules listed here were reviewed. No other may use the name.
MAY_USE = {
    "open_key": {"proxy/unsealing.py", "proxy/upstream/renewals.py", "proxy/views.py"},
    "is_authentic": {"proxy/unsealing.py", "proxy/vault_check.py"},
    "unsealing": {
        "proxy/vault_check.py",
        "proxy/upstream/renewals.py",
        "proxy/views.py",
    },
    "unwrap": {"credentials/vault/unwrapping.py"},
    "decrypt": {"credentials/vault/unwrapping.py", "proxy/access/upload_capability.py", "proxy/unsealing.py"},
    "decrypt_into": {"credentials/vault/unwrapping.py", "proxy/unsealing.py"},
    "rewrap": {"credentials/vault/unwrapping.py", "credentials/vault/rotation.py"},
    "unwrapping": {"credentials/vault/rotation.py", "proxy/unsealing.py"},
    "AESGCM": {
        "credentials/vault/sealing.py",
        "credentials/vault/wrapping.py",
        "credentials/vault/unwrapping.py",
        "proxy/access/upload_capability.py",
        "proxy/unsealing.py",
    },
}


def names_in(tree: ast.Module) -> set[str]:
    """Return every identifier of a module, including attributes, imports, and strings for `getattr`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found.update((node.module or "").split("."), *(alias.name.split(".") for alias in node.names))
        elif isinstance(node, ast.Import):
            found.update(*(alias.name.split(".") for alias in node.names))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.]+", node.value):
            found.update(node.value.split("."))
    return found


@pytest.mark.parametrize("name", MAY_USE)
def test_only_reviewed_modules_can_open_keys(name: str) -> None:
    assert {path for path, tree in SOURCES.items() if name in names_in(tree)} == MAY_USE[name]


def test_only_wrapping_reads_master_keys() -> None:
    readers = {
        path
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr == "_keys")
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in {"key", "cipher"})
    }
    vault = ("keyring", "keyring_document", "wrapping", "unwrapping")
    assert readers == {f"credentials/vault/{module}.py" for module in vault}


def calls(name: str) -> list[tuple[str, str, ast.stmt]]:
    """Return every call of a function: its path, the enclosing function, and its statement."""
    found = []
    for path, tree in SOURCES.items():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for statement in ast.walk(function):
                if not isinstance(statement, ast.stmt):
                    continue
                # Skip the statements inside a compound statement: the walk reaches them later.
                expressions = [
                    field
                    for field in ast.iter_child_nodes(statement)
                    if not isinstance(field, ast.stmt | ast.ExceptHandler)
                ]
                found += [
                    (path, function.name, statement)
                    for node in expressions
                    for call in ast.walk(node)
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == name
                ]
    return found


def test_key_is_opened_into_a_local_variable() -> None:
    """Directly, or through `_open`, which only returns it."""
    opened = [(path, function, statement) for path, function, statement in calls("open_key") if "unsealing" not in path]
    returned = [statement for path, function, statement in opened if (path, function) == ("proxy/views.py", "_open")]
    assert returned
    assert all(isinstance(statement, ast.Return) for statement in returned)
    opened = [one for one in opened if one[2] not in returned] + calls("_open")
    assert sorted((path, function) for path, function, _ in opened) == [
        ("proxy/upstream/renewals.py", "_ask"),
        ("proxy/views.py", "resolve_target"),
    ]
    for _, _, statement in opened:
        assert isinstance(statement, ast.Assign)
        assert [type(target) for target in statement.targets] == [ast.Name]


def test_renewal_wipes_what_it_opens() -> None:
    """The secret and the request with it, in `finally`, whatever happens meanwhile."""
    (ask,) = (node for node in ast.walk(SOURCES["proxy/upstream/renewals.py"]) if getattr(node, "name", "") == "_ask")
    wiped = [
        ast.unparse(statement)
        for node in ast.walk(ask)
        if isinstance(node, ast.Try)
        for statement in node.finalbody
        if "wipe" in names_in(ast.Module([statement], []))
    ]
    assert sorted(wiped) == ["wipe(request.body)", "wipe(secret)"]


def test_opened_key_is_held_by_a_with_statement() -> None:
    holders = calls("resolve_target")
    assert {(path, function) for path, function, _ in holders} == {
        ("proxy/views.py", "forward"),
        ("proxy/websocket.py", "forward"),
    }
    for _, _, statement in holders:
        assert isinstance(statement, ast.With)
        (item,) = statement.items
        assert isinstance(item.optional_vars, ast.Name)


@pytest.mark.parametrize("fails", [False, True])
def test_opened_key_is_wiped_after_its_request(fails: bool) -> None:
    secret, header, target = bytearray(b"sk-opened"), bytearray(b"Bearer sk-opened"), bytearray(b"/?key=sk-opened")
    origin = Origin("https", "api.example.com", 443)
    route = cast(Any, None)  # it holds nothing that is opened
    opened = UpstreamTarget(origin, b"", target, (b"authorization", header), secret, route=route, hops=[])
    with suppress(RuntimeError), opened:
        assert any(secret)
        if fails:
            raise RuntimeError
    assert not any(secret)
    assert not any(header)
    assert not any(target)


def test_request_is_checked_before_its_key_is_copied() -> None:
    """A refused request leaves nothing to wipe."""
    body = SOURCES["proxy/upstream/request_head.py"].body
    (encode,) = (node for node in body if "encode_head" in vars(node).values())
    refusals = [node.lineno for node in ast.walk(encode) if isinstance(node, ast.Raise)]
    copies = [
        node.lineno
        for node in ast.walk(encode)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith((".join", "bytes", "bytearray"))
        and {"target", "key"} & {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    ]
    assert max(refusals) < min(copies)


@pytest.mark.parametrize("path", ["credentials/vault/sealing.py", "proxy/unsealing.py", "proxy/views.py"])
def test_modules_with_keys_cache_nothing(path: str) -> None:
    decorators = {
        name
        for node in ast.walk(SOURCES[path])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for decorator in node.decorator_list
        for name in names_in(ast.Module([ast.Expr(decorator)], []))
    }
    assert not decorators & {"lru_cache", "cache", "cached_property", "memoize"}
    module_level = [node for node in SOURCES[path].body if isinstance(node, ast.Assign | ast.AnnAssign)]
    assert all(isinstance(node.value, ast.Constant) for node in module_level), "no module-level state"
