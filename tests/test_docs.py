"""The documents match the code: variables, commands, checks, error codes, files, rooms, links and promises."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import get_commands

from strake import __version__

ROOT: Path = settings.ROOT
PACKAGES = ("accounts", "credentials", "proxy", "strake")
ARCHITECTURE = ROOT / "docs" / "architecture.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
OPERATIONS = ROOT / "docs" / "operations.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
ENVIRONMENT_READERS = {"text", "number", "words", "secret", "origin", "choice"}
READS_ENVIRONMENT = ("strake/settings.py", "strake/data_dir.py")


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def code_words(text: str) -> set[str]:
    """The words in `backticks` outside of code blocks."""
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))


def first_cells(text: str) -> list[str]:
    """The first cell of every table row."""
    return re.findall(r"^\| (.+?) \|", text, flags=re.MULTILINE)


def variables_read() -> set[str]:
    """Every environment variable that Strake reads."""
    names: set[str] = set()
    for node in (node for file in READS_ENVIRONMENT for node in ast.walk(ast.parse((ROOT / file).read_text()))):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="env"), attr=reader), args=[ast.Constant(value=str(name)), *_]
            ) if reader in ENVIRONMENT_READERS:
                names |= {name, f"{name}_FILE"} if reader == "secret" else {name}
    return names - {"STRAKE_PROCESS"}  # Strake's own


def own_commands() -> set[str]:
    return {name for name, app in get_commands().items() if app in PACKAGES}


def check_ids() -> set[str]:
    ids = (
        re.findall(r"id=\"((?:accounts|credentials|proxy|strake)\.[EW]\d{3})\"", path.read_text()) for path in sources()
    )
    return {found for group in ids for found in group}


def error_codes() -> set[tuple[int, str]]:
    from proxy import errors

    def with_subclasses(error: type[errors.ProxyError]) -> list[type[errors.ProxyError]]:
        return [error, *(deeper for child in error.__subclasses__() for deeper in with_subclasses(child))]

    return {(error.status, error.code) for error in with_subclasses(errors.ProxyError)}


def test_environment_variables_are_found() -> None:
    assert {"STRAKE_HOME", "STRAKE_BASE_URL", "PORT", "DATABASE_URL_FILE", "STRAKE_SIGNUP"} <= variables_read()


def test_only_process_entries_touch_os_environ() -> None:
    # They set DJANGO_SETTINGS_MODULE, are the reader itself, wipe secrets, or pass the rest on to a command.
    entries = {"asgi.py", "wsgi.py", "env.py", "hardening.py", "keyring_command.py"}
    found = {path.name for path in sources() if re.search(r"os\.(environ|getenv)", path.read_text())}
    assert found <= entries


def test_configuration_page_lists_every_variable() -> None:
    listed = {word for cell in first_cells(CONFIGURATION.read_text()) for word in code_words(cell)}
    assert listed == variables_read()


def test_readme_lists_every_variable() -> None:
    listed = code_words((ROOT / "README.md").read_text())
    read = variables_read()
    assert {name for name in read if name.removesuffix("_FILE") not in read - {name}} <= listed


def test_operations_page_lists_every_command() -> None:
    section = OPERATIONS.read_text().split("\n## Commands\n")[1].split("\n## ")[0]
    listed = {word for cell in first_cells(section) for word in code_words(cell)}
    assert listed == own_commands()


def test_operations_page_lists_every_system_check() -> None:
    listed = {word for word in code_words(OPERATIONS.read_text()) if re.fullmatch(r"[a-z]+\.[EW]\d{3}", word)}
    assert listed == check_ids()


def test_operations_page_lists_every_error_code() -> None:
    listed = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", OPERATIONS.read_text(), flags=re.MULTILINE)
    assert {(int(status), code) for status, code in listed} == error_codes()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text())
    missing = [
        target for target in targets if "://" not in target and not (document.parent / target).resolve().exists()
    ]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(document: Path) -> None:
    named = {
        word for word in code_words(document.read_text()) if re.fullmatch(r"[\w./-]+/[\w.-]+\.(py|md|html|toml)", word)
    }
    assert not {name for name in named if not (ROOT / name).exists()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = re.findall(r"\bmake ([a-z]+)\b(?=[`\s]*(?:$|[`#]| T=| PORT))", document.read_text(), flags=re.MULTILINE)
    assert set(named) <= targets


# --- The architecture page -----------------------------------------------------------------------------------------

NOT_ROOMS = {"migrations", "management", "__pycache__"}
SELF_EXPLANATORY = {"__init__.py", "apps.py", "urls.py"}


def rooms_and_modules() -> set[str]:
    """The sub-packages of the four packages, such as `proxy/http/`, and the modules beside them."""
    found: set[str] = set()
    for package in PACKAGES:
        for path in (ROOT / package).iterdir():
            if path.is_dir() and path.name not in NOT_ROOMS and list(path.glob("*.py")):
                found.add(f"{package}/{path.name}/")
            elif path.suffix == ".py" and path.name not in SELF_EXPLANATORY:
                found.add(f"{package}/{path.name}")
    return found


def test_architecture_page_names_every_room() -> None:
    table = ARCHITECTURE.read_text().split("## Where is what")[1]
    assert not rooms_and_modules() - code_words(table), "say in docs/architecture.md what these are for"


def test_architecture_page_names_no_missing_path() -> None:
    tops = "|".join((*PACKAGES, "templates", "tests", "docs", "bench"))
    paths = {word for word in code_words(ARCHITECTURE.read_text()) if re.fullmatch(rf"(?:{tops})/[\w./-]*", word)}
    assert paths
    assert not {path for path in paths if not (ROOT / path).exists()}


# --- Releases and hooks --------------------------------------------------------------------------------------------


def test_changelog_starts_with_this_version() -> None:
    first = re.search(r"^## (\S+) — (?:unreleased|\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first
    assert first[1] == __version__


def test_pre_commit_hooks_are_steps_of_make_check() -> None:
    steps = re.findall(r"^\t(\$\(BIN\)/.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    hooks = re.findall(r"^ +entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    assert hooks
    assert not set(hooks) - {step.replace("$(BIN)", ".venv/bin") for step in steps}


# --- The promises --------------------------------------------------------------------------------------------------


def promises() -> dict[str, set[str]]:
    """Promise id → the tests that SECURITY.md names for it, as `path::name`."""
    rows = re.findall(r"^\| (P\d+) \| .+? \| (.+) \|$", (ROOT / "SECURITY.md").read_text(), flags=re.MULTILINE)
    return {promise: set(re.findall(r"`([^`]+)`", tests)) for promise, tests in rows}


def test_every_promise_names_a_test() -> None:
    table = promises()
    assert list(table) == [f"P{number}" for number in range(1, 25)]
    assert not [promise for promise, tests in table.items() if not tests]


def test_security_page_shows_every_promise() -> None:
    page = (ROOT / "templates" / "strake" / "security.html").read_text()
    assert sorted(re.findall(r'<dt id="p(\d+)">', page), key=int) == [promise[1:] for promise in promises()]


@pytest.mark.parametrize(
    ("promise", "tests"), promises().items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_tests_named_by_a_promise_exist(promise: str, tests: set[str]) -> None:
    assert not {test for test in tests if not is_a_test(test)}


def is_a_test(test: str) -> bool:
    path, _, name = test.partition("::")
    file = ROOT / path
    if not file.is_file():
        return False
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return any(isinstance(node, functions) and node.name == name for node in ast.parse(file.read_text()).body)
