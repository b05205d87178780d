"""Small parts that every page is built from."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince, timeuntil

register = template.Library()


@register.simple_tag
def icon(name: str) -> SafeString:
    """An icon of strake/static/strake/icons.svg. It is decoration: the meaning belongs into text beside it."""
    sprite = static("strake/icons.svg")
    return format_html('<svg class="icon" aria-hidden="true"><use href="{}#{}"></use></svg>', sprite, name)


@register.inclusion_tag("components/nav_item.html", takes_context=True)
def nav_item(context: template.Context, route: str, icon_name: str, label: str) -> dict[str, str]:
    """A line of the navigation; current on its own page and on the pages below it."""
    request: HttpRequest = context["request"]
    try:
        url = reverse(route)
    except NoReverseMatch:  # the page is not there yet
        return {}
    current = "page" if request.path == url else "true" if request.path.startswith(url) else ""
    return {"url": url, "icon_name": icon_name, "label": label, "current": current}


@register.simple_tag
def ago(moment: datetime | None, never: str = "never") -> SafeString:
    """A point in time in words, exact on hover. strake.js turns the hover text into the reader's own time zone."""
    if moment is None:
        return format_html('<span class="muted">{}</span>', never)
    seconds = (timezone.now() - moment).total_seconds()
    if abs(seconds) < 60:
        words = "just now"
    elif seconds < 0:
        days = round(-seconds / 86400)
        words = f"in {days} days" if days > 1 else f"in {timeuntil(moment).split(',')[0]}"
    else:
        words = f"{timesince(moment).split(',')[0]} ago"
    exact = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact, words)


@register.simple_tag(takes_context=True)
def query(context: template.Context, **changes: object) -> str:
    """The query string of this page with some parameters changed; an empty value removes one."""
    parameters = context["request"].GET.copy()
    for name, value in changes.items():
        parameters.pop(name, None)
        if value not in {"", None}:
            parameters[name] = str(value)
    return f"?{parameters.urlencode()}" if parameters else "?"
