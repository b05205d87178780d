"""The catalogue of mutations fits the code. `python -m tests.mutations` applies them."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.mutations.catalogue import all_mutations
from tests.mutations.mutation import ROOT, Mutation, promises

MUTATIONS = list(all_mutations())
IDS = [f"{mutation.promise or '-'} {mutation.summary}" for _, mutation in MUTATIONS]


@cache
def functions_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def exists(test: str) -> bool:
    path, _, name = test.partition("::")
    return (ROOT / path).is_file() and (not name or name.partition("[")[0].rpartition("::")[2] in functions_in(path))


@pytest.mark.parametrize(("path", "mutation"), MUTATIONS, ids=IDS)
def test_mutation_applies(path: str, mutation: Mutation) -> None:
    text = (ROOT / path).read_text() if (ROOT / path).is_file() else ""
    count = text.count(mutation.before)
    if count != 1:
        pytest.fail(
            f"{path} holds this text {count} times instead of once:\n\n{mutation.before}\n\n"
            f"Fit the mutation {mutation.summary!r} in tests/mutations/of/ to the code.",
            pytrace=False,
        )
    assert mutation.after != mutation.before
    if path.endswith(".py"):
        ast.parse(text.replace(mutation.before, mutation.after))


@pytest.mark.parametrize(("path", "mutation"), MUTATIONS, ids=IDS)
def test_tests_of_a_mutation_exist(path: str, mutation: Mutation) -> None:
    tests = mutation.tests_in(ROOT)
    assert tests
    assert [test for test in tests if not exists(test)] == []


def test_every_promise_has_a_mutation() -> None:
    assert set(promises()) == {mutation.promise for _, mutation in MUTATIONS} - {""}
