"""Every page in every state is accessible and fits into its window, at four widths, in light or dark.

`make screenshots` keeps what the tests see in screenshots/, which git ignores. Look at it after a change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.conf import settings
from playwright.sync_api import BrowserContext, Page

from tests.support.running import Strake

SCREENSHOTS: Path = settings.ROOT / "screenshots"
WIDTHS = (360, 768, 1024, 1440)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
# axe-core takes a second, so it runs only for these two, which cover both schemes and the extreme widths.
CHECKED = {"360-light", "1440-dark"}
RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]},
    "resultTypes": ["violations"],  # which is faster than to describe what has passed
}

# Whether nothing covers or clips the element.
INSIDE = """(element) => {
  const box = element.getBoundingClientRect();
  return [box.left + 1, box.right - 1].every((x) => element.contains(document.elementFromPoint(x, box.top + 5)));
}"""

PUBLIC = (
    "/signin/",
    "/security/",
    "/privacy/",
    "/docs/",
    "/docs/curl/",
    "/docs/opencode/",
    "/docs/base-url/",
    "/docs/differences/",
    "/docs/local-servers/",
    "/docs/notices/",
    "/docs/errors/",
    "/no-such-page/",
)
OWN = (
    "/endpoints/",
    "/endpoints/?q=nothing-like-this",
    "/endpoints/?page=2&sort=label",
    "/endpoints/connect/",
    "/endpoints/connect/demo/",
    "/endpoints/connect/azure-openai/",
    "/endpoints/connect/bedrock/",
    "/endpoints/connect/custom/",
    "/endpoints/{busy}/",
    "/endpoints/{busy}/?period=30d&tokens=all",
    "/endpoints/{quiet}/",
    "/endpoints/{busy}/name/",
    "/endpoints/{quiet}/limits/",
    "/endpoints/{busy}/key/",
    "/endpoints/{quiet}/destination/",
    "/endpoints/{busy}/delete/",
    "/endpoints/{busy}/tokens/",
    "/endpoints/{quiet}/tokens/{token}/rotate/",
    "/endpoints/{quiet}/tokens/{token}/revoke/",
    "/endpoints/{quiet}/tokens/{token}/edit/",
    "/endpoints/{quiet}/tokens/{token}/use/",
    "/endpoints/{quiet}/tokens/{token}/change-over/",
    "/endpoints/{busy}/tokens/revoke-all/",
    "/activity/",
    "/activity/?outcome=failed",
    "/audit/",
    "/access-tokens/",
    "/access-tokens/new/",
    "/settings/",
    "/settings/delete/",
    "/settings/webhook/",
    "/docs/",
    "/docs/openai-python/",
    "/docs/claude-code/",
    "/docs/ui/",
    "/api/v1/docs/",
    "/admin/health/",
    "/admin/people/",
    "/admin/people/?q=nobody-like-this",
    "/admin/people/{person}/",
    "/admin/people/{person}/suspend/",
    "/admin/endpoints/",
    "/admin/endpoints/{quiet}/limits/",
)
EMPTY = ("/endpoints/", "/activity/", "/audit/", "/access-tokens/", "/docs/openai-python/")


@pytest.fixture(scope="module")
def places(strake: Strake) -> dict[str, str]:
    """A person with 120 endpoints, 50 tokens and thousands of requests. Returns the parts of their URLs."""
    email = "much@example.org"
    filled = strake.call("fill", email=email, endpoints=120, tokens_first=50, records=4000)
    busy = filled["subdomains"][0]
    quiet = strake.connect("http://127.0.0.1:9/v1", email=email, label="quiet")
    strake.call("limit", subdomain=quiet.subdomain, max_streams=5)
    return {
        "email": email,
        "busy": busy,
        "quiet": quiet.subdomain,
        "token": quiet.token_id,
        "person": filled["person"],
    }


@pytest.fixture
def cookies(
    new_context: Callable[..., BrowserContext], sign_in: Callable[..., Page], email: str, places: dict[str, str]
) -> Callable[[str], Any]:
    """Signs a person in and returns the cookies. "much" has a lot of data, "new" has none."""

    def of(who: str) -> Any:
        address = places["email"] if who == "much" else email
        return sign_in(new_context(), address, staff=who == "much").context.cookies()

    return of


def name_of(path: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-") or "front"


def windows(widths: tuple[int, ...]) -> list[tuple[int, Literal["light", "dark"]]]:
    """What to look at. Both schemes have the same layout, so each width needs only one of them, but for screenshots."""
    every = [(width, scheme) for scheme in SCHEMES for width in widths]
    return [look for look in every if SCREENSHOTS.is_dir() or (look[1] == "dark") == (look[0] == widths[-1])]


def looks(new_context: Callable[..., BrowserContext]) -> Iterator[tuple[str, BrowserContext]]:
    """For what people do: it is repeated for each, and a person may only check so many keys a minute."""
    for width, scheme in windows((360, 768, 1440)):
        yield (
            f"{width}-{scheme}",
            new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"),
        )


def keep(page: Page, name: str, *, full_page: bool = False) -> None:
    """Take a screenshot if somebody wants them. It takes longer than all the checks of a page."""
    if SCREENSHOTS.is_dir():
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=full_page)


def inspect(page: Page, look: str, name: str) -> None:
    """Fail if the page is wider than the window or breaks a rule of axe-core."""
    keep(page, f"{name}-{look}", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than {look}"
    if look not in CHECKED:
        return
    found = Axe().run(page, options=RULES).response["violations"]
    violations = [f"{rule['id']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]
    assert not violations, f"{name} at {look}: " + "\n".join(violations)


@pytest.mark.parametrize(
    ("who", "paths"), [("nobody", PUBLIC), ("new", EMPTY), ("much", OWN[::2]), ("much", OWN[1::2])]
)
@pytest.mark.timeout(600)
def test_pages_are_accessible_and_fit(
    new_context: Callable[..., BrowserContext],
    cookies: Callable[[str], Any],
    places: dict[str, str],
    who: str,
    paths: tuple[str, ...],
) -> None:
    context = new_context(reduced_motion="reduce")
    if who != "nobody":
        context.add_cookies(cookies(who))
    page = context.new_page()
    for path in paths:
        page.goto(path.format(**places))
        for width, scheme in windows(WIDTHS):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 900})
            inspect(page, f"{width}-{scheme}", f"{who}-{name_of(path)}")


@pytest.mark.timeout(300)
def test_states_after_an_action_are_accessible(
    new_context: Callable[..., BrowserContext], cookies: Callable[[str], Any], places: dict[str, str]
) -> None:
    signed_in = cookies("new")
    for look, context in looks(new_context):
        context.add_cookies(signed_in)
        page = context.new_page()

        page.goto("/endpoints/connect/demo/")
        page.get_by_label("Demo key").fill("an-invalid-key")
        page.get_by_role("button", name="Connect", exact=True).click()
        page.get_by_role("alert").wait_for()
        inspect(page, look, "action-refused")

        page.get_by_label("Demo key").fill("any-key")
        page.get_by_role("button", name="Connect", exact=True).click()
        page.get_by_role("heading", name="Your endpoint is ready").wait_for()
        page.get_by_role("button", name="Test it").click()
        page.locator("#try-result .chip").wait_for()
        inspect(page, look, "action-connected")

        page.get_by_role("link", name="Go to the endpoint").click()
        page.locator("summary", has_text="Actions for “First token”").click()
        assert page.get_by_role("link", name="Rotate First token").evaluate(INSIDE), "the menu is clipped"
        keep(page, f"action-token-menu-{look}")  # axe-core would find the targets below the menu too small
        page.get_by_role("link", name="Rotate First token").click()
        page.get_by_role("dialog").wait_for()
        inspect(page, look, "action-rotate-dialog")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Pause").click()
        page.get_by_role("button", name="Resume").wait_for()
        inspect(page, look, "action-paused")
        if look.startswith("360"):
            page.get_by_role("button", name="Menu").click()
            page.get_by_role("link", name="Activity").wait_for()
            inspect(page, look, "action-menu")
        context.close()


def test_sign_in_is_accessible(new_context: Callable[..., BrowserContext], strake: Strake, email: str) -> None:
    for look, context in looks(new_context):
        if look in CHECKED:
            page = context.new_page()
            page.goto("/signin/")
            page.get_by_label("Email").fill("nonsense")
            page.get_by_role("button", name="Print a link on the terminal").click()
            page.get_by_role("alert").wait_for()
            inspect(page, look, "way-in-mistyped")
            page.get_by_label("Email").fill(email)
            page.get_by_role("button", name="Print a link on the terminal").click()
            page.wait_for_url("**/signin/sent/")
            inspect(page, look, "way-in-sent")
            page.goto(strake.call("signin_link", email=email)["link"])
            inspect(page, look, "way-in-confirm")
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/endpoints/")
            page.goto("/access-tokens/new/")
            page.get_by_label("What is it for?").fill("CI")
            page.get_by_role("button", name="Create token").click()
            page.get_by_text("pat_").first.wait_for()
            inspect(page, look, "way-in-access-token")
        context.close()


def test_longest_names_fit(
    new_context: Callable[..., BrowserContext], sign_in: Callable[..., Page], strake: Strake
) -> None:
    email = f"{'a' * 64}@{'department.' * 15}example.org"
    made = strake.connect("http://127.0.0.1:9/" + "/".join(["path"] * 40), email=email, label="W" * 100)
    limited = strake.issue(made, label="T" * 100, allowed_paths=[f"POST /{'y' * 200}"])
    cookies: Any = sign_in(new_context(), email).context.cookies()
    at = f"/endpoints/{made.subdomain}/"
    paths = ["/endpoints/", at, f"{at}tokens/", f"{at}key/", f"{at}delete/", f"{at}destination/", "/audit/"]
    paths += [f"{at}tokens/{limited.token_id}/rotate/", "/docs/curl/", "/settings/", "/settings/delete/"]
    for width in (360, 1440):
        context = new_context(viewport={"width": width, "height": 900})
        context.add_cookies(cookies)
        page = context.new_page()
        for path in paths:
            page.goto(path)
            keep(page, f"long-{name_of(path.replace(made.subdomain, 'it'))}-{width}")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
            cut = "[...document.querySelectorAll('.table-wrap')].filter((part) => part.scrollWidth > part.clientWidth)"
            assert page.evaluate(f"{cut}.length") == 0, (path, width)
        context.close()


def test_double_text_size_and_wide_screens_fit(
    new_context: Callable[..., BrowserContext], cookies: Callable[[str], Any], places: dict[str, str]
) -> None:
    """Only the text doubles here. Zooming to 200 % is like a narrower window, which other tests cover."""
    signed_in = cookies("much")
    for width in (768, 3840):
        context = new_context(viewport={"width": width, "height": 1200})
        context.add_cookies(signed_in)
        page = context.new_page()
        for path in ("/endpoints/", "/endpoints/{busy}/", "/endpoints/connect/", "/activity/", "/settings/"):
            page.goto(path.format(**places))
            page.evaluate("document.documentElement.style.fontSize = '200%'")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
            keep(page, f"large-text-{name_of(path)}-{width}")
        context.close()


def test_tab_key_reaches_everything_in_order(page: Page) -> None:
    page.goto("/endpoints/connect/demo/")
    names: list[str] = []
    for _ in range(16):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate(
                "(document.activeElement.labels?.[0]?.innerText || document.activeElement.innerText || '').trim()"
            )
        )
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", names
    assert names[0] == "Skip to the content"
    wanted = ["Strake", "Endpoints", "Docs", "Sign out", "Demo key", "Name (optional)", "Connect", "Cancel"]
    remaining = iter(names)
    assert all(name in remaining for name in wanted), names
