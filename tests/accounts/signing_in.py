"""Helpers to sign in by link with Django's test client."""

from __future__ import annotations

import re

from django.conf import settings
from django.test import Client

from accounts import access_tokens
from accounts.models import User
from accounts.sign_in import magic_links
from tests.support.pages import FROM_LOOPBACK

ORIGIN = "http://localhost:8000"
# Group 1 is the path of a link in an email, group 2 its token.
LINK = re.compile(ORIGIN + r"(/signin/link/(link_[0-9A-Za-z]{49})/)")
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def operator_link_path(email: str = "alice@example.org") -> str:
    """The path of a new link, as `manage.py signin_link` creates it."""
    return magic_links.operator_link(email=email).removeprefix(ORIGIN)


def cookie_name(what: str) -> str:
    """The name of Strake's cookie for `what`, such as "session"."""
    name: str = settings.STRAKE_COOKIE.format(what)
    return name


def token_in(path: str) -> str:
    return path.split("/")[3]


def confirm(browser: Client, path: str) -> int:
    """Open a link and confirm it. Returns the status of the confirmation."""
    browser.get(path)
    return browser.post("/signin/confirm/", {"token": token_in(path)}).status_code


def sign_in(user: User) -> Client:
    """A new browser in which `user` has signed in."""
    browser = Client(headers=FROM_LOOPBACK | {"User-Agent": FIREFOX})
    assert confirm(browser, operator_link_path(user.email)) == 303
    return browser


def is_signed_in(browser: Client) -> bool:
    return browser.get("/settings/").status_code == 200


def user_of(access_token: str) -> User | None:
    """The user that an access token acts for, or None if it is refused."""
    found = access_tokens.authenticate(access_token)
    return found.user if found is not None else None
