"""Telling browsers apart: a cookie with a random value, and a name that a person recognises."""

from __future__ import annotations

import hashlib
import secrets

# In this order: Edge and Opera call themselves Chrome too, and everybody calls himself Safari.
_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
)
_SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


def new_nonce() -> str:
    """The value of the cookie that marks a browser which asked for a link."""
    return secrets.token_urlsafe(32)


def digest(nonce: str) -> bytes:
    """What the link remembers of the browser that asked for it."""
    return hashlib.sha256(b"strake.accounts.browser:" + nonce.encode()).digest()


def describe(user_agent: str) -> str:
    """`Firefox on Linux`, from a User-Agent header. Words of ours only, never text of the header."""
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), "")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), "")
    if browser and system:
        return f"{browser} on {system}"
    return browser or system or "Unknown browser"
