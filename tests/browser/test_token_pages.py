"""Tokens and first steps in a browser: menus, Back after an error, drafts, snippets, and what a screen reader says."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from tests.support.running import Endpoint, Strake

Contexts = Callable[..., BrowserContext]


@pytest.fixture
def made(strake: Strake, email: str) -> Endpoint:
    return strake.connect(provider="demo", email=email, label="laptop")


def reading(page: Page, root: str = "main") -> list[str]:
    """What a screen reader says of a part of the page, by Chromium's accessibility tree: roles and names in order."""
    client = page.context.new_cdp_session(page)
    client.send("Accessibility.enable")
    found = client.send("Runtime.evaluate", {"expression": f"document.querySelector({root!r})"})
    nodes = client.send("Accessibility.queryAXTree", {"objectId": found["result"]["objectId"]})["nodes"]
    said: list[str] = []
    for node in nodes:
        role, name = node.get("role", {}).get("value"), " ".join(node.get("name", {}).get("value", "").split())
        if not node.get("ignored") and role in SPOKEN and name:
            states = {entry["name"]: entry["value"].get("value") for entry in node.get("properties", [])}
            said.append(f"{role}: {name}" + (", invalid" if states.get("invalid") == "true" else ""))
    return said


SPOKEN = {"heading", "link", "button", "textbox", "combobox", "checkbox", "searchbox", "alert", "status"}


def test_menu_works_with_keys_and_is_not_clipped(
    new_context: Contexts, sign_in: Any, made: Endpoint, email: str
) -> None:
    page = sign_in(new_context(viewport={"width": 360, "height": 740}), email)
    page.goto(f"/endpoints/{made.subdomain}/")
    summary = page.locator("summary", has_text="Actions for “First token”")
    summary.focus()
    page.keyboard.press("Enter")
    for name in ("Snippets and .env", "Edit", "Duplicate", "Switch without downtime", "Rotate", "Revoke"):
        link = page.locator(".actions-menu[open] a", has_text=name)
        expect(link).to_be_in_viewport()
        box = link.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        page.keyboard.press("Tab")
        expect(link).to_be_focused()
    # The open menu covers what is below it, which is too small a target then.
    found = Axe().run(page, options={"rules": {"target-size": {"enabled": False}}}).response["violations"]
    assert [rule["id"] for rule in found] == []
    page.keyboard.press("Escape")
    expect(page.locator(".actions-menu[open]")).to_have_count(0)
    expect(summary).to_be_focused()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_one_box_selects_every_token(page: Page, strake: Strake, made: Endpoint) -> None:
    strake.call("issue", subdomain=made.subdomain, label="CI")
    page.goto(f"/endpoints/{made.subdomain}/")
    button = page.get_by_role("button", name="Revoke selected…")
    expect(button).to_be_disabled()
    every = page.get_by_role("checkbox", name="Select all tokens on this page")
    every.check()
    page.get_by_role("checkbox", name="Select CI").uncheck()
    assert every.evaluate("(box) => box.indeterminate")
    every.check()
    page.get_by_role("button", name="Revoke 2 selected…").click()
    expect(page.get_by_role("heading", name="Revoke 2 tokens?")).to_be_visible()


@pytest.mark.parametrize("scripts", [True, False])
def test_back_after_a_mistake_sends_nothing_again(
    new_context: Contexts, sign_in: Any, made: Endpoint, email: str, scripts: bool
) -> None:
    page = sign_in(new_context(java_script_enabled=scripts), email)
    page.goto(f"/endpoints/{made.subdomain}/tokens/")
    page.get_by_label("Name").fill("reader")
    page.get_by_label("Allowed paths").fill("GET /v1/models\nv1/models")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.get_by_role("button", name="Create token").click()
    expect(page.get_by_role("alert")).to_contain_text("Line 2, “v1/models”")
    page.goto("/security/")
    page.go_back()
    expect(page.get_by_role("alert")).to_contain_text("Line 2, “v1/models”")
    expect(page.get_by_label("Name")).to_have_value("reader")
    page.reload()
    expect(page.get_by_label("Name")).to_have_value("reader")
    assert len(sent) == 1


def test_restored_draft_says_so_and_can_be_cleared(page: Page) -> None:
    page.goto("/endpoints/connect/custom/")
    page.get_by_label("Name").fill("laptop")
    page.goto("/endpoints/")
    page.goto("/endpoints/connect/custom/")
    note = page.get_by_role("status").filter(has_text="Restored")
    expect(note).to_be_visible()
    expect(page.get_by_label("Name")).to_have_value("laptop")
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_label("Name")).to_have_value("")
    page.reload()
    expect(page.get_by_label("Name")).to_have_value("")
    expect(note).to_have_count(0)


def test_limited_token_gets_a_snippet_and_a_test_that_work(page: Page, made: Endpoint) -> None:
    page.goto(f"/endpoints/{made.subdomain}/tokens/")
    page.get_by_label("Name").fill("reader")
    page.get_by_label("Allowed paths").fill("GET /v1/models")
    page.get_by_role("button", name="Create token").click()
    shown = page.locator("#curl-allowed").inner_text()
    output = subprocess.run(["sh", "-c", f"{shown} -sf"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "strake-demo" in output
    page.get_by_role("button", name="Test it").click()
    expect(page.locator("#try-result")).to_contain_text("It works: GET /v1/models → 200")


def test_screen_reader_reads_connect_rotate_and_delete(page: Page, made: Endpoint) -> None:
    page.goto("/endpoints/connect/demo/")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert reading(page) == [
        "link: Endpoints",
        "link: Connect",
        "heading: Connect Demo",
        "textbox: Demo key, invalid",
        "textbox: Name (optional)",
        "button: Connect",
        "link: Cancel",
        "heading: What happens to the key",
        "link: What Strake promises",
    ]
    page.goto(f"/endpoints/{made.subdomain}/")
    page.locator("summary", has_text="Actions for “First token”").click()
    page.get_by_role("link", name="Rotate First token").click()
    expect(page.get_by_role("dialog", name="Rotate “First token”?")).to_be_visible()
    assert reading(page, "dialog") == [
        "heading: Rotate “First token”?",
        "link: Switch to a new token without downtime",
        "link: Cancel",
        "button: Rotate",
    ]
    page.goto(f"/endpoints/{made.subdomain}/delete/")
    page.get_by_role("button", name="Delete endpoint").click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert reading(page) == [
        "heading: Delete “laptop”?",
        "textbox: Subdomain, invalid",
        "link: Cancel",
        "button: Delete endpoint",
    ]
