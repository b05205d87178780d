"""Rules about the source code that linters cannot check."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from django.apps import apps
from django.conf import settings
from django.template import Engine
from django.template.loader import get_template
from django.urls import URLResolver, get_resolver

from proxy.errors import UpstreamUnreachable

ROOT: Path = settings.ROOT
PACKAGES = ("accounts", "credentials", "proxy", "strake")
TEMPLATES = sorted((ROOT / "templates").rglob("*.*"))
PAGES = [path for path in TEMPLATES if path.suffix == ".html"]


def sources(*folders: str) -> list[Path]:
    """Return the modules of these folders without migrations."""
    return [
        path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")) if "migrations" not in path.parts
    ]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- Layers --------------------------------------------------------------------------------------------------------


def test_every_import_contract_holds() -> None:
    # In a child process, since the tool configures logging.
    command = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_contracts_behind_promises_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {contract["name"]: contract for contract in project["tool"]["importlinter"]["contracts"]}
    assert contracts["Apps are layered: accounts, credentials, proxy, strake"]["layers"] == [
        "strake",
        "proxy",
        "credentials",
        "accounts",
    ]
    crypto = contracts[
        "Only sealing, unsealing, capabilities, cloud assertions and checkpoints touch cryptographic primitives"
    ]
    assert set(crypto["ignore_imports"]) == {
        "accounts.verify_audit -> cryptography",
        "credentials.cloud_tokens -> cryptography",
        "credentials.vault.sealing -> cryptography",
        "credentials.vault.unwrapping -> cryptography",
        "credentials.vault.wrapping -> cryptography",
        "proxy.access.upload_capability -> cryptography",
        "proxy.audit_checkpoints -> cryptography",
        "proxy.audit_key -> cryptography",
        "proxy.unsealing -> cryptography",
    }
    opens_keys = {"credentials.vault.unwrapping", "credentials.vault.rotation", "proxy.unsealing"}
    wrap_service = contracts["The wrap service opens nothing"]
    assert wrap_service["source_modules"] == ["proxy.wrap_service"]
    assert set(wrap_service["forbidden_modules"]) >= opens_keys
    web = contracts["The web half has no path to the keyring, to the opener or to the key that signs checkpoints"]
    assert set(web["source_modules"]) >= {
        "accounts",
        "credentials.models",
        "strake.processes.web_server",
        "strake.urls",
        "strake.wsgi",
    }
    assert set(web["forbidden_modules"]) >= opens_keys | {
        "credentials.vault.keyring",
        "credentials.vault.wrapping",
        "proxy.audit_key",
    }
    client = contracts[
        "Only key check, wrap client, connection test, audit receivers, webhooks and doctor import an HTTP client"
    ]
    assert set(client["forbidden_modules"]) == {"aiohttp", "httpx", "httpcore", "requests", "urllib3"}
    assert {entry.partition(" ")[0] for entry in client["ignore_imports"]} == {
        "credentials.audit_receivers",
        "credentials.deadline_transport",
        "credentials.key_check",
        "credentials.vault.socket_wrapper",
        "credentials.webhooks.delivery",
        "proxy.connection_test",
        "strake.doctor.front",
    }
    opener = contracts["Only the proxy imports the opener of sealed keys"]
    assert (opener["protected_modules"], opener["allowed_importers"]) == (["proxy.unsealing"], ["proxy"])


def test_three_modules_import_the_opener() -> None:
    """The contract allows the whole proxy to import it."""
    importers = import_graph().find_modules_that_directly_import("proxy.unsealing")
    assert importers == {"proxy.views", "proxy.upstream.renewals", "proxy.vault_check"}


def test_no_module_uses_the_standard_http_clients() -> None:
    """The contract about HTTP clients names other packages only."""
    clients = re.compile(
        r"^\s*(?:from|import) (?:http\.client|http import client|urllib\.request|urllib import request)", re.MULTILINE
    )
    assert not [relative(path) for path in sources(*PACKAGES) if clients.search(path.read_text())]


def test_every_app_with_models_has_migrations() -> None:
    """`makemigrations --check` ignores an app without a migrations package."""
    for config in apps.get_app_configs():
        if config.name in PACKAGES and list(config.get_models()):
            assert (Path(config.path) / "migrations" / "__init__.py").is_file(), config.name


# --- Imports -------------------------------------------------------------------------------------------------------

# Imports that exist for annotations alone, and would close a circle.
TYPE_IMPORTS = {("accounts.actors", "accounts.models")}  # an actor holds a User, and its queryset filters by actor


@cache
def import_graph() -> grimp.ImportGraph:
    """Return the imports between modules, including those inside functions and under TYPE_CHECKING."""
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = import_graph()
    imports = {
        module: {
            imported
            for imported in graph.find_modules_directly_imported_by(module)
            if (module, imported) not in TYPE_IMPORTS
        }
        for module in graph.modules
    }
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_type_imports_are_only_for_types() -> None:
    without = grimp.build_graph(*PACKAGES, cache_dir=None, exclude_type_checking_imports=True)
    for importer, imported in TYPE_IMPORTS:
        assert import_graph().direct_import_exists(importer=importer, imported=imported)
        assert not without.direct_import_exists(importer=importer, imported=imported)


# Import contracts cannot see code that is named by a string. Django resolves these at startup.
RESOLVED_BY_DJANGO = {"strake/settings.py", "strake/log_lines.py", "strake/page_urls.py", "accounts/apps.py"}
NAMED_BY_STRING = {
    ("accounts/sessions/service.py", "accounts.backends.LinkBackend"),  # Django stores this name in the session
}


def names_an_object(text: str) -> bool:
    """True for "package.module.name" and "package.module:name" if that module defines that name."""
    module, _, name = text.replace(":", ".").rpartition(".")
    if module.partition(".")[0] not in PACKAGES or not name.isidentifier():
        return False
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    definition = re.compile(rf"^(?:class |def |async def )?{name}\b", re.MULTILINE)
    return file.is_file() and definition.search(file.read_text()) is not None


def test_no_code_is_named_by_a_string() -> None:
    named = {
        (relative(path), node.value)
        for path in sources(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and names_an_object(node.value)
    }
    assert {(path, name) for path, name in named if path not in RESOLVED_BY_DJANGO} == NAMED_BY_STRING


def test_modules_imported_by_name_come_from_settings() -> None:
    """`import_module` takes a setting, never a constant or a built name."""
    calls = [
        (relative(path), ast.unparse(node.args[0]))
        for path in sources(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {"import_module", "__import__"}
    ]
    assert [call for call in calls if not call[1].startswith("settings.")] == []


# --- Errors --------------------------------------------------------------------------------------------------------


def drawn_classes(text: str) -> dict[str, str | None]:
    """Return the classes of the tree drawn in a docstring, each with its parent."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    lines = text.splitlines()
    for previous, line in itertools.pairwise(lines):
        branch = re.match(r"((?:│   |    )*)[├└]── (\w+)", line)
        if branch is None:
            continue
        if not path:
            path = [previous.split()[0]]
            parents[path[0]] = None
        del path[len(branch[1]) // 4 + 1 :]
        parents[branch[2]] = path[-1]
        path.append(branch[2])
    return parents


@pytest.mark.parametrize("name", ["accounts.errors", "credentials.errors", "proxy.errors"])
def test_error_modules_draw_their_real_tree(name: str) -> None:
    module = importlib.import_module(name)
    errors = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == name]
    real = {
        error.__name__: next((base.__name__ for base in error.__bases__ if base.__module__ == name), None)
        for error in errors
        if issubclass(error, Exception)
    }
    assert drawn_classes(module.__doc__ or "") == real


