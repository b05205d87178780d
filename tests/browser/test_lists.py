"""Lists and figures: no sideways scroll, no clipped button, numbers that agree, and what a person typed stays."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.support.running import Strake
from tests.support.upstream import Upstream

WIDTHS = (360, 768, 900, 1024, 1140, 1440)
# Tables that scroll inside, and buttons and links that reach out of the window or are cut by what they are in.
CUT = """() => [
    ...[...document.querySelectorAll('.table-wrap')].filter((part) => part.scrollWidth > part.clientWidth),
    ...[...document.querySelectorAll('button, a.button')].filter((part) => {
      const box = part.getBoundingClientRect();
      return box.width && (box.left < 0 || box.right > innerWidth + 0.5 || part.scrollWidth > part.clientWidth + 1);
    }),
  ].map((part) => part.outerHTML.slice(0, 150))"""


def test_lists_fit_six_widths(
    new_context: Callable[..., BrowserContext], sign_in: Callable[..., Page], strake: Strake, email: str
) -> None:
    busy = strake.call("fill", email=email, endpoints=30, tokens_first=3, records=300)["subdomains"][0]
    page = sign_in(new_context(), email)
    for path in ("/endpoints/", "/activity/", f"/activity/?endpoint={busy}&error=any", "/audit/"):
        page.goto(path)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
            assert page.evaluate(CUT) == [], (path, width)


def test_figures_and_chart_agree_with_the_rows(page: Page, strake: Strake, upstream: Upstream, email: str) -> None:
    made = strake.connect(f"{upstream.url}/v1", email=email, label="agreeing")
    for token in (made.token, made.token, made.token, "wrong"):
        httpx.get(made.url + "/models", headers={"Authorization": f"Bearer {token}"}, timeout=60)
    page.goto(f"/endpoints/{made.subdomain}/")
    rows = page.get_by_role("region", name="List of recent requests").get_by_role("row")
    expect(rows.filter(has_text="200")).to_have_count(3)
    page.reload()
    figures = dict(
        zip(
            page.locator(".figures dt").all_inner_texts(),
            page.locator(".figures dd").all_inner_texts(),
            strict=True,
        )
    )
    times = [int(number) for number in re.findall(r"(\d+) ms$", "\n".join(rows.all_inner_texts()), re.MULTILINE)]
    assert figures["Forwarded"] == "3"
    assert int(figures["95th percentile"].removesuffix(" ms")) == max(times)
    assert int(figures["Median total time"].removesuffix(" ms")) == sorted(times)[1]

    plot = page.get_by_role("group", name="Requests in the last 24 hours")
    plot.focus()
    page.keyboard.press("End")
    expect(plot.locator("output")).to_have_text(re.compile(r"until now: 3 requests$"))
    page.keyboard.press("ArrowLeft")
    expect(plot.locator("output")).to_have_text(re.compile(r": 0 requests$"))
    page.keyboard.press("Escape")
    expect(plot.locator("output")).to_be_hidden()
    plot.locator(".step").last.hover()
    expect(plot.locator("output")).to_have_text(re.compile(r"until now: 3 requests$"))


def test_filters_stay_in_the_url_and_keys_search(page: Page, strake: Strake, email: str) -> None:
    for label in ("alpha", "beta"):
        strake.connect("http://127.0.0.1:9/v1", email=email, label=label)
    page.goto("/endpoints/")
    page.keyboard.press("/")
    page.keyboard.type("alp")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="beta")).to_have_count(0)
    page.get_by_role("link", name="Active", exact=True).click()
    page.get_by_role("link", name="Name").click()
    assert "q=alp" in page.url
    assert "state=active" in page.url
    assert "sort=label" in page.url
    expect(page.get_by_role("columnheader", name="Name")).to_have_attribute("aria-sort", "ascending")
    page.go_back()
    expect(page.get_by_role("searchbox")).to_have_value("alp")


def test_theme_changes_at_once_and_without_javascript(
    new_context: Callable[..., BrowserContext], strake: Strake
) -> None:
    dark = "rgb(18, 20, 19)"
    for options in ({}, {"java_script_enabled": False}):
        page = new_context(color_scheme="light", **options).new_page()
        page.goto("/security/")
        page.get_by_role("button", name="Dark").click()
        expect(page.locator("html")).to_have_css("background-color", dark)
        page.goto("/signin/")
        expect(page.locator("html")).to_have_css("background-color", dark)
        page.get_by_role("button", name="System").click()
        expect(page.locator("html")).not_to_have_css("background-color", dark)


def test_time_zone_of_the_browser_is_used(
    new_context: Callable[..., BrowserContext], sign_in: Callable[..., Page], strake: Strake, email: str
) -> None:
    page = sign_in(new_context(timezone_id="Asia/Kolkata"), email)
    page.goto("/audit/")
    expect(page.get_by_role("columnheader", name="Time (IST)")).to_be_visible()


@pytest.mark.parametrize("cookie", ["session", "csrf"])
def test_ended_session_and_expired_form_say_that_the_draft_is_kept(page: Page, cookie: str) -> None:
    page.goto("/endpoints/connect/custom/")
    page.get_by_label("Name").fill("my draft")
    page.locator("input[data-secret]").first.fill("sk-a-key-that-is-never-kept")
    kept: list[Any] = [one for one in page.context.cookies() if cookie not in one["name"]]
    page.context.clear_cookies()
    page.context.add_cookies(kept)
    page.get_by_role("button", name="Connect", exact=True).click()
    if cookie == "session":
        expect(page.get_by_role("alert")).to_contain_text("Nothing was saved")
        expect(page.get_by_role("alert")).to_contain_text("What you typed is kept in this tab, except for keys")
        return
    expect(page.get_by_role("alert")).to_contain_text("This page expired. Nothing was saved.")
    expect(page.get_by_label("Name")).to_have_value("my draft")
    page.reload()
    expect(page.get_by_label("Name")).to_have_value("my draft")
    expect(page.locator("input[data-secret]").first).to_have_value("")
