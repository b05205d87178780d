"""What people do, from signing in to deleting, in a real browser against a real server."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import httpx
import openai
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Request, Route, expect

from tests.running import KEY, Strake
from tests.upstream import eventually

Contexts = Callable[..., BrowserContext]
SECONDS = 30


def connect(page: Page, label: str = "laptop") -> str:
    """Connect the demo provider; leaves the page that shows the token open. Returns the subdomain."""
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
    """The rows of the table of tokens. Recent requests name tokens too, and come in at any moment."""
    return page.get_by_role("region", name="List of tokens").locator("tbody tr")


def requests(page: Page) -> Locator:
    """The rows of the table of recent requests."""
    return page.get_by_role("region", name="List of recent requests").locator("tbody tr")


def test_from_signing_in_to_the_first_streamed_answer(page: Page) -> None:
    expect(page.get_by_role("heading", name="Put your first key away")).to_be_visible()
    page.get_by_role("link", name="Connect a provider").click()
    page.get_by_role("link", name=re.compile("^D?Demo|Demo")).first.click()
    page.get_by_label("Demo key").fill("any-key")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your endpoint is ready")

    page.get_by_role("button", name="Test it").click()
    expect(page.locator("#try-result")).to_contain_text("It works: Demo answered in")

    shown = page.locator("#curl-openai-stream").inner_text()
    answer = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, timeout=60, check=True).stdout
    assert answer.count("data: ") > 5
    assert answer.endswith("data: [DONE]\n\n")

    token = page.locator("#token").inner_text()
    page.get_by_role("link", name="Go to the endpoint").click()
    expect(requests(page).filter(has_text="200").first).to_be_visible()
    assert token not in page.content()


def test_the_link_stays_out_of_history_referers_and_cookies(new_context: Contexts, strake: Strake, email: str) -> None:
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


def test_an_sdk_call_appears_on_the_endpoints_page_without_a_reload(page: Page) -> None:
    connect(page)
    url, token = page.locator("#url").inner_text(), page.locator("#token").inner_text()
    page.get_by_role("link", name="Go to the endpoint").click()
    expect(page.get_by_text("No request yet.")).to_be_visible()
    page.evaluate("window.sameDocument = true")

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0)
    answer = client.chat.completions.create(model="strake-demo", messages=[{"role": "user", "content": "Hello"}])
    client.close()
    assert answer.choices[0].message.content

    expect(requests(page).filter(has_text="200")).to_have_count(1)
    assert page.evaluate("window.sameDocument") is True


def test_the_token_is_shown_once(page: Page) -> None:
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
    expect(page.locator("tbody tr")).to_have_count(1)  # neither the reload nor going back connected anything


def test_copy_buttons_copy(new_context: Contexts, sign_in: Callable[..., Page], email: str) -> None:
    context = new_context(permissions=["clipboard-read", "clipboard-write"])
    page = sign_in(context, email)
    connect(page)
    page.get_by_role("button", name="Copy the token").click()
    expect(page.locator("#announcer")).to_have_text("Copied")  # the button says it too, for two seconds
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#token").inner_text()


def test_tabs_show_one_tool_at_a_time_and_listen_to_arrow_keys(page: Page) -> None:
    connect(page)
    expect(page.locator("#curl-openai-stream")).to_be_visible()
    page.get_by_role("radio", name="Anthropic Python").check()
    expect(page.locator("#anthropic-python")).to_be_visible()
    expect(page.locator("#curl-openai-stream")).to_be_hidden()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#anthropic-javascript")).to_be_visible()


def test_a_refused_key_loses_nothing_but_the_key(page: Page) -> None:
    page.goto("/endpoints/connect/demo/")
    page.get_by_label("Demo key").fill("an-invalid-key")
    page.get_by_label("Name").fill("laptop")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("not valid")
    expect(page.get_by_label("Name")).to_have_value("laptop")
    expect(page.get_by_label("Demo key")).to_have_value("")
    expect(page.get_by_label("Demo key")).to_be_focused()


def test_the_page_says_what_is_wrong_with_a_key_while_it_is_pasted(page: Page) -> None:
    page.goto("/endpoints/connect/openai/")
    key = page.get_by_label("OpenAI key")
    key.fill("sk-proj two")
    expect(page.get_by_text("There is a space inside.")).to_be_visible()
    key.fill("sk-ant-0123456789")
    expect(page.get_by_text("Is this one of another provider?")).to_be_visible()
    key.fill("strk_0123456789")
    expect(page.get_by_text("This is a Strake token.")).to_be_visible()
    key.fill("sk-proj-0123456789")
    expect(page.get_by_text("There is a space inside.")).to_be_hidden()


def test_the_button_says_who_is_being_asked_and_works_once(page: Page) -> None:
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


def test_a_server_that_is_gone_leaves_the_form_as_it_was(page: Page) -> None:
    page.goto("/endpoints/connect/demo/")
    page.get_by_label("Demo key").fill("any-key")
    page.get_by_label("Name").fill("laptop")
    page.context.set_offline(True)
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("could not be reached")
    expect(page.get_by_label("Name")).to_have_value("laptop")
    page.context.set_offline(False)
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your endpoint is ready")


def test_rotating_kills_the_old_token_while_the_page_is_open(page: Page) -> None:
    connect(page)
    url, old = page.locator("#url").inner_text(), page.locator("#token").inner_text()
    assert call(url, old) == 200
    page.get_by_role("link", name="Go to the endpoint").click()
    page.get_by_role("link", name="Rotate First token").click()
    dialog = page.get_by_role("dialog", name="Rotate First token?")
    expect(dialog).to_contain_text("the old one stops working at once")
    dialog.get_by_role("button", name="Rotate").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("First token has a new secret")
    new = page.locator("#token").inner_text()
    assert (call(url, old), call(url, new)) == (401, 200)


def test_a_dialog_can_be_left_by_cancel_and_by_escape(page: Page) -> None:
    connect(page)
    page.get_by_role("link", name="Go to the endpoint").click()
    opener = page.get_by_role("link", name="Revoke First token")
    opener.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(opener).to_be_focused()
    opener.click()
    page.get_by_role("dialog").get_by_role("link", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_a_token_with_limits_then_revoked(page: Page) -> None:
    connect(page)
    url = page.locator("#url").inner_text()
    page.get_by_role("link", name="Go to the endpoint").click()
    page.get_by_role("link", name="Add a token").click()
    expect(page.get_by_label("Date")).to_be_hidden()
    page.get_by_label("Name").fill("reader")
    page.get_by_label("Only these paths").fill("GET /v1/models")
    # What is no number must not arrive as nothing, which means no limit.
    page.get_by_label("Requests per minute").press_sequentially("6e")
    page.get_by_role("button", name="Add the token").click()
    expect(page.get_by_role("alert")).to_contain_text("Enter a whole number")
    expect(page.get_by_label("Requests per minute")).to_have_value("6e")
    page.get_by_label("Requests per minute").fill("60")
    page.get_by_role("button", name="Add the token").click()
    token = page.locator("#token").inner_text()
    headers = {"Authorization": f"Bearer {token}"}
    assert call(url, token) == 200
    refused = httpx.post(f"{url}/v1/embeddings", headers=headers, json={}, timeout=30)
    assert (refused.status_code, refused.headers["x-strake-error"]) == (403, "path_not_allowed")
    page.get_by_role("link", name="Go to the endpoint").click()
    expect(tokens(page).filter(has_text="reader")).to_contain_text("60 requests a minute only GET /v1/models")
    page.get_by_role("link", name="Revoke reader").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("status").filter(has_text="reader is revoked")).to_be_visible()
    assert call(url, token) == 401


def test_limiting_requests_at_a_time(page: Page) -> None:
    connect(page)
    page.get_by_role("link", name="Go to the endpoint").click()
    change = page.get_by_role("link", name="Change the requests at a time")
    change.click()
    page.get_by_role("dialog").get_by_label("Requests at a time").fill("5")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").filter(has_text="limited to 5 requests at a time")).to_be_visible()
    change.click()
    # Of a number field the browser would send nothing here, and that would lift the limit.
    field = page.get_by_role("dialog").get_by_label("Requests at a time")
    field.press("End")
    field.press("e")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("Enter a whole number")
    expect(page.get_by_label("Requests at a time")).to_have_value("5e")
    page.get_by_role("link", name="Cancel").click()
    expect(page.get_by_text("At most 5")).to_be_visible()


def test_pausing_refuses_and_resuming_lets_through(page: Page) -> None:
    connect(page)
    url, token = page.locator("#url").inner_text(), page.locator("#token").inner_text()
    page.get_by_role("link", name="Go to the endpoint").click()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Every request is refused with 403")).to_be_visible()
    assert call(url, token) == 403
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    assert call(url, token) == 200


def test_replacing_the_key_keeps_address_and_token(page: Page) -> None:
    connect(page)
    url, token = page.locator("#url").inner_text(), page.locator("#token").inner_text()
    page.get_by_role("link", name="Go to the endpoint").click()
    page.get_by_role("link", name="Replace").click()
    page.get_by_label("Demo key").fill("another-key")
    page.get_by_role("button", name="Replace the key").click()
    expect(page.get_by_role("status").filter(has_text="The new key is sealed")).to_be_visible()
    assert call(url, token) == 200


def test_deleting_needs_the_subdomain_and_ends_everything(page: Page) -> None:
    subdomain = connect(page)
    url, token = page.locator("#url").inner_text(), page.locator("#token").inner_text()
    page.get_by_role("link", name="Go to the endpoint").click()
    page.get_by_role("link", name="Delete").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Subdomain").fill("laptop")
    dialog.get_by_role("button", name="Delete the endpoint").click()
    expect(page.get_by_role("alert")).to_contain_text(f"Type {subdomain}")
    assert call(url, token) == 200
    page.get_by_label("Subdomain").fill(subdomain)
    page.get_by_role("button", name="Delete the endpoint").click()
    expect(page.get_by_role("heading", name="Put your first key away")).to_be_visible()
    assert call(url, token) == 404


def test_two_tabs_see_each_others_deeds(page: Page) -> None:
    connect(page)
    page.get_by_role("link", name="Go to the endpoint").click()
    other = page.context.new_page()
    other.goto(page.url)
    other.get_by_role("link", name="Revoke First token").click()
    other.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(other.get_by_text("No token opens this endpoint.")).to_be_visible()
    # The first tab still offers to rotate a token that is gone, and is told so kindly.
    page.get_by_role("link", name="Rotate First token").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("There is nothing here")


def test_signing_out_everywhere_else_ends_the_other_browser(
    new_context: Contexts, sign_in: Callable[..., Page], email: str
) -> None:
    here, there = sign_in(new_context(), email), sign_in(new_context(), email)
    here.goto("/settings/")
    here.get_by_role("button", name="Sign out everywhere else").click()
    expect(here.get_by_role("status").filter(has_text="signed out")).to_be_visible()
    there.goto("/endpoints/")
    expect(there).to_have_url(re.compile("/signin/"))
    here.goto("/endpoints/")
    expect(here).to_have_url(re.compile("/endpoints/$"))


def test_a_session_that_ended_leads_back_to_the_page_after_signing_in(page: Page, strake: Strake, email: str) -> None:
    page.goto("/endpoints/connect/custom/")
    page.get_by_label("Address of the API").fill("https://api.example.com")
    page.get_by_label("API key").fill("any-key")
    page.get_by_label("Name").fill("laptop")
    page.context.clear_cookies(name=re.compile("session"))
    page.get_by_role("button", name="Connect", exact=True).click()
    page.get_by_label("E-mail").fill(email)
    page.get_by_role("button", name="E-mail me a link").click()
    page.wait_for_url("**/signin/sent/")
    links = re.compile(rf"http://localhost:{strake.port}/signin/link/\S+")
    page.goto(eventually(lambda: links.findall(strake.log().partition(email)[2]), SECONDS)[-1])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/endpoints/connect/custom/")
    expect(page.get_by_label("Address of the API")).to_have_value("https://api.example.com")
    expect(page.get_by_label("Name")).to_have_value("laptop")
    expect(page.get_by_label("API key")).to_have_value("")
    assert "any-key" not in page.evaluate("JSON.stringify(sessionStorage)")


def test_a_draft_survives_a_session_that_ended(new_context: Contexts, sign_in: Callable[..., Page], email: str) -> None:
    page = sign_in(new_context(), email)
    subdomain = connect(page)
    page.goto(f"/endpoints/{subdomain}/tokens/")
    page.get_by_label("Name").fill("reader")
    page.get_by_label("Only these paths").fill("GET /v1/models")
    kept = page.context.cookies()
    page.context.clear_cookies(name=re.compile("session"))
    page.get_by_role("button", name="Add the token").click()
    expect(page.get_by_role("button", name=re.compile("link"))).to_be_visible()
    page.context.add_cookies(kept)
    page.goto(f"/endpoints/{subdomain}/tokens/")
    expect(page.get_by_label("Name")).to_have_value("reader")
    expect(page.get_by_label("Only these paths")).to_have_value("GET /v1/models")


def test_a_draft_ends_with_the_deed_it_was_for(page: Page) -> None:
    subdomain = connect(page)
    page.goto(f"/endpoints/{subdomain}/tokens/")
    page.get_by_label("Name").fill("reader")
    page.get_by_label("Requests per minute").fill("60")
    page.get_by_role("button", name="Add the token").click()
    expect(page.locator("#token")).to_be_visible()
    page.goto(f"/endpoints/{subdomain}/tokens/")
    expect(page.get_by_label("Name")).to_have_value("")
    expect(page.get_by_label("Requests per minute")).to_have_value("")


@pytest.mark.parametrize("spoil", ["expired", "used", "mangled"])
def test_a_link_that_does_not_work_says_how_to_get_another(
    new_context: Contexts, strake: Strake, email: str, spoil: str
) -> None:
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
    expect(page.get_by_role("heading", level=1)).to_have_text("This link does not work")
    page.get_by_role("link", name="Get a new link").click()
    expect(page.get_by_label("E-mail")).to_be_visible()


def test_everything_but_copying_works_without_javascript(
    new_context: Contexts, sign_in: Callable[..., Page], email: str
) -> None:
    page = sign_in(new_context(java_script_enabled=False, viewport={"width": 360, "height": 740}), email)
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Activity").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Activity")
    subdomain = connect(page)
    url, token = page.locator("#url").inner_text(), page.locator("#token").inner_text()
    assert page.get_by_role("button", name="Copy").count() == 0
    page.get_by_role("radio", name="OpenAI Python").check()
    expect(page.locator("#openai-python")).to_be_visible()
    expect(page.locator("#curl-openai-stream")).to_be_hidden()
    page.get_by_role("link", name="Go to the endpoint").click()
    page.get_by_role("link", name="Rotate First token").click()
    page.get_by_role("button", name="Rotate").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("First token has a new secret")
    assert call(url, token) == 401
    assert call(url, page.locator("#token").inner_text()) == 200
    page.get_by_role("link", name="Go to the endpoint").click()
    page.get_by_role("link", name="Delete").click()
    page.get_by_label("Subdomain").fill(subdomain)
    page.get_by_role("button", name="Delete the endpoint").click()
    expect(page.get_by_role("heading", name="Put your first key away")).to_be_visible()


def test_the_provider_key_never_comes_back_to_the_browser(page: Page, strake: Strake, email: str) -> None:
    made = strake.connect("http://127.0.0.1:9", email=email)
    for path in ("", "key/", "destination/", "tokens/", "requests/", "traffic/", "delete/", "name/"):
        response = page.goto(f"/endpoints/{made.subdomain}/{path}")
        assert response is not None
        assert response.status == 200
        assert KEY not in response.text()
