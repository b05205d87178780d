"""Views for signing in and out."""

from __future__ import annotations

from functools import partial

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import audit, tokens, users
from accounts.errors import LinkNotValid, TooManyRequests
from accounts.models import LINK_TOKEN_PREFIX, User
from accounts.sessions import service as sessions
from accounts.shortcuts import see_other
from accounts.sign_in import cookies, magic_links, metrics, throttle
from accounts.sign_in.forms import SignInForm
from accounts.sign_in.mail import delivery
from accounts.sign_in.policy import safe_next_path


@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """Request a link. The response is the same for every email address."""
    if request.method != "POST":
        next_path = safe_next_path(request.GET.get("next", ""))
        if request.user.is_authenticated:
            return see_other(next_path or settings.LOGIN_REDIRECT_URL)
        local = users.of_this_machine() if settings.STRAKE_LOOPBACK else None
        form = SignInForm(initial={"next": next_path, "email": local.email if local else ""})
        return _ask_for_email(request, form, local=local)
    form = SignInForm(request.POST)
    if not form.is_valid():
        return _ask_for_email(request, form, status=400)
    if delivery() == "none":
        return _ask_for_email(request, form)
    return _request_link(request, form.cleaned_data["email"], form.cleaned_data["next"])


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in_again(request: HttpRequest) -> HttpResponse:
    """Request a link for the person who is already signed in, to confirm that they can read their email."""
    if request.method != "POST":
        next_path = safe_next_path(request.GET.get("next", ""))
        if sessions.is_recent(request):
            return see_other(next_path or settings.LOGIN_REDIRECT_URL)
        return _ask_to_confirm(request, next_path)
    if delivery() == "none":
        return _ask_to_confirm(request, safe_next_path(request.POST.get("next", "")))
    return _request_link(request, audit.actor_of(request).user.email, request.POST.get("next", ""))


def _ask_for_email(
    request: HttpRequest, form: SignInForm, *, local: User | None = None, status: int = 200
) -> HttpResponse:
    context = {"form": form, "delivery": delivery(), "local": local, "unsaved": "unsaved" in request.GET}
    return render(request, "accounts/sign_in.html", context, status=status)


def _ask_to_confirm(request: HttpRequest, next_path: str) -> HttpResponse:
    context = {"next": next_path, "unsaved": "unsaved" in request.GET, "delivery": delivery()}
    return render(request, "accounts/sign_in_again.html", context)


def _request_link(request: HttpRequest, email: str, next_path: str) -> HttpResponse:
    ip = audit.request_ip(request)
    verdict = throttle.count_address(throttle.LINKS_PER_ADDRESS, throttle.LINKS_PER_SITE, ip)
    if verdict.exceeded:
        return _too_many_requests(request, verdict.retry_after)
    browser_id = cookies.get_or_create_browser_id(request)
    magic_links.request_link(
        email=email,
        browser_id=browser_id,
        next_path=next_path,
        ip=ip,
        user_agent=request.headers.get("User-Agent", ""),
    )
    response = see_other("accounts:link_sent")
    cookies.set_browser_id(response, browser_id)
    cookies.set_email(response, email)
    return response


@require_safe
def link_sent(request: HttpRequest) -> HttpResponse:
    context = {
        "email": cookies.get_email(request),
        "minutes": settings.STRAKE_LINK_MINUTES,
        "on_terminal": delivery() == "terminal",
    }
    response = render(request, "accounts/link_sent.html", context)
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def open_link(request: HttpRequest, token: str) -> HttpResponse:
    """Open a link from an email. Redeems nothing with any method, because mail scanners open links too.

    Moves the token into a cookie, so that it does not stay in the browser's history or leak in a Referer header.
    """
    response = see_other("accounts:confirm")
    response.headers["Referrer-Policy"] = "no-referrer"
    if tokens.is_well_formed(token, LINK_TOKEN_PREFIX):
        cookies.set_link_token(response, token)
    else:
        cookies.delete_link_token(response)
    return response


@require_http_methods(["GET", "HEAD", "POST"])
def confirm(request: HttpRequest) -> HttpResponse:
    """Show whom the link signs in. On POST, redeem it."""
    try:
        if request.method != "POST":
            link = magic_links.find_link(
                token=cookies.get_link_token(request), browser_id=cookies.get_browser_id(request)
            )
            return render(request, "accounts/confirm.html", {"link": link})
        ip, token = audit.request_ip(request), request.POST.get("token", "")
        verdict = magic_links.count_attempt(token=token, ip=ip)
        if verdict.exceeded:
            return _too_many_requests(request, verdict.retry_after)
        redeemed = magic_links.redeem_link(
            token=token,
            ip=ip,
            start_session=partial(sessions.start, request),
            user_agent=request.headers.get("User-Agent", ""),
        )
    except TooManyRequests as error:
        return _too_many_requests(request, error.retry_after, str(error))
    except LinkNotValid as error:
        metrics.REFUSALS.add("link_not_valid")
        token = request.POST.get("token", "") or cookies.get_link_token(request)
        asked = magic_links.asked_by(token=token, browser_id=cookies.get_browser_id(request))
        context = {"error": error, "asked": asked, "delivery": delivery()}
        response = render(request, "accounts/link_not_valid.html", context, status=410)
    else:
        response = see_other(redeemed.next_path or settings.LOGIN_REDIRECT_URL)
    cookies.delete_link_token(response)
    return response


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    sessions.sign_out(request)
    return see_other("accounts:sign_in")


def _too_many_requests(request: HttpRequest, retry_after: int, reason: str = "") -> HttpResponse:
    metrics.REFUSALS.add("too_many_requests")
    context = {"minutes": -(-retry_after // 60), "reason": reason}
    response = render(request, "accounts/too_many.html", context, status=429)
    response.headers["Retry-After"] = str(retry_after)
    return response
