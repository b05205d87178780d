"""The documents say what is: every variable, command, check and error code, every link, and every promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import get_commands

ROOT: Path = settings.ROOT
PACKAGES = ("accounts", "credentials", "proxy", "strake")
CONFIGURATION = ROOT / "docs" / "configuration.md"
OPERATIONS = ROOT / "docs" / "operations.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
ENVIRONMENT_READERS = {"text", "number", "switch", "words", "secret", "origin"}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def code_words(text: str) -> set[str]:
    """What stands in `backticks` outside of code blocks."""
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))


def first_cells(text: str) -> list[str]:
    """The first cell of every table row."""
    return re.findall(r"^\| (.+?) \|", text, flags=re.MULTILINE)


def variables_read() -> set[str]:
    """Every environment variable that the settings read."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / "strake" / "settings.py").read_text())):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="env"), attr=reader), args=[ast.Constant(value=str(name)), *_]
            ) if reader in ENVIRONMENT_READERS:
                names |= {name, f"{name}_FILE"} if reader == "secret" else {name}
    return names


def own_commands() -> set[str]:
    return {name for name, app in get_commands().items() if app in PACKAGES}


def check_ids() -> set[str]:
    ids = (
        re.findall(r"id=\"((?:accounts|credentials|proxy|strake)\.[EW]\d{3})\"", path.read_text()) for path in sources()
    )
    return {found for group in ids for found in group}


def error_codes() -> set[tuple[int, str]]:
    from proxy import errors

    def tree(kind: type[errors.ProxyError]) -> list[type[errors.ProxyError]]:
        return [kind, *(deeper for child in kind.__subclasses__() for deeper in tree(child))]

    return {(kind.status, kind.code) for kind in tree(errors.ProxyError)}


def test_the_settings_read_variables_in_a_form_these_tests_understand():
    assert {"STRAKE_BASE_URL", "PORT", "DATABASE_URL_FILE", "STRAKE_SIGNUP"} <= variables_read()


def test_only_the_settings_and_the_process_entries_read_the_environment():
    # They set DJANGO_SETTINGS_MODULE, are the reader itself, or wipe what it has read.
    entries = {"asgi.py", "gunicorn_config.py", "env.py", "hardening.py"}
    found = {path.name for path in sources() if re.search(r"os\.(environ|getenv)", path.read_text())}
    assert found <= entries


def test_every_variable_is_in_the_configuration_page_and_nothing_else_is():
    listed = {word for cell in first_cells(CONFIGURATION.read_text()) for word in code_words(cell)}
    assert listed == variables_read()


def test_every_variable_is_in_the_configuration_table_of_the_readme():
    listed = code_words((ROOT / "README.md").read_text())
    assert {name.removesuffix("_FILE") for name in variables_read()} <= listed


def test_every_command_is_in_the_operators_page_and_nothing_else_is():
    section = OPERATIONS.read_text().split("\n## Commands\n")[1].split("\n## ")[0]
    listed = {word for cell in first_cells(section) for word in code_words(cell)}
    assert listed == own_commands()


def test_every_system_check_is_in_the_operators_page_and_nothing_else_is():
    listed = {word for word in code_words(OPERATIONS.read_text()) if re.fullmatch(r"[a-z]+\.[EW]\d{3}", word)}
    assert listed == check_ids()


def test_every_error_code_of_the_proxy_is_in_the_operators_page_with_its_status():
    listed = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", OPERATIONS.read_text(), flags=re.MULTILINE)
    assert {(int(status), code) for status, code in listed} == error_codes()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document: Path):
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text())
    missing = [
        target for target in targets if "://" not in target and not (document.parent / target).resolve().exists()
    ]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_a_document_names_exists(document: Path):
    named = {
        word for word in code_words(document.read_text()) if re.fullmatch(r"[\w./-]+/[\w.-]+\.(py|md|html|toml)", word)
    }
    assert not {name for name in named if not (ROOT / name).exists()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_a_document_names_exists(document: Path):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = re.findall(r"\bmake ([a-z]+)\b(?=[`\s]*(?:$|[`#]| T=| PORT))", document.read_text(), flags=re.MULTILINE)
    assert set(named) <= targets


def test_every_module_has_its_place_in_the_architecture_page():
    table = (ROOT / "docs" / "architecture.md").read_text().split("## Where is what")[1]
    self_explaining = {"__init__.py", "apps.py", "urls.py"}
    modules = {
        str(path.relative_to(ROOT))
        for path in sources()
        if path.name not in self_explaining and not {"migrations", "commands"} & set(path.parts)
    }
    assert not modules - code_words(table), "say in docs/architecture.md what these are for"


# --- The promises --------------------------------------------------------------------------------------------------


def promises() -> dict[str, set[str]]:
    """Promise id → the tests that SECURITY.md names for it, as `path::name`."""
    rows = re.findall(r"^\| (P\d+) \| .+? \| (.+) \|$", (ROOT / "SECURITY.md").read_text(), flags=re.MULTILINE)
    return {promise: set(re.findall(r"`([^`]+)`", tests)) for promise, tests in rows}


def test_every_promise_names_a_test():
    table = promises()
    assert list(table) == [f"P{number}" for number in range(1, 20)]
    assert not [promise for promise, tests in table.items() if not tests]


def test_every_promise_is_on_the_page_that_people_see():
    page = (ROOT / "templates" / "strake" / "security.html").read_text()
    assert sorted(re.findall(r'<dt id="p(\d+)">', page), key=int) == [promise[1:] for promise in promises()]


@pytest.mark.parametrize(
    ("promise", "tests"), promises().items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_test_a_promise_names_exists(promise: str, tests: set[str]):
    assert not {test for test in tests if not is_a_test(test)}


def is_a_test(test: str) -> bool:
    path, _, name = test.partition("::")
    file = ROOT / path
    if not file.is_file():
        return False
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return any(isinstance(node, functions) and node.name == name for node in ast.parse(file.read_text()).body)
