"""Chromium against a running Strake.

Each module starts its own browser, since the driver's event loop must not run in this thread while tests of other
modules use theirs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.support.running import Strake

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# A generous timeout for busy machines.
SECONDS = 30
expect.set_options(timeout=SECONDS * 1000)
_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def new_context(browser: Browser, strake: Strake) -> Iterator[Callable[..., BrowserContext]]:
    """`new_context(viewport=…)` returns a new browser profile. Errors in its console fail the test."""
    contexts: list[BrowserContext] = []
    console_errors: list[str] = []

    def make(**options: Any) -> BrowserContext:
        context = browser.new_context(base_url=f"http://localhost:{strake.port}", **options)
        context.set_default_timeout(SECONDS * 1000)
        context.on("console", lambda message: console_errors.append(message.text) if _is_defect(message) else None)
        context.on("weberror", lambda error: console_errors.append(str(error.error)))
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        context.close()
    assert not console_errors


def _is_defect(message: ConsoleMessage) -> bool:
    """True for errors of a page. The console also reports refused forms (4xx) and a network that is down."""
    return message.type in {"error", "warning"} and not message.text.startswith("Failed to load resource:")


@pytest.fixture
def email() -> str:
    return f"browser-{next(_numbers)}@example.org"


@pytest.fixture
def sign_in(strake: Strake) -> Callable[..., Page]:
    """Signs a person in by opening a link and confirming it."""

    def signed_in(context: BrowserContext, email: str, *, staff: bool = False) -> Page:
        page = context.new_page()
        page.goto(strake.call("signin_link", email=email, staff=staff)["link"])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/endpoints/")
        return page

    return signed_in


@pytest.fixture
def page(new_context: Callable[..., BrowserContext], sign_in: Callable[..., Page], email: str) -> Page:
    """The first page after signing in."""
    return sign_in(new_context(), email)