def test_connect_failures_are_drawn() -> None:
    """This module extends the tree of another, at the class at its root."""
    module = importlib.import_module("proxy.connect_failures")
    drawn = drawn_classes(module.__doc__ or "")
    assert drawn.pop("UpstreamUnreachable") is None
    assert drawn == {error.__name__: "UpstreamUnreachable" for error in UpstreamUnreachable.__subclasses__()}


# --- Ceilings ------------------------------------------------------------------------------------------------------
# Lower a number when the count falls. To raise one, give the reason in the commit.

CEILINGS = {
    r"#.*\bnoqa\b": 30,
    r"#.*\btype: ignore\b": 15,
    r"#.*\bpragma: no cover\b": 0,
    r"\bmark_safe\b": 0,
    r"\bcsrf_exempt\b": 2,  # the import and the use in accounts/notices/views.py, for RFC 8058
    r"\|\s*safe\b": 0,
    r"\bautoescape off\b": 0,
}
MAX_LINES = 400


@pytest.mark.parametrize("suppression", CEILINGS)
def test_suppressions_stay_below_their_ceiling(suppression: str) -> None:
    files = [*sources(*PACKAGES), ROOT / "manage.py", *PAGES]
    found = [f"{relative(path)}: {line}" for path in files for line in re.findall(suppression, path.read_text())]
    assert len(found) <= CEILINGS[suppression], "\n".join(found)


def test_no_module_is_over_400_lines() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in sources(*PACKAGES)}
    assert not {path: length for path, length in lengths.items() if length > MAX_LINES}


