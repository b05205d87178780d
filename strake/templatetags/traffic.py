"""Figures of the request log as people read them."""

from __future__ import annotations

from datetime import timedelta

from django import template
from django.utils import timezone

from proxy.request_log.stats import Period, Step
from strake.pages import error_help
from strake.pages.charts import Bar
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
def advice(code: str) -> str:
    """What to do about an error code, or "" for an unknown one."""
    return error_help.HELP.get(code, "")


@register.filter
def slug(position: str) -> str:
    """A position as an id of an element."""
    return "".join(character for character in position if character.isalnum())


@register.filter
def is_documented(code: str) -> bool:
    """True if /docs/errors/ has an entry for the code."""
    return code in error_help.HELP


@register.filter
def thousands(value: int) -> str:
    """A number with separators: 10,101."""
    return f"{value:,}"


@register.filter
def half(value: int) -> int:
    return value // 2


@register.filter
def milliseconds(value: int | None) -> str:
    """A duration: `850 ms`, `12.3 s`, or `-` if there is none."""
    if value is None:
        return "-"
    return f"{value:,} ms" if value < 10_000 else f"{value / 1000:,.1f} s"


@register.filter
def describe_requests(bar: Bar, period: Period) -> str:
    """The requests of a bar, as its hover text."""
    step = bar.step
    parts = [f"{thousands(step.total)} request{'' if step.total == 1 else 's'}"]
    parts += [f"{thousands(number)} {name}" for number, name in _parts(step) if number]
    return f"{_span(bar, period)}: {', '.join(parts)}"


def _parts(step: Step) -> tuple[tuple[int, str], ...]:
    return ((step.refused, "4xx"), (step.failed, "5xx"), (step.stopped, "refused by Strake"))


@register.filter
def describe_times(bar: Bar, period: Period) -> str:
    """The total times of a step, as its hover text."""
    step = bar.step
    if step.p50 is None:
        return f"{_span(bar, period)}: nothing answered"
    return f"{_span(bar, period)}: median {milliseconds(step.p50)}, 95th percentile {milliseconds(step.p95)}"


def _span(bar: Bar, period: Period) -> str:
    start = timezone.localtime(bar.step.start)
    if bar.is_running:
        return f"{start:%-d %b, %H:%M} until now"
    end = timezone.localtime(bar.step.start + timedelta(hours=period.hours_per_step))
    return f"{start:%-d %b, %H:%M} to {end:%H:%M}" if period.hours_per_step < 24 else f"{start:%-d %b, %H:%M}, 24 hours"
