"""Template tags that every page is built from."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince, timeuntil

from accounts import navigation

register = template.Library()


@register.simple_tag
def icon(name: str) -> SafeString:
    """An icon from strake/static/strake/icons.svg. Icons are decoration: put the meaning into text next to it."""
    sprite = static("strake/icons.svg")
    return format_html('<svg class="icon" aria-hidden="true"><use href="{}#{}"></use></svg>', sprite, name)


@register.inclusion_tag("components/menu.html", takes_context=True)
def main_menu(context: template.Context) -> dict[str, object]:
    """The main menu. The link to this page, or to the nearest page above it, is marked as current."""
    request: HttpRequest = context["request"]
    visible = [link for link in navigation.main_menu.links if link.audience.includes(request.user)]
    urls = [reverse(link.route) for link in visible]
    nearest = max((url for url in urls if request.path.startswith(url)), key=len, default="")
    current = {nearest: "page" if request.path == nearest else "true"}
    return {"links": [(url, current.get(url, ""), link) for url, link in zip(urls, visible, strict=True)]}


@register.inclusion_tag("components/footer_links.html")
def footer_links() -> dict[str, object]:
    return {"links": [(reverse(link.route), link.label) for link in navigation.footer.links]}


@register.simple_tag
def page_url(route: str, *args: str) -> str:
    """The URL of a page of a higher app. Raises `LookupError` if no app has added `route` to `navigation.pages`."""
    if route not in navigation.pages:
        raise LookupError(f"No app has registered the page {route}.")
    return reverse(route, args=args)


@register.simple_tag
def ago(moment: datetime | None, never: str = "never") -> SafeString:
    """A relative time ("2 hours ago") with the exact time as hover text, which a script converts to local time."""
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
    """The query string of this page with some parameters changed. An empty value removes the parameter."""
    parameters = context["request"].GET.copy()
    for name, value in changes.items():
        parameters.pop(name, None)
        if value not in {"", None}:
            parameters[name] = str(value)
    return f"?{parameters.urlencode()}" if parameters else "?"
