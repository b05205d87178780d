"""The settings page: where one is signed in, and leaving."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import sessions, users
from accounts.audit import actor_of
from accounts.decorators import recent_sign_in_required
from accounts.errors import ConfirmationMismatch, NotFound
from accounts.forms import DeleteAccountForm
from accounts.views.common import see_other, signed_in


@login_required
@require_safe
def settings_page(request: HttpRequest) -> HttpResponse:
    context = {
        "sessions": sessions.list_sessions(signed_in(request)),
        "current": sessions.current_session(request),
    }
    return render(request, "accounts/settings.html", context)


@login_required
@require_POST
def end_session(request: HttpRequest, session_id: str) -> HttpResponse:
    try:
        sessions.end_session(actor=actor_of(request), session_id=session_id)
    except NotFound as error:
        raise Http404 from error
    messages.success(request, "That browser is signed out.")
    return see_other("accounts:settings")


@login_required
@require_POST
def end_other_sessions(request: HttpRequest) -> HttpResponse:
    ended = sessions.end_other_sessions(actor=actor_of(request), keep=sessions.current_session(request))
    if ended:
        messages.success(request, f"{ended} other {'browser is' if ended == 1 else 'browsers are'} signed out.")
    else:
        messages.info(request, "There was no other browser to sign out.")
    return see_other("accounts:settings")


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
def delete_account(request: HttpRequest) -> HttpResponse:
    form = DeleteAccountForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            users.delete_account(actor=actor_of(request), confirmation=form.cleaned_data["confirmation"])
        except ConfirmationMismatch as error:
            form.add_error("confirmation", str(error))
        else:
            request.session.flush()
            messages.success(request, "Your account is deleted, and with it every endpoint, key and token.")
            return see_other("accounts:sign_in")
    status = 400 if form.errors else 200
    return render(request, "accounts/delete_account.html", {"form": form}, status=status)
