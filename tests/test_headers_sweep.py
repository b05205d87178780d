"""Every response of every route has the security headers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.http.response import HttpResponseBase
from django.test import Client

from accounts.models import User
from tests.support import factories
from tests.support.raw import exchange
from tests.support.running import Strake
from tests.test_commands import DEPLOYED
from tests.test_urls_sweep import METHODS, ROUTES, url_of

# Of the base URL, and of the name that the test client uses.
STATIC = "http://localhost:8000/static/ http://testserver/static/"
CSP = {
    "default-src": "'none'",
    "script-src": STATIC,
    "style-src": STATIC,
    "img-src": STATIC,
    "font-src": STATIC,
    "connect-src": "'self'",
    "frame-src": "'none'",
    "worker-src": "'none'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
SECRET_IN_URL = ("/signin/link/", "/signin/sent/")
OTHER_PATHS = ["/nonesuch/", "/settings", "/api/v1/nonesuch", "/static/nonesuch.css"]


def policy(response: HttpResponseBase) -> dict[str, str]:
    directives = response.headers["Content-Security-Policy"].split(";")
    return dict(directive.strip().split(" ", 1) for directive in directives)


def assert_protected(response: HttpResponseBase, what: str) -> None:
    """Fail unless the response has the security headers. `what` begins with method and path."""
    assert policy(response) == CSP, what
    is_secret = what.split()[1].startswith(SECRET_IN_URL) and response.status_code < 400
    expected = {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        # With no-referrer, the POST of a form sends `Origin: null`, which Django refuses.
        "Referrer-Policy": "no-referrer" if is_secret else "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    assert "no-store" in response.headers["Cache-Control"], what
    found = {name: response.headers.get(name) for name in expected}
    assert found == expected, what


@pytest.mark.django_db
@pytest.mark.parametrize("name", ROUTES)
def test_every_route_has_security_headers(name: str, alice: User) -> None:
    made = factories.make_endpoint(owner=alice)
    path = url_of(ROUTES[name], made)
    for person in (None, alice):
        for method in METHODS:
            browser = Client(raise_request_exception=False)
            if person:
                browser.force_login(person)
            response = browser.generic(method, path)
            assert_protected(response, f"{method} {path} as {person}: {response.status_code}")


@pytest.mark.django_db
def test_errors_and_the_admin_have_security_headers(alice: User, client: Client) -> None:
    for path in OTHER_PATHS:
        assert_protected(client.get(path), f"GET {path}")
    alice.is_staff = True
    alice.save()
    client.force_login(alice)
    assert_protected(client.get("/admin/people/"), "GET /admin/people/")
    assert_protected(
        Client(enforce_csrf_checks=True).post("/signin/", {"email": "a@b.org"}), "POST without a CSRF token"
    )
    foreign = client.get("/", headers={"host": "evil.example"})
    assert policy(foreign)["script-src"] == "http://localhost:8000/static/"
    assert "no-store" in foreign.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("localhost:8000", "http://localhost:8000/static/"),
        ("127.0.0.1:9000", "http://localhost:8000/static/ http://127.0.0.1:9000/static/"),
        ("[::1]:8000", "http://localhost:8000/static/ 'self'"),
    ],
)
def test_pages_load_static_files_under_every_own_name(host: str, source: str, client: Client) -> None:
    assert policy(client.get("/security/", headers={"host": host}))["script-src"] == source


PATHS_UNDER_STATIC = [
    "", "x", "x/", "strake", "strake/", "strake/css/strake.css", "strake/css/strake.css/", "admin", "admin/css", "/p/x",
    "%2e%2e/p/abcdefghijkl/x", "..%2fp/abcdefghijkl/x", "//evil.example", "x?next=/p/x", "%2f%2fevil.example/",
    "\\evil.example", "strake/strake.000000000000.css",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS_UNDER_STATIC)
def test_nothing_under_static_redirects(path: str, strake: Strake) -> None:
    """Browsers compare only the origin of a source with the address after a redirect."""
    for method in ("GET", "HEAD", "POST"):
        request = (
            f"{method} /static/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        answer = exchange(strake.address, request.encode(), silence=3)
        assert answer.status in {200, 400, 404, 405}, answer.raw[:300]
        assert not answer.all("location")


SCRIPT = """
import django; django.setup()
from django.test import Client, RequestFactory
from django.conf import settings
from django.http import HttpResponse
from accounts.sign_in import cookies
response = Client().get("/healthz", secure=True, headers={"host": "strake.example.org"})
print(response.status_code, response.headers["Strict-Transport-Security"])
print(*(part for part in response.headers["Content-Security-Policy"].split("; ") if part.startswith("script-src")))
cookie_response = HttpResponse()
cookies.set_browser_id(cookie_response, "n")
cookies.set_link_token(cookie_response, "t")
cookies.set_email(cookie_response, "a@b.org")
storage = cookies.MessageStorage(RequestFactory().get("/"))
storage.add(20, "Saved.")
storage.update(cookie_response)
for morsel in cookie_response.cookies.values():
    print(morsel.key, bool(morsel["secure"]), bool(morsel["httponly"]), morsel["samesite"], morsel["path"])
for kind in ("SESSION", "CSRF"):
    parts = ("NAME", "SECURE", "HTTPONLY", "SAMESITE", "DOMAIN", "PATH")
    print(*(getattr(settings, f"{kind}_COOKIE_{part}") for part in parts))
"""


def test_https_binds_cookies_and_sends_hsts(tmp_path: Path) -> None:
    environment = {**os.environ, **DEPLOYED, "STRAKE_HOME": str(tmp_path), "DJANGO_SETTINGS_MODULE": "strake.settings"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "200 max-age=31536000; includeSubDomains",
        "script-src https://strake.example.org/static/",
        "__Host-strake-browser True True Lax /",
        "__Host-strake-link True True Lax /",
        "__Host-strake-email True True Lax /",
        "__Host-strake-messages True True Lax /",
        "__Host-strake-session True True Lax None /",
        "__Host-strake-csrf True True Lax None /",
    ]
