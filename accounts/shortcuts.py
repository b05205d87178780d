"""Helpers for views, in this package and in those above it."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.shortcuts import redirect


def see_other(to: str, *args: Any) -> HttpResponse:
    """Redirect with 303, which the browser follows with GET. `to` is a path, or a route with `args`."""
    response = redirect(to, *args)
    response.status_code = 303
    return response
