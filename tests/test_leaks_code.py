"""Who may open a sealed key, by name: read from the source, so that a new path cannot be added unnoticed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from django.conf import settings

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


def opener_calls() -> list[tuple[str, ast.AST, ast.AST]]:
    """Where `open_key` is called outside its own module: path, enclosing function, statement."""
    found = []
    for path, tree in SOURCES.items():
        if path == "proxy/unsealing.py":
            continue
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            found += [
                (path, function, statement)
                for statement in ast.walk(function)
                if isinstance(statement, ast.stmt)
                and not hasattr(statement, "body")
                and any(
                    isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open_key"
                    for node in ast.walk(statement)
                )
            ]
    return found


def test_an_opened_key_is_a_local_variable_of_the_one_view():
    ((path, function, statement),) = opener_calls()
    assert path == "proxy/views.py"
    assert isinstance(function, ast.AsyncFunctionDef)
    assert function.name == "forward"
    assert isinstance(statement, ast.Assign)
    (target,) = statement.targets
    assert isinstance(target, ast.Name)
    secret = target.id
    for node in ast.walk(function):
        assert not isinstance(node, ast.Global | ast.Nonlocal)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
            holds = {name.id for name in ast.walk(node.value or node) if isinstance(name, ast.Name)}
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if secret in holds:  # what is made of the key is again a local variable
                assert all(isinstance(each, ast.Name | ast.Tuple) for each in targets)
        if isinstance(node, ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef) and node is not function:
            assert secret not in {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}, "not in a closure"


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
