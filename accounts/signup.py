"""Who may become a user: `STRAKE_SIGNUP` is `open`, `closed`, or a list of e-mail domains and addresses."""

from __future__ import annotations

from django.conf import settings

from accounts.addresses import normalise_email
from accounts.errors import InvalidEmail


def may_sign_up(email: str) -> bool:
    """Whether a normalised address without an account may get one."""
    words = {word.lower().removeprefix("@") for word in settings.STRAKE_SIGNUP}
    return "open" in words or email in words or email.rpartition("@")[2] in words


def mistakes() -> list[str]:
    """What is wrong with `STRAKE_SIGNUP`, as sentences. Empty when it is fine."""
    words = [word.lower().removeprefix("@") for word in settings.STRAKE_SIGNUP]
    if {"open", "closed"}.intersection(words) and len(words) > 1:
        return ["It mixes open or closed with addresses; use one of the words alone, or a list without them."]
    return [
        f"{word!r} is neither open, closed, an e-mail domain (example.org) nor an address (ann@example.org)."
        for word in words
        if word not in {"open", "closed"} and not _is_address(word if "@" in word else f"a@{word}")
    ]


def _is_address(text: str) -> bool:
    try:
        normalise_email(text)
    except InvalidEmail:
        return False
    return True
