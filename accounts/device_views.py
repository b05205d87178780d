"""The page on which people allow or deny programs that ask for an access token (`accounts.device_grants`)."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from accounts import device_grants
from accounts.actors import Person
from accounts.addresses import parse_address
from accounts.audit import actor_of
from accounts.errors import NotFound, TooManyRequests
from accounts.sessions.decorators import recent_sign_in_required


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
def device(request: HttpRequest) -> HttpResponse:
    """Ask for the code of the terminal, then show who asks for what. On POST, allow or deny it."""
    actor = actor_of(request)
    code = (request.POST if request.method == "POST" else request.GET).get("user_code", "").strip()[:64]
    try:
        if request.method == "POST" and "decision" in request.POST:
            return _decide(request, actor, code, allowed=request.POST["decision"] == "allow")
        grant = device_grants.find(actor=actor, user_code=code) if code else None
    except NotFound as error:
        return _page(request, status=400, error=str(error))
    except TooManyRequests as error:
        response = _page(request, status=429, error=f"{error} Try again in {-(-error.retry_after // 60)} minutes.")
        response.headers["Retry-After"] = str(error.retry_after)
        return response
    if grant is None:
        return _page(request)
    return _page(request, grant=grant, code=code.upper(), is_from_elsewhere=_is_elsewhere(grant.ip, actor.ip))


def _decide(request: HttpRequest, actor: Person, code: str, *, allowed: bool) -> HttpResponse:
    decide = device_grants.allow if allowed else device_grants.deny
    grant = decide(actor=actor, user=actor.user, user_code=code)
    return _page(request, decided="allowed" if allowed else "denied", grant=grant)


def _is_elsewhere(asked_from: str | None, here: str | None) -> bool:
    """Whether two addresses differ. This machine has one for IPv4 and one for IPv6."""
    addresses = [parse_address(address or "") for address in (asked_from, here)]
    return addresses[0] != addresses[1] and not all(address and address.is_loopback for address in addresses)


def _page(request: HttpRequest, *, status: int = 200, **context: Any) -> HttpResponse:
    days = device_grants.TOKEN_LIFETIME.days
    return render(request, "accounts/device.html", {"days": days, **context}, status=status)
