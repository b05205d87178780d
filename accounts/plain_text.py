"""Characters that no stored text may contain: they make a terminal or a page show something else than the text.

Output escapes them too, because text also comes from elsewhere: arguments, settings, other programs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from accounts.errors import InvalidLabel

if TYPE_CHECKING:
    from django.db.models import CheckConstraint

# Control characters, and the bidirectional formatting characters of Unicode (UAX #9). Both PostgreSQL and Python read
# this class. It lacks NUL, which PostgreSQL refuses in any text.
_CLASS = "\\u0001-\\u001f\\u007f-\\u009f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069"
UNSAFE_CHARACTERS = re.compile(f"[\\x00{_CLASS}]")
_PLAIN = rf"^[^{_CLASS}]*\Z"


def is_plain(text: str) -> bool:
    """True if `text` contains no unsafe character."""
    return UNSAFE_CHARACTERS.search(text) is None


def replace_unsafe(text: str) -> str:
    """Return `text` with U+FFFD in place of each unsafe character."""
    return UNSAFE_CHARACTERS.sub("\ufffd", text)


def escape_unsafe(text: str) -> str:
    r"""Return `text` for a terminal or a log, with an escape like `\x1b` in place of each unsafe character."""
    return UNSAFE_CHARACTERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def clean_label(text: str) -> str:
    """Return a label with single spaces. Raises `InvalidLabel` if it contains an unsafe character."""
    label = " ".join(text.split())
    if not is_plain(label):
        raise InvalidLabel("The label contains control characters. Type it again instead of pasting it.")
    return label


def validate_label(text: str) -> None:
    """A validator of form fields, as `clean_label`."""
    from django.core.exceptions import ValidationError

    try:
        clean_label(text)
    except InvalidLabel as error:
        raise ValidationError(str(error)) from None


def plain_constraint(field: str, name: str) -> CheckConstraint:
    """A database constraint that refuses unsafe characters in a text column."""
    from django.db.models import CheckConstraint, Q  # the supervisor uses this module and does not load Django

    return CheckConstraint(condition=Q(**{f"{field}__regex": _PLAIN}), name=name)
