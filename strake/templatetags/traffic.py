"""Figures of the request log as people read them."""

from __future__ import annotations

from django import template

from strake.pages import error_help
from strake.pages.request_lines import Line

register = template.Library()


@register.filter
def outcome(line: Line) -> str:
    """The class of a status chip. A WebSocket connection that was ended has the status of its beginning."""
    return "bad" if line.status >= 500 else "warn" if line.status >= 400 or line.error else "good"


@register.filter
def reason(code: str) -> str:
    """An error code in a few words."""
    return error_help.reason(code)


@register.filter
def is_documented(code: str) -> bool:
    """True if /docs/errors/ has an entry for the code."""
    return code in error_help.HELP


@register.filter
def thousands(value: int) -> str:
    """A number with separators: 10,101."""
    return f"{value:,}"


@register.filter
def milliseconds(value: int | None) -> str:
    """A duration: `850 ms`, `12.3 s`, or `-` if there is none."""
    if value is None:
        return "-"
    return f"{value:,} ms" if value < 10_000 else f"{value / 1000:,.1f} s"
