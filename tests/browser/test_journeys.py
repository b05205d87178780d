"""User journeys, from signing in to deleting, in a real browser with a real server."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Request, Route, expect

from tests.support.running import KEY, Strake
from tests.support.upstream import eventually

Contexts = Callable[..., BrowserContext]
SECONDS = 30


def connect(page: Page, label: str = "laptop") -> str:
    """Connect the demo provider, and leave the page with the token open. Returns the subdomain."""
    page.goto("/endpoints/connect/demo/")
    page.get_by_label("Demo key").fill("any key")
    page.get_by_label("Demo key").fill("any-key")
    page.get_by_label("Name").fill(label)
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your endpoint is ready")
    return page.locator("#url").inner_text().rsplit("/", 1)[-1]


def call(url: str, token: str) -> int:
    return httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {token}"}, timeout=30).status_code


def tokens(page: Page) -> Locator:
    """The rows of the table of tokens. The table of recent requests names tokens too, and changes at any time."""
    return page.get_by_role("region", name="List of tokens").locator("tbody tr")


def choose(page: Page, token: str, action: str) -> Locator:
    """Open the menu of a token, and return the link to an action in it."""
    page.locator("summary", has_text=f"Actions for “{token}”").click()
    return page.get_by_role("link", name=f"{action} {token}", exact=True)


def requests(page: Page) -> Locator:
    """The rows of the table of recent requests."""
    return page.get_by_role("region", name="List of recent requests").locator("tbody tr:not(.day)")


def test_first_visit_to_first_streamed_response(page: Page) -> None:
    expect(page.get_by_role("heading", name="Protect your first API key")).to_be_visible()
    page.get_by_role("link", name="Connect a provider").click()
    page.get_by_role("link", name="No API key yet? Try the built-in demo.").click()
    page.get_by_label("Demo key").fill("any-key")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your endpoint is ready")

    page.get_by_role("button", name="Test it").click()
    expect(page.locator("#try-result")).to_contain_text("It works: GET /v1/models → 200 in")

    shown = page.locator("#curl-openai-stream").inner_text()
    output = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, timeout=60, check=True).stdout
    assert output.count("data: ") > 5
    assert output.endswith("data: [DONE]\n\n")

    token = page.locator("#token").inner_text()
    page.get_by_role("link", name="Go to the endpoint").click()
    expect(requests(page).filter(has_text="200").first).to_be_visible()
    assert token not in page.content()


def test_link_is_in_no_history_referer_or_cookie(new_context: Contexts, strake: Strake, email: str) -> None:
    page = new_context().new_page()
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request))
    link = strake.call("signin_link", email=email)["link"]
    token = link.rstrip("/").rpartition("/")[2]
    page.goto(link)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/endpoints/")
    history = page.context.new_cdp_session(page).send("Page.getNavigationHistory")["entries"]
    assert len(history) >= 2
    assert not [entry for entry in history if token in entry["url"]]
    assert len(sent) > 3
    assert not [request for request in sent if token in request.all_headers().get("referer", "")]
    assert token not in str(page.context.cookies())
    page.go_back()
    assert token not in page.content()


def test_sdk_call_appears_without_a_reload(page: Page) -> None:
    connect(page)
    url, token = page.locator("#url").inner_text(), page.locator("#token").inner_text()
    page.get_by_role("link", name="Go to the endpoint").click()
    expect(page.get_by_text("No requests yet.")).to_be_visible()
    page.evaluate("window.sameDocument = true")

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0)
    completion = client.chat.completions.create(model="strake-demo", messages=[{"role": "user", "content": "Hello"}])
    client.close()
    assert completion.choices[0].message.content

    expect(requests(page).filter(has_text="200")).to_have_count(1)
    assert page.evaluate("window.sameDocument") is True


def test_token_is_shown_once(page: Page) -> None:
    subdomain = connect(page)
    token = page.locator("#token").inner_text()
    page.reload()
    expect(page).to_have_url(re.compile(rf"/endpoints/{subdomain}/$"))
    assert token not in page.content()
    page.go_back()
    assert token not in page.content()
    page.go_forward()
    assert token not in page.content()
    page.goto("/endpoints/")
    expect(page.locator("tbody tr")).to_have_count(1)  # reload and back connected nothing


def test_copy_buttons_copy(new_context: Contexts, sign_in: Callable[..., Page], email: str) -> None:
    context = new_context(permissions=["clipboard-read", "clipboard-write"])
    page = sign_in(context, email)
    connect(page)
    page.get_by_role("button", name="Copy the token").click()
    expect(page.locator("#announcer")).to_have_text("Copied")  # the button's text says it for two seconds too
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#token").inner_text()


def test_tabs_show_one_tool_and_follow_arrow_keys(page: Page) -> None:
    connect(page)
    expect(page.locator("#curl-openai-stream")).to_be_visible()
    page.get_by_role("radio", name="Anthropic Python").check()
    expect(page.locator("#anthropic-python")).to_be_visible()
    expect(page.locator("#curl-openai-stream")).to_be_hidden()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#anthropic-javascript")).to_be_visible()


def test_search_finds_providers_by_their_words(page: Page) -> None:
    page.goto("/endpoints/connect/")
    search = page.get_by_label("Search providers")
    search.fill("aws bedrock")
    expect(page.locator("#providers .tile:visible strong")).to_have_text(["Amazon Bedrock", "Amazon Bedrock (Mantle)"])
    expect(page.get_by_role("heading", level=2)).to_have_text(["Clouds"])
    search.fill("no such provider")
    expect(page.locator("#providers .tile:visible")).to_have_count(0)
    expect(page.get_by_role("link", name="connect it as a custom provider")).to_be_visible()
    search.fill("kimi")
    search.press("Enter")
    page.wait_for_url("**/endpoints/connect/moonshot/")
    expect(page.get_by_label("Platform")).to_have_value("https://api.moonshot.ai")
    page.get_by_label("Platform").select_option("China")
    page.get_by_label("Moonshot AI key").fill("two words")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("spaces")
    expect(page.get_by_label("Platform")).to_have_value("https://api.moonshot.cn")


def test_more_places_open_with_their_error(page: Page) -> None:
    page.goto("/endpoints/connect/custom/")
    expect(page.get_by_label("More headers and query parameters")).to_be_hidden()
    page.get_by_text("More places for the key").click()
    page.get_by_label("More headers and query parameters").fill("X-Organization: acme\n?api_key")
    assert "acme" not in page.evaluate("JSON.stringify(sessionStorage)"), "a constant may be secret"
    page.get_by_label("API URL").fill("https://api.example.com")
    page.get_by_label("API key").fill("any-key")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Write each line as")
    expect(page.get_by_label("More headers and query parameters")).to_be_focused()


def test_refused_key_keeps_the_rest_of_the_form(page: Page) -> None:
    page.goto("/endpoints/connect/demo/")
    page.get_by_label("Demo key").fill("an-invalid-key")
    page.get_by_label("Name").fill("laptop")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Demo rejected this key")
    expect(page.get_by_label("Name")).to_have_value("laptop")
    expect(page.get_by_label("Demo key")).to_have_value("")
    expect(page.get_by_label("Demo key")).to_be_focused()


def test_page_explains_a_wrong_key_while_typing(page: Page) -> None:
    page.goto("/endpoints/connect/openai/")
    key = page.get_by_label("OpenAI key")
    key.fill("sk-proj two")
    expect(page.get_by_text("There's a space in the key.")).to_be_visible()
    key.fill("sk-ant-0123456789")
    expect(page.get_by_text("Is this the key of another provider?")).to_be_visible()
    key.fill("strk_0123456789")
    expect(page.get_by_text("This is a Strake token.")).to_be_visible()
    key.fill("sk-proj-0123456789")
    expect(page.get_by_text("There's a space in the key.")).to_be_hidden()


def test_button_names_the_provider_and_works_once(page: Page) -> None:
    page.goto("/endpoints/connect/demo/")
    page.get_by_label("Demo key").fill("any-key")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method) if request.method == "POST" else None)
    held: list[Route] = []
    page.route("**/connect/demo/", lambda route: held.append(route))
    page.get_by_role("button", name="Connect", exact=True).dblclick(no_wait_after=True)
    expect(page.get_by_role("button", name="Checking with Demo…")).to_be_visible()
    for route in held:
        route.continue_()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your endpoint is ready")
    assert sent == ["POST"]


def test_unreachable_server_keeps_the_form(page: Page) -> None:
    page.goto("/endpoints/connect/demo/")
    page.get_by_label("Demo key").fill("any-key")
    page.get_by_label("Name").fill("laptop")
    page.context.set_offline(True)
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("didn't respond")
    expect(page.get_by_label("Name")).to_have_value("laptop")
    page.context.set_offline(False)
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your endpoint is ready")


def test_rotating_ends_the_old_token(page: Page) -> None:
    connect(page)
    url, old = page.locator("#url").inner_text(), page.locator("#token").inner_text()
    assert call(url, old) == 200
    page.get_by_role("link", name="Go to the endpoint").click()
    choose(page, "First token", "Rotate").click()
    dialog = page.get_by_role("dialog", name="Rotate “First token”?")
    expect(dialog).to_contain_text("the old one stops working at once")
    dialog.get_by_role("button", name="Rotate").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("New token for “First token”")
    new = page.locator("#token").inner_text()
    assert (call(url, old), call(url, new)) == (401, 200)


def test_dialog_closes_by_cancel_and_escape(page: Page) -> None:
    connect(page)
    page.get_by_role("link", name="Go to the endpoint").click()
    opener = choose(page, "First token", "Revoke")
    opener.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(opener).to_be_focused()
    opener.click()
    page.get_by_role("dialog").get_by_role("link", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_token_with_limits_is_enforced_and_revoked(page: Page) -> None:
    connect(page)
    url = page.locator("#url").inner_text()
    page.get_by_role("link", name="Go to the endpoint").click()
    page.get_by_role("link", name="Create token").click()
    expect(page.get_by_label("Date")).to_be_hidden()
    page.get_by_label("Name").fill("reader")
    page.get_by_label("Allowed paths").fill("GET /v1/models")
    # An invalid number must not be sent as an empty value, which means no limit.
    page.get_by_label("Requests per minute").press_sequentially("6e")
    page.get_by_role("button", name="Create token").click()
    expect(page.get_by_role("alert")).to_contain_text("Enter a whole number")
    expect(page.get_by_label("Requests per minute")).to_have_value("6e")
    page.get_by_label("Requests per minute").fill("60")
    page.get_by_role("button", name="Create token").click()
    token = page.locator("#token").inner_text()
    headers = {"Authorization": f"Bearer {token}"}
    assert call(url, token) == 200
    refused = httpx.post(f"{url}/v1/embeddings", headers=headers, json={}, timeout=30)
    assert (refused.status_code, refused.headers["x-strake-error"]) == (403, "path_not_allowed")
    page.get_by_role("link", name="Go to the endpoint").click()
    expect(tokens(page).filter(has_text="reader")).to_contain_text("60 requests a minute only GET /v1/models")
    choose(page, "reader", "Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("status").filter(has_text="Revoked “reader”")).to_be_visible()
    assert call(url, token) == 401


def test_limiting_concurrent_requests(page: Page) -> None:
    connect(page)
    page.get_by_role("link", name="Go to the endpoint").click()
    change = page.get_by_role("link", name="Change the concurrent requests")
    change.click()
    page.get_by_role("dialog").get_by_label("Concurrent requests").fill("5")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").filter(has_text="Limited to 5 concurrent requests")).to_be_visible()
    change.click()
    # A number field would send nothing here, and that would remove the limit.
    field = page.get_by_role("dialog").get_by_label("Concurrent requests")
    field.press("End")
    field.press("e")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("Enter a whole number")
    expect(page.get_by_label("Concurrent requests")).to_have_value("5e")
    page.get_by_role("link", name="Cancel").click()
    expect(page.locator(".facts")).to_contain_text("5 · Change")


def test_pausing_and_resuming_an_endpoint(page: Page) -> None:
    connect(page)
    url, token = page.locator("#url").inner_text(), page.locator("#token").inner_text()
    page.get_by_role("link", name="Go to the endpoint").click()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Every request gets a 403 error")).to_be_visible()
    assert call(url, token) == 403
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    assert call(url, token) == 200


def test_replacing_the_key_keeps_url_and_token(page: Page) -> None:
    connect(page)
    url, token = page.locator("#url").inner_text(), page.locator("#token").inner_text()
    page.get_by_role("link", name="Go to the endpoint").click()
    page.get_by_role("link", name="Replace").click()
    page.get_by_label("Demo key").fill("another-key")
    page.get_by_role("button", name="Replace key").click()
    expect(page.get_by_role("status").filter(has_text="Saved the new key")).to_be_visible()
    assert call(url, token) == 200


def test_deleting_needs_the_subdomain(page: Page) -> None:
    subdomain = connect(page)
    url, token = page.locator("#url").inner_text(), page.locator("#token").inner_text()
    page.get_by_role("link", name="Go to the endpoint").click()
    page.get_by_role("link", name="Delete").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Subdomain").fill("laptop")
    dialog.get_by_role("button", name="Delete endpoint").click()
    expect(page.get_by_role("alert")).to_contain_text(f"Type {subdomain}")
    assert call(url, token) == 200
    page.get_by_label("Subdomain").fill(subdomain)
    page.get_by_role("button", name="Delete endpoint").click()
    expect(page.get_by_role("heading", name="Protect your first API key")).to_be_visible()
    assert call(url, token) == 410


def test_token_revoked_in_another_tab_is_not_found(page: Page) -> None:
    connect(page)
    page.get_by_role("link", name="Go to the endpoint").click()
    other = page.context.new_page()
    other.goto(page.url)
    choose(other, "First token", "Revoke").click()
    other.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(other.get_by_text("No token works for this endpoint.")).to_be_visible()
    # The first tab still offers to rotate the revoked token.
    choose(page, "First token", "Rotate").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Page not found")


def test_signing_out_elsewhere_ends_other_sessions(
    new_context: Contexts, sign_in: Callable[..., Page], email: str
) -> None:
    here, there = sign_in(new_context(), email), sign_in(new_context(), email)
    here.goto("/settings/")
    here.get_by_role("button", name="Sign out all other sessions").click()
    expect(here.get_by_role("status").filter(has_text="signed out")).to_be_visible()
    there.goto("/endpoints/")
    expect(there).to_have_url(re.compile("/signin/"))
    here.goto("/endpoints/")
    expect(here).to_have_url(re.compile("/endpoints/$"))


def test_sign_in_returns_to_the_form_with_its_draft(page: Page, strake: Strake, email: str) -> None:
    page.goto("/endpoints/connect/custom/")
    page.get_by_label("API URL").fill("https://api.example.com")
    page.get_by_label("API key").fill("any-key")
    page.get_by_label("Name").fill("laptop")
    page.context.clear_cookies(name=re.compile("session"))
    page.get_by_role("button", name="Connect", exact=True).click()
    page.get_by_label("Email").fill(email)
    page.get_by_role("button", name="Print a link on the terminal").click()
    page.wait_for_url("**/signin/sent/")
    links = re.compile(rf"http://localhost:{strake.port}/signin/link/\S+")
    page.goto(eventually(lambda: links.findall(strake.log().partition(email)[2]), SECONDS)[-1])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/endpoints/connect/custom/")
    expect(page.get_by_label("API URL")).to_have_value("https://api.example.com")
    expect(page.get_by_label("Name")).to_have_value("laptop")
    expect(page.get_by_label("API key")).to_have_value("")
    assert "any-key" not in page.evaluate("JSON.stringify(sessionStorage)")


def test_draft_survives_the_end_of_a_session(new_context: Contexts, sign_in: Callable[..., Page], email: str) -> None:
    page = sign_in(new_context(), email)
    subdomain = connect(page)
    page.goto(f"/endpoints/{subdomain}/tokens/")
    page.get_by_label("Name").fill("reader")
    page.get_by_label("Allowed paths").fill("GET /v1/models")
    cookies: Any = page.context.cookies()
    page.context.clear_cookies(name=re.compile("session"))
    page.get_by_role("button", name="Create token").click()
    expect(page.get_by_role("button", name=re.compile("link"))).to_be_visible()
    page.context.add_cookies(cookies)
    page.goto(f"/endpoints/{subdomain}/tokens/")
    expect(page.get_by_label("Name")).to_have_value("reader")
    expect(page.get_by_label("Allowed paths")).to_have_value("GET /v1/models")


def test_draft_is_dropped_once_submitted(page: Page) -> None:
    subdomain = connect(page)
    page.goto(f"/endpoints/{subdomain}/tokens/")
    page.get_by_label("Name").fill("reader")
    page.get_by_label("Requests per minute").fill("60")
    page.get_by_role("button", name="Create token").click()
    expect(page.locator("#token")).to_be_visible()
    page.goto(f"/endpoints/{subdomain}/tokens/")
    expect(page.get_by_label("Name")).to_have_value("")
    expect(page.get_by_label("Requests per minute")).to_have_value("")


@pytest.mark.parametrize("spoil", ["expired", "used", "mangled"])
def test_invalid_link_offers_a_new_one(new_context: Contexts, strake: Strake, email: str, spoil: str) -> None:
    link = strake.call("signin_link", email=email)["link"]
    if spoil == "expired":
        strake.call("expire_links", email=email)
    elif spoil == "mangled":
        link = link[:-3] + ("a" if link[-3] != "a" else "b") + link[-2:]
    else:
        first = new_context().new_page()
        first.goto(link)
        first.get_by_role("button", name="Sign in").click()
        first.wait_for_url("**/endpoints/")
    page = new_context().new_page()
    page.goto(link)
    if page.get_by_role("button", name="Sign in").count():
        page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("This link doesn't work")
    page.get_by_role("link", name="Get a new link").click()
    expect(page.get_by_label("Email")).to_be_visible()


def test_everything_but_copying_works_without_scripts(
    new_context: Contexts, sign_in: Callable[..., Page], email: str
) -> None:
    page = sign_in(new_context(java_script_enabled=False, viewport={"width": 360, "height": 740}), email)
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Activity").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Activity")
    page.goto("/endpoints/connect/")
    expect(page.get_by_label("Search providers")).to_be_hidden()
    expect(page.get_by_role("link", name="Amazon Bedrock Claude")).to_be_visible()
    subdomain = connect(page)
    url, token = page.locator("#url").inner_text(), page.locator("#token").inner_text()
    assert page.get_by_role("button", name="Copy").count() == 0
    page.get_by_role("radio", name="OpenAI Python").check()
    expect(page.locator("#openai-python")).to_be_visible()
    expect(page.locator("#curl-openai-stream")).to_be_hidden()
    page.get_by_role("link", name="Go to the endpoint").click()
    choose(page, "First token", "Rotate").click()
    page.get_by_role("button", name="Rotate").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("New token for “First token”")
    assert call(url, token) == 401
    assert call(url, page.locator("#token").inner_text()) == 200
    page.get_by_role("link", name="Go to the endpoint").click()
    page.get_by_role("link", name="Delete").click()
    page.get_by_label("Subdomain").fill(subdomain)
    page.get_by_role("button", name="Delete endpoint").click()
    expect(page.get_by_role("heading", name="Protect your first API key")).to_be_visible()


def test_provider_key_never_returns_to_the_browser(page: Page, strake: Strake, email: str) -> None:
    made = strake.connect("http://127.0.0.1:9", email=email)
    for path in ("", "key/", "destination/", "tokens/", "requests/", "traffic/", "delete/", "name/"):
        response = page.goto(f"/endpoints/{made.subdomain}/{path}")
        assert response is not None
        assert response.status == 200
        assert KEY not in response.text()
