"""Small parts that every page is built from."""

from __future__ import annotations

from django import template
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

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
