"""The random edits are what they say."""

from __future__ import annotations

import pytest

from tests.mutations.operators import edits

SOURCE = '''
"""A docstring."""
from a import b

def function(x: int = 1) -> int:
    """Another."""
    if x < 3 and not x:
        return x + 1
    try:
        call(x, key=True)
    except ValueError:
        log("äöü", f"{x}")
    with lock:
        raise Error("a message stays")
'''


def mutants(line: int) -> set[str]:
    return {edit.apply(SOURCE).splitlines()[line - 1].strip() for edit in edits(SOURCE)[line]}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (5, {"def function(x: int = 2) -> int:", "def function(x: int = (0)) -> int:"}),
        (
            7,
            {
                "if (not (x < 3 and (not x))):",
                "if (x < 3 or not x):",
                "if (not x):",
                "if (x < 3):",
                "if (x <= 3) and not x:",
                "if x < 4 and not x:",
                "if x < (2) and not x:",
                "if x < 3 and (x):",
            },
        ),
        (8, {"return None", "return (x - 1)", "return x + 2", "return x + (0)"}),
        (10, {"pass", "call(x)", "call(x, key=False)"}),
        (12, {"raise", "pass", "log('äöüx', f\"{x}\")"}),
        (13, {"if True:"}),
        (14, {"pass"}),
    ],
)
def test_edits_of_a_line(line: int, expected: set[str]) -> None:
    assert mutants(line) == expected


def test_docstrings_and_imports_stay() -> None:
    assert edits(SOURCE).keys() <= {5, 7, 8, 10, 12, 13, 14}
