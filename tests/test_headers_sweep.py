"""Every route answers with the headers that keep a page to itself, whoever asks and however it ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from django.http import HttpResponse
from django.test import Client

from accounts.models import User
from tests import factories
from tests.test_commands import DEPLOYED
from tests.test_urls_sweep import METHODS, ROUTES, address

CSP = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "font-src": "'self'",
    "connect-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
NO_REFERRER = ("/signin/link/", "/signin/sent/")
ELSEWHERE = ["/nonesuch/", "/settings", "/api/v1/nonesuch", "/static/nonesuch.css"]


def policy(response: HttpResponse) -> dict[str, str]:
    directives = response.headers["Content-Security-Policy"].split(";")
    return dict(directive.strip().split(" ", 1) for directive in directives)


def assert_guarded(response: HttpResponse, what: str) -> None:
    assert policy(response) == CSP, what
    quiet = what.split()[1].startswith(NO_REFERRER) and response.status_code < 400
    expected = {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        # Pages with a form cannot say no-referrer: their own POST would come with `Origin: null`.
        "Referrer-Policy": "no-referrer" if quiet else "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    assert "no-store" in response.headers["Cache-Control"], what
    found = {name: response.headers.get(name) for name in expected}
    assert found == expected, what


@pytest.mark.django_db
@pytest.mark.parametrize("name", [name for name in ROUTES if not name.startswith("admin:")])
def test_every_route_guards_its_answers(name: str, alice: User) -> None:
    made = factories.make_endpoint(owner=alice)
    path = address(ROUTES[name], made)
    for person in (None, alice):
        for method in METHODS:
            browser = Client(raise_request_exception=False)
            if person:
                browser.force_login(person)
            response = browser.generic(method, path)
            assert_guarded(response, f"{method} {path} as {person}: {response.status_code}")


@pytest.mark.django_db
def test_errors_and_the_admin_are_guarded_too(alice: User, client: Client) -> None:
    for path in ELSEWHERE:
        assert_guarded(client.get(path), f"GET {path}")
    alice.is_staff = True
    alice.save()
    client.force_login(alice)
    assert_guarded(client.get("/admin/"), "GET /admin/")
    assert_guarded(Client(enforce_csrf_checks=True).post("/signin/", {"email": "a@b.org"}), "POST without a CSRF token")
    assert_guarded(client.get("/", headers={"host": "evil.example"}), "GET with a foreign host")


SCRIPT = """
import django; django.setup()
from django.test import Client
from django.conf import settings
from django.http import HttpResponse
from accounts import cookies
answer = Client().get("/healthz", secure=True, headers={"host": "strake.example.org"})
print(answer.status_code, answer.headers["Strict-Transport-Security"])
made = HttpResponse()
cookies.keep_nonce(made, "n"); cookies.keep_link_token(made, "t"); cookies.keep_email(made, "a@b.org")
for morsel in made.cookies.values():
    print(morsel.key, bool(morsel["secure"]), bool(morsel["httponly"]), morsel["samesite"], morsel["path"])
for kind in ("SESSION", "CSRF"):
    parts = ("NAME", "SECURE", "HTTPONLY", "SAMESITE", "DOMAIN", "PATH")
    print(*(getattr(settings, f"{kind}_COOKIE_{part}") for part in parts))
"""


def test_under_https_cookies_are_bound_to_host_and_tls_and_hsts_is_sent(tmp_path: object) -> None:
    environment = {**os.environ, **DEPLOYED, "STRAKE_HOME": str(tmp_path), "DJANGO_SETTINGS_MODULE": "strake.settings"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "200 max-age=31536000; includeSubDomains",
        "__Host-strake-browser True True Lax /",
        "__Secure-strake-link True True Lax /signin/",
        "__Secure-strake-email True True Lax /signin/",
        "__Host-strake-session True True Lax None /",
        "__Host-strake-csrf True True Lax None /",
    ]
