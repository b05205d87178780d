"""Use every page and the whole API: `python -m tests.support.web_journey STAFF_LINK`.

Run it as the database role of the web half. It ends with an error if a page fails, and prints what it called: the
method and name of each route, and the method and path of each operation of the API.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import uuid
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.core import mail  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.migrations.recorder import MigrationRecorder  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import setup_test_environment  # noqa: E402
from django.utils import timezone  # noqa: E402

from accounts.models import AccessToken, BrowserSession  # noqa: E402
from accounts.notices.choices import unsubscribe_url  # noqa: E402
from credentials.api.device import GRANT_TYPE  # noqa: E402
from credentials.models import Endpoint, ServerProcess  # noqa: E402
from credentials.vault import heartbeats  # noqa: E402
from credentials.vault.heartbeats import Vitals  # noqa: E402
from tests.support.pages import value  # noqa: E402

EMAIL = "alice@example.org"
DESTINATION = {"destination_url": "http://127.0.0.1:9/v1", "unchecked": "on"}  # nothing listens there
called: set[str] = set()


class Browser(Client):
    """A client that notes each route and fails at an unexpected status."""

    def request(self, **request: Any) -> Any:
        response = super().request(**request)
        if response.resolver_match is not None:
            called.add(f"{request.get('REQUEST_METHOD', 'GET')} {response.resolver_match.view_name}")
        return response

    def see(self, path: str, status: int = 200) -> Any:
        response: Any = self.get(path)
        assert response.status_code == status, f"GET {path}: {response.status_code}"
        if response.streaming:
            list(response.streaming_content)
        return response

    def send(self, path: str, status: int = 303, /, *, at: str = "", **fields: str) -> Any:
        """Fill in the form of the page `at`, by default of the same path."""
        page = self.get(at or path)
        if b'name="submission"' in page.content:
            fields["submission"] = value(page, "submission")
        response = self.post(path, fields)
        assert response.status_code == status, f"POST {path}: {response.status_code}"
        return response


def sign_in(browser: Browser) -> None:
    mail.outbox.clear()
    browser.send("/signin/", email=EMAIL)
    browser.see("/signin/sent/")
    end = time.monotonic() + 60
    while not mail.outbox:  # another thread sends it
        assert time.monotonic() < end, "no email was sent"
        time.sleep(0.02)
    open_link(browser, re.findall(r"https?://\S+/signin/link/\S+", str(mail.outbox[0].body))[0])


def open_link(browser: Browser, link: str) -> None:
    path = urlsplit(link).path
    browser.see(path, 303)
    browser.send("/signin/confirm/", token=path.split("/")[3])


def use_endpoints(browser: Browser) -> None:
    browser.see("/endpoints/connect/")
    browser.send("/endpoints/connect/custom/", 201, api_key="sk-first", label="laptop", **DESTINATION)
    endpoint = Endpoint.objects.get()
    page = f"/endpoints/{endpoint.subdomain}/"
    browser.send(f"{page}name/", label="desktop")
    browser.send(f"{page}limits/", max_streams="5")
    browser.send(f"{page}pause/", at=page)
    browser.send(f"{page}resume/", at=page)
    browser.send(f"{page}key/", api_key="sk-second", unchecked="on")
    other = {**DESTINATION, "destination_url": "http://127.0.0.1:9/v2"}
    browser.send(f"{page}destination/", api_key="sk-third", **other)
    browser.send(f"{page}tokens/", 201, label="CI", expires_in="", requests_per_minute="60")
    token = endpoint.tokens.get(label="CI")
    at = f"{page}tokens/{token.pk}/"
    browser.send(f"{at}rotate/", 201)
    browser.send(f"{at}edit/", label="build", expires="keep", requests_per_day="500")
    browser.see(f"{at}use/")
    browser.send(f"{at}change-over/", 201)
    browser.send(f"{at}change-over/", finish="1")
    token = endpoint.tokens.get(label="build", revoked_at=None)
    browser.send(f"{page}tokens/{token.pk}/revoke/")
    spare = endpoint.tokens.live().get()
    browser.send(f"{page}tokens/revoke/", at=f"{page}tokens/revoke/?token={spare.pk}", token=spare.pk)
    browser.send(f"{page}tokens/revoke-all/", confirmation=endpoint.subdomain)
    browser.send("/endpoints/first-run/dismiss/", at="/endpoints/")
    for path in ("requests/", "traffic/", "?tokens=all"):
        browser.see(page + path)
    for path in (
        "/endpoints/?q=desk&state=active&sort=used",
        f"/activity/?endpoint={endpoint.subdomain}",
        "/activity/requests.csv",
        "/docs/curl/",
        "/docs/browsers/",
    ):
        browser.see(path)


def use_settings(browser: Browser) -> str:
    """Returns an access token."""
    shown = browser.send("/access-tokens/new/", 200, label="script", days="30", scopes="tokens endpoints")
    plaintext = re.search(r"pat_[0-9A-Za-z]{49}", shown.content.decode())
    assert plaintext
    browser.send("/access-tokens/new/", 200, label="old", days="", scopes="read")
    browser.send(f"/access-tokens/{AccessToken.objects.get(label='old').pk}/revoke/")
    for path in ("/settings/", "/access-tokens/", "/audit/?action=token.issued", "/audit.csv"):
        browser.see(path)
    browser.see("/audit/checkpoint", 404)  # there is none yet
    browser.see("/theme/?theme=dark", 303)
    return plaintext[0]


def use_notices(browser: Browser) -> None:
    browser.send("/settings/notices/", at="/settings/", mail="token.expired")
    browser.send("/settings/notices/test/", at="/settings/")
    browser.send("/settings/webhook/", 200, url="https://hooks.example.com/strake")
    browser.send("/settings/webhook/rotate/", 200, at="/settings/")
    browser.send("/settings/webhook/resume/", at="/settings/")
    browser.send("/settings/webhook/remove/", at="/settings/")
    person = BrowserSession.objects.latest("created_at").user
    browser.send(urlsplit(unsubscribe_url(person.pk, "token.expired")).path, 200)


def use_the_device_grant(browser: Browser) -> None:
    program = Browser()
    for decision, status in (("allow", 200), ("deny", 400)):
        started = program.post("/api/v1/device/code", {"client_id": "journey"}).json()
        form = {"client_id": "journey", "device_code": started["device_code"], "grant_type": GRANT_TYPE}
        assert program.post("/api/v1/device/token", form).status_code == 400
        browser.see(f"/device/?user_code={started['user_code']}")
        browser.send("/device/", 200, user_code=started["user_code"], decision=decision)
        assert program.post("/api/v1/device/token", form).status_code == status
    called.update({"POST /api/v1/device/code", "POST /api/v1/device/token"})


def use_sessions(browser: Browser) -> None:
    others = [Browser(), Browser(), Browser()]
    for other in others:
        sign_in(other)
    others[0].send("/signout/", at="/settings/")
    session = BrowserSession.objects.latest("created_at")
    browser.send(f"/settings/sessions/{session.pk}/end/", at="/settings/")
    browser.send("/settings/sessions/others/end/", at="/settings/")
    BrowserSession.objects.update(last_seen_at=timezone.now() - timedelta(hours=1))
    browser.see("/settings/")
    browser.see("/signin/again/", 303)
    others[1].send("/signin/confirm/", 410, at="/signin/", token="link_" + "0" * 49)


def use_the_api(token: str) -> None:
    script = Client(headers={"authorization": f"Bearer {token}"})

    def call(method: str, path: str, status: int, **body: object) -> Any:
        response = script.generic(method, f"/api/v1{path}", json.dumps(body), content_type="application/json")
        assert response.status_code == status, f"{method} {path}: {response.status_code}"
        called.add(f"{method} /api/v1{re.sub(r'/((ctok|patid|ses)_[^/]+|[a-z0-9]{12})(?=/|$)', '/ID', path)}")
        return response.json() if response.content else None

    for path in ("/me", "/audit", "/providers", "/access-tokens", "/access-tokens/current", "/sessions"):
        call("GET", path, 200)
    call("GET", "/audit/checkpoint", 404)
    new = {"provider": "custom", "api_key": "sk-fourth", "destination_url": "http://127.0.0.1:9", "unchecked": True}
    endpoint = "/endpoints/" + call("POST", "/endpoints", 201, **new)["endpoint"]["subdomain"]
    call("GET", "/endpoints", 200)
    call("GET", endpoint, 200)
    for part in ("settings", "usage", "requests", "tokens"):
        call("GET", f"{endpoint}/{part}", 200)
    call("PATCH", endpoint, 200, label="renamed", paused=True, max_streams=5)
    call("PATCH", endpoint, 200, paused=False)
    issued = f"{endpoint}/tokens/" + call("POST", f"{endpoint}/tokens", 201)["token"]["id"]
    call("GET", issued, 200)
    call("PATCH", issued, 200, label="changed", requests_per_day=5)
    call("POST", f"{issued}/duplicate", 201)
    secret = call("POST", f"{issued}/rotate", 200)["token"]["plaintext"]
    call("POST", f"{endpoint}/test", 200, token=secret)
    call("POST", "/tokens/revoke", 200, token=secret)
    call("DELETE", issued, 204)
    call("POST", f"{endpoint}/tokens/revoke-all", 200)
    call("POST", f"{endpoint}/credential/rotate", 200, api_key="sk-fifth", unchecked=True)
    moved = {**new, "destination_url": "http://127.0.0.1:9/v2"}
    del moved["provider"]
    call("POST", f"{endpoint}/destination", 200, **moved)
    call("DELETE", endpoint, 204)
    call("GET", "/notices", 200)
    call("PUT", "/notices", 200, mail=[], webhook=[])
    call("POST", "/notices/test", 202)
    call("PUT", "/notices/webhook", 200, url="https://hooks.example.com/strake")
    call("GET", "/notices/webhook", 200)
    call("POST", "/notices/webhook/rotate", 200)
    call("POST", "/notices/webhook/resume", 204)
    call("DELETE", "/notices/webhook", 204)
    call("DELETE", f"/access-tokens/{AccessToken.objects.get(label='old').pk}", 204)
    other = Browser()
    sign_in(other)
    session = BrowserSession.objects.latest("created_at").pk
    call("DELETE", f"/sessions/{session}", 204)
    call("DELETE", "/sessions", 200)
    AccessToken.objects.update(last_used_at=None)
    call("GET", "/me", 200)
    call("DELETE", "/access-tokens/current", 204)


def operate(browser: Browser) -> None:
    """As staff, see every page for operators, and suspend and resume a person."""
    endpoint = Endpoint.objects.get()
    at = f"/admin/people/{endpoint.owner_id}/"
    browser.see("/admin/", 302)
    for path in ("/docs/ui/", "/admin/health/", "/admin/people/?q=a&state=active&sort=suspended", at):
        browser.see(path)
    for state in ("active", "paused", "suspended", "keyless", "limited"):
        browser.see(f"/admin/endpoints/?q=desk&state={state}&sort=requests")
    browser.send(f"/admin/endpoints/{endpoint.subdomain}/limits/", max_streams="7")
    browser.send(f"{at}suspend/", reason="a test")
    browser.see(at)
    browser.send(f"{at}resume/")


def start_and_stop() -> None:
    """What a web process does besides pages: see that the database is migrated, and write and delete heartbeats."""
    assert MigrationRecorder(connection).applied_migrations()
    process, now = uuid.uuid4(), timezone.now()
    for waiting in (0, 1):
        heartbeats.record(process, "web", Vitals(waiting=waiting), now)
    heartbeats.remove(process)
    assert not ServerProcess.objects.exists()


def delete_everything(browser: Browser) -> None:
    browser.send("/endpoints/connect/custom/", 201, api_key="sk-sixth", label="kept", **DESTINATION)
    subdomain = Endpoint.objects.get(label="desktop").subdomain
    browser.send(f"/endpoints/{subdomain}/delete/", 302, confirmation=subdomain)
    browser.send("/settings/delete/", confirmation=EMAIL)
    assert not Endpoint.objects.exists()


def main(staff_link: str) -> None:
    setup_test_environment()
    settings.ALLOWED_HOSTS = ["testserver", *settings.ALLOWED_HOSTS]
    browser, staff = Browser(), Browser()
    for path in ("/", "/healthz", "/security/", "/privacy/", "/docs/", "/docs/errors/", "/api/v1/docs/"):
        browser.get(path)
    sign_in(browser)
    use_endpoints(browser)
    token = use_settings(browser)
    use_notices(browser)
    use_the_api(token)
    sign_in(browser)
    use_the_device_grant(browser)
    open_link(staff, staff_link)
    operate(staff)
    sign_in(browser)  # the suspension has ended the session
    use_sessions(browser)
    start_and_stop()
    delete_everything(browser)
    sys.stdout.write(json.dumps(sorted(called)))


if __name__ == "__main__":
    main(sys.argv[1])
