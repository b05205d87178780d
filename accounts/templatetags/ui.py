"""Template tags that every page is built from."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.conf import settings
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


@register.simple_tag(takes_context=True)
def theme_attribute(context: template.Context) -> SafeString:
    """The attribute of <html> that makes a page light or dark. Nothing if it follows the system."""
    theme = _theme(context)
    return format_html(' data-theme="{}"', theme) if theme else SafeString()


@register.inclusion_tag("components/theme.html", takes_context=True)
def theme_choice(context: template.Context) -> dict[str, object]:
    choices = [("light", "Light"), ("dark", "Dark"), ("", "System")]
    return {
        "theme": _theme(context),
        "choices": choices,
        "url": page_url("theme"),
        "theme_cookie": settings.STRAKE_COOKIE.format("theme"),
        "time_zone_cookie": settings.STRAKE_COOKIE.format("timezone"),
    }


@register.simple_tag
def page_url(route: str, *args: str) -> str:
    """The URL of a page of a higher app. Raises `LookupError` if no app has added `route` to `navigation.pages`."""
    if route not in navigation.pages:
        raise LookupError(f"No app has registered the page {route}.")
    return reverse(route, args=args)


@register.simple_tag
def ago(moment: datetime | None, never: str = "never") -> SafeString:
    """A relative time ("2 hours ago") with the exact time, in the reader's time zone, as hover text."""
    if moment is None:
        return format_html('<span class="muted">{}</span>', never)
    exact = f"{timezone.localtime(moment):%Y-%m-%d %H:%M:%S %Z}"
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact, _relative(moment))


def _relative(moment: datetime) -> str:
    seconds = (timezone.now() - moment).total_seconds()
    if abs(seconds) < 60:
        return "just now"
    if seconds < 0:
        days = round(-seconds / 86400)
        return f"in {days} days" if days > 1 else f"in {timeuntil(moment).split(',')[0]}"
    return f"{timesince(moment).split(',')[0]} ago"


def _theme(context: template.Context) -> str:
    """Return `light`, `dark`, or "" if the page follows the system, as those do that are rendered without a request."""
    request: HttpRequest | None = context.get("request")
    theme = "" if request is None else request.COOKIES.get(settings.STRAKE_COOKIE.format("theme"), "")
    return theme if theme in {"light", "dark"} else ""


@register.simple_tag
def time_zone(label: str) -> str:
    """The label of a column of times, with the name of the reader's time zone."""
    return f"{label} ({timezone.localtime().tzname()})"


@register.filter
def clock(moment: datetime) -> SafeString:
    """A time of day, `20:12:41`, in the reader's time zone, with the date and how long ago it was as hover text."""
    local = timezone.localtime(moment)
    title = f"{local:%Y-%m-%d %H:%M:%S %Z}, {_relative(moment)}"
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), title, f"{local:%H:%M:%S}")


@register.simple_tag(takes_context=True)
def query(context: template.Context, **changes: object) -> str:
    """The query string of this page with some parameters changed. An empty value removes the parameter."""
    parameters = context["request"].GET.copy()
    for name, value in changes.items():
        parameters.pop(name, None)
        if value not in {"", None}:
            parameters[name] = str(value)
    return f"?{parameters.urlencode()}" if parameters else "?"
