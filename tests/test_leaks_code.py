"""Who may open a sealed key, by name: read from the source, so that a new path cannot be added unnoticed."""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from pathlib import Path

import pytest
from django.conf import settings

from proxy.upstream import Origin
from proxy.views import Addressed

ROOT: Path = settings.ROOT
PACKAGES = ("accounts", "credentials", "proxy", "strake")
SOURCES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if "migrations" not in path.parts
}

# Each name leads to a key. Whoever is listed here has been looked at; nobody else may name it.
MAY_NAME = {
    "open_key": {"proxy/unsealing.py", "proxy/views.py"},
    "is_authentic": {"proxy/unsealing.py", "proxy/verification.py"},
    "unsealing": {"proxy/views.py", "proxy/verification.py"},
    "unwrap": {"credentials/sealing.py", "proxy/unsealing.py"},
    "rewrap": {"credentials/sealing.py", "credentials/rotation.py"},
    "AESGCM": {"credentials/sealing.py", "proxy/unsealing.py"},
}


def names_in(tree: ast.Module) -> set[str]:
    """Every identifier a module uses, also as an attribute, an import, or a string that could be looked up."""
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
            found.update(node.value.split("."))  # for getattr and import_module
    return found


@pytest.mark.parametrize("name", MAY_NAME)
def test_only_these_modules_name_what_opens_keys(name: str):
    assert {path for path, tree in SOURCES.items() if name in names_in(tree)} == MAY_NAME[name]


def test_only_sealing_and_the_keyring_take_a_master_key_out_of_the_keyring():
    takers = {
        path
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr == "_keys")
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "key")
    }
    assert takers == {"credentials/keyring.py", "credentials/sealing.py"}


def calls(name: str) -> list[tuple[str, str, ast.stmt]]:
    """Every call of a function: path, the function around it, and the statement it stands in."""
    found = []
    for path, tree in SOURCES.items():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for statement in ast.walk(function):
                if not isinstance(statement, ast.stmt):
                    continue
                # Of a compound statement only its own expressions, not the statements inside.
                own = [
                    field
                    for field in ast.iter_child_nodes(statement)
                    if not isinstance(field, ast.stmt | ast.ExceptHandler)
                ]
                found += [
                    (path, function.name, statement)
                    for node in own
                    for call in ast.walk(node)
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == name
                ]
    return found


def test_a_key_is_opened_into_a_local_variable_of_one_function():
    opened = [(path, function, statement) for path, function, statement in calls("open_key") if "unsealing" not in path]
    ((path, function, statement),) = opened
    assert (path, function) == ("proxy/views.py", "addressed")
    assert isinstance(statement, ast.Assign)
    assert [type(target) for target in statement.targets] == [ast.Name]


def test_an_opened_key_lives_in_the_handler_of_one_request_and_is_wiped_on_leaving():
    held = calls("addressed")
    assert {(path, function) for path, function, _ in held} == {
        ("proxy/views.py", "forward"),
        ("proxy/websocket.py", "forward"),
    }
    for _, _, statement in held:
        assert isinstance(statement, ast.With)
        (item,) = statement.items
        assert isinstance(item.optional_vars, ast.Name)


@pytest.mark.parametrize("how", ["well", "by an error"])
def test_the_memory_of_an_opened_key_is_overwritten_however_its_request_ends(how: str):
    secret, header = bytearray(b"sk-opened"), bytearray(b"Bearer sk-opened")
    opened = Addressed(Origin("https", "api.example.com", 443), b"", b"/", (b"authorization", header), secret)
    with suppress(RuntimeError), opened:
        assert any(secret)
        if how == "by an error":
            raise RuntimeError
    assert not any(secret)
    assert not any(header)


@pytest.mark.parametrize("path", ["credentials/sealing.py", "proxy/unsealing.py", "proxy/views.py"])
def test_nothing_around_the_key_is_cached(path: str):
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
