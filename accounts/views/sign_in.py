"""Signing in and out. Each view parses, calls one verb and answers."""

from __future__ import annotations

from functools import partial

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import audit, cookies, limits, links, sessions, tokens
from accounts.errors import LinkNotValid
from accounts.forms import SignInForm
from accounts.models import LINK_TOKEN_PREFIX
from accounts.paths import own_path
from accounts.views.common import see_other, signed_in


@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """Ask for a link. The answer is the same for every address."""
    if request.method != "POST":
        next_path = own_path(request.GET.get("next", ""))
        if request.user.is_authenticated:
            return see_other(next_path or settings.LOGIN_REDIRECT_URL)
        return render(request, "accounts/sign_in.html", {"form": SignInForm(initial={"next": next_path})})
    form = SignInForm(request.POST)
    if not form.is_valid():
        return render(request, "accounts/sign_in.html", {"form": form}, status=400)
    return _mail_link(request, form.cleaned_data["email"], form.cleaned_data["next"])


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in_again(request: HttpRequest) -> HttpResponse:
    """Ask somebody who is signed in to prove once more that they read their mail."""
    if request.method != "POST":
        next_path = own_path(request.GET.get("next", ""))
        if sessions.is_recent(request):
            return see_other(next_path or settings.LOGIN_REDIRECT_URL)
        context = {"next": next_path, "unsaved": "unsaved" in request.GET}
        return render(request, "accounts/sign_in_again.html", context)
    return _mail_link(request, signed_in(request).email, request.POST.get("next", ""))


def _mail_link(request: HttpRequest, email: str, next_path: str) -> HttpResponse:
    ip = audit.request_ip(request)
    verdict = limits.count_address(limits.LINKS_PER_ADDRESS, limits.LINKS_PER_SITE, ip)
    if verdict.exceeded:
        return _too_many(request, verdict)
    nonce = cookies.new_nonce(request)
    links.request_link(
        email=email, nonce=nonce, next_path=next_path, ip=ip, user_agent=request.headers.get("User-Agent", "")
    )
    response = see_other("accounts:link_sent")
    cookies.keep_nonce(response, nonce)
    cookies.keep_email(response, email)
    return response


@require_safe
def link_sent(request: HttpRequest) -> HttpResponse:
    context = {"email": cookies.email(request), "minutes": settings.STRAKE_LINK_MINUTES, "on_terminal": _on_terminal()}
    response = render(request, "accounts/link_sent.html", context)
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def open_link(request: HttpRequest, token: str) -> HttpResponse:
    """Where the mail leads. Changes nothing, whatever the method: mail scanners open links, too.

    The token goes on in a cookie, so that it stays out of the browser's history and of any Referer.
    """
    response = see_other("accounts:confirm")
    response.headers["Referrer-Policy"] = "no-referrer"
    if tokens.is_well_formed(token, LINK_TOKEN_PREFIX):
        cookies.keep_link_token(response, token)
    else:
        cookies.drop_link_token(response)
    return response


@require_http_methods(["GET", "HEAD", "POST"])
def confirm(request: HttpRequest) -> HttpResponse:
    """Show whom the link signs in; on POST use it up."""
    try:
        if request.method != "POST":
            link = links.find_open_link(token=cookies.link_token(request), nonce=cookies.nonce(request))
            return render(request, "accounts/confirm.html", {"link": link})
        ip = audit.request_ip(request)
        verdict = limits.count_address(limits.CONFIRMS_PER_ADDRESS, limits.CONFIRMS_PER_SITE, ip)
        if verdict.exceeded:
            return _too_many(request, verdict)
        redeemed = links.redeem_link(
            token=request.POST.get("token", ""), ip=ip, start_session=partial(sessions.start, request)
        )
    except LinkNotValid as error:
        response = render(request, "accounts/link_not_valid.html", {"error": error}, status=410)
    else:
        response = see_other(redeemed.next_path or settings.LOGIN_REDIRECT_URL)
    cookies.drop_link_token(response)
    return response


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    sessions.sign_out(request)
    return see_other("accounts:sign_in")


def _too_many(request: HttpRequest, verdict: limits.Verdict) -> HttpResponse:
    minutes = -(-verdict.retry_after // 60)
    response = render(request, "accounts/too_many.html", {"minutes": minutes}, status=429)
    response.headers["Retry-After"] = str(verdict.retry_after)
    return response


def _on_terminal() -> bool:
    return bool(settings.EMAIL_BACKEND == "accounts.mail.TerminalBackend")
