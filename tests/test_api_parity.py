"""Every service that a page reaches is one that the management API reaches too."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator
from importlib import import_module
from types import FunctionType, ModuleType

from django.urls import URLPattern, URLResolver

from credentials.api import routes
from strake import api, page_urls

# Pages without a call of the API, and why.
ONLY_IN_A_BROWSER = {
    "accounts.access_tokens.create": "a stolen access token could make others that outlive it",
    "accounts.users.delete_account": "a person types their email address after a recent sign-in",
    "accounts.device_grants.find": "a person decides in a browser whether a program gets an access token",
    "accounts.device_grants.allow": "the same",
    "accounts.device_grants.deny": "the same",
    "accounts.notices.choices.unsubscribe": "the link in an email; the API sets what a person gets",
    "accounts.audit.record_reading": "staff read the records of others on pages only",
}
# Signing in is how people get to the other pages. Operators' pages and the admin site are about other people.
OTHER_PAGES = ("accounts.sign_in.", "django.contrib.admin.", "accounts.admin_site", "strake.pages.operators.")


def modules_of(patterns: Iterable[object]) -> Iterator[str]:
    """The modules of the views behind these patterns."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from modules_of(pattern.url_patterns)
        elif isinstance(pattern, URLPattern):
            name = inspect.unwrap(pattern.callback).__module__
            if not name.startswith(OTHER_PAGES):
                yield name


def services_of(module: ModuleType) -> set[str]:
    """The names of the functions that take an actor, or test a connection, to which the code of a module refers."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        name = None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = getattr(vars(module).get(node.value.id), node.attr, None)
        elif isinstance(node, ast.Name):
            name = vars(module).get(node.id)
        if isinstance(name, FunctionType) and name.__module__ != module.__name__ and is_service(name):
            found.add(f"{name.__module__}.{name.__name__}")
    return found


def is_service(function: FunctionType) -> bool:
    parameters = inspect.signature(function).parameters
    acts = "actor" in parameters and not {"api", "pages"} & set(function.__module__.split("."))
    return acts or function.__module__ == "proxy.connection_test"


def test_api_reaches_every_service_of_the_pages() -> None:
    pages = set().union(*(services_of(import_module(name)) for name in modules_of(page_urls.urlpatterns)))
    routers = [one for one in vars(routes).values() if isinstance(one, ModuleType) and hasattr(one, "router")]
    assert len(routers) > 5, "and the routers"
    reached = set().union(*map(services_of, [*routers, api]))
    assert len(pages) > 15, "the walk finds the services"
    assert pages - reached == set(ONLY_IN_A_BROWSER)