# --- Templates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TEMPLATES, ids=relative)
def test_every_template_compiles(path: Path) -> None:
    get_template(str(path.relative_to(ROOT / "templates")))


INLINE = {
    "script without src": re.compile(r"<script(?![^>]*\bsrc=)", re.IGNORECASE),
    "style element": re.compile(r"<style\b", re.IGNORECASE),
    "style attribute": re.compile(r"<[^>]*\sstyle\s*=", re.IGNORECASE),
    "event handler attribute": re.compile(r"<[^>]*\son[a-z]+\s*=", re.IGNORECASE),
    "javascript: URL": re.compile(r"(?:href|src|action)\s*=\s*[\"']?\s*javascript:", re.IGNORECASE),
    "resource of another host": re.compile(
        r"<(?:script|img|iframe|link|source|video|audio|use|object|embed)\b[^>]*(?:src|href|data)\s*=\s*[\"']?(?:https?:)?//",
        re.IGNORECASE,
    ),
}


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_templates_obey_the_content_security_policy(path: Path) -> None:
    text = re.sub(r"\{#.*?#\}|\{% comment .*?%\}.*?\{% endcomment %\}", "", path.read_text(), flags=re.DOTALL)
    assert not [name for name, pattern in INLINE.items() if pattern.search(text)]


def test_content_security_policy_allows_only_itself() -> None:
    directives = settings.CONTENT_SECURITY_POLICY["DIRECTIVES"]
    assert directives["default-src"] == ["'none'"]
    allowed = {source for values in directives.values() for source in values}
    assert allowed == {"'none'", "'self'", "http://localhost:8000/static/"}


# --- Layers of templates -------------------------------------------------------------------------------------------
# Shared templates (base.html, components/, emails/) belong to the lowest app, whose `ui` library renders them.

LAYERS = ("accounts", "credentials", "proxy", "strake")
NAMES_IN_TEMPLATE = {
    "template": re.compile(r"""{%\s*(?:extends|include)\s+["']([^"']+)["']"""),
    "route": re.compile(r"""{%\s*url\s+["']([^"']+)["']"""),
    "library": re.compile(r"{%\s*load\s+(.+?)\s*%}"),
}


def layer_of(package: str) -> int:
    """The layer of a package. Shared templates and other projects' modules are in the lowest layer."""
    return LAYERS.index(package) if package in LAYERS else 0


def route_modules(resolver: URLResolver | None = None, namespace: str = "") -> Iterator[tuple[str, str]]:
    """The name of every route, and the module of its view."""
    for pattern in (resolver or get_resolver()).url_patterns:
        if isinstance(pattern, URLResolver):
            yield from route_modules(pattern, f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace)
        else:
            yield f"{namespace}{pattern.name}", getattr(pattern.callback, "__module__", "")


@cache
def layers() -> dict[str, dict[str, int]]:
    """The layer of every template, route and template library, by kind and name."""
    templates = [path.relative_to(ROOT / "templates") for path in TEMPLATES]
    libraries = Engine.get_default().libraries
    return {
        "template": {str(path): layer_of(path.parts[0]) for path in templates},
        "route": {name: layer_of(module.partition(".")[0]) for name, module in route_modules()},
        "library": {name: layer_of(module.partition(".")[0]) for name, module in libraries.items()},
    }


def names_in_template(text: str) -> Iterator[tuple[str, str]]:
    """The kind and name of everything that a template names."""
    for kind, pattern in NAMES_IN_TEMPLATE.items():
        yield from ((kind, name) for found in pattern.findall(text) for name in found.split())


def names_in_module(text: str) -> Iterator[tuple[str, str]]:
    """The kind and name of every template that a module names, and of every route that it reverses."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and node.value in layers()["template"]:
            yield "template", str(node.value)
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in {"reverse", "redirect", "see_other"}:
                yield "route", str(node.args[0].value)


def names_above(layer: int, names: Iterator[tuple[str, str]]) -> list[str]:
    return [f"{kind} {name}" for kind, name in names if layers()[kind].get(name, 0) > layer]


@pytest.mark.parametrize("path", TEMPLATES, ids=relative)
def test_no_template_names_a_higher_layer(path: Path) -> None:
    layer = layers()["template"][str(path.relative_to(ROOT / "templates"))]
    assert not names_above(layer, names_in_template(path.read_text()))


@pytest.mark.parametrize("package", LAYERS)
def test_no_module_names_a_template_of_a_higher_layer(package: str) -> None:
    found = {
        relative(path): names_above(layer_of(package), names_in_module(path.read_text())) for path in sources(package)
    }
    assert not {path: names for path, names in found.items() if names}
