"""The notices of a person: which they want, and their webhook. The settings page shows the forms."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from accounts.audit import actor_of
from accounts.errors import InvalidWebhook, ServerBusy, SessionStoreUnavailable, TooManyRequests
from accounts.notice_models import MAX_URL_LENGTH
from accounts.notices import choices
from accounts.notices.kinds import KINDS
from accounts.sessions.decorators import recent_sign_in_required
from accounts.shortcuts import see_other
from credentials.dashboard.views.common import not_found_is_404
from credentials.webhooks import service
from credentials.webhooks.service import ShownWebhook


class WebhookForm(forms.Form):
    url = forms.CharField(
        label="URL",
        max_length=MAX_URL_LENGTH,
        widget=forms.URLInput(attrs={"placeholder": "https://example.com/hooks", "autocomplete": "off"}),
        error_messages={"required": "Enter the URL that notices are posted to."},
    )


_REFUSED = (InvalidWebhook, TooManyRequests, ServerBusy, SessionStoreUnavailable)


def _back_to_settings(**_: Any) -> str:
    return reverse("accounts:settings")


@login_required
@require_POST
def choose(request: HttpRequest) -> HttpResponse:
    choices.choose(actor=actor_of(request), **{channel: _known(request, channel) for channel in ("mail", "webhook")})
    messages.success(request, "Your choice of notices is saved.")
    return see_other("accounts:settings")


def _known(request: HttpRequest, channel: str) -> list[str]:
    """The chosen kinds. A page of another version may have sent others."""
    return [name for name in request.POST.getlist(channel) if name in KINDS]


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
def set_webhook(request: HttpRequest) -> HttpResponse:
    """Enter the URL. The response to the POST is the only page that shows the secret."""
    actor = actor_of(request)
    form = WebhookForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            return _shown(request, service.set_webhook(actor=actor, url=form.cleaned_data["url"]))
        except _REFUSED as error:
            form.add_error("url", str(error))
    context = {"form": form, "webhook": service.find(actor)}
    return render(request, "credentials/webhook_form.html", context, status=400 if form.errors else 200)


@recent_sign_in_required(return_to=_back_to_settings)
@require_POST
@not_found_is_404
def rotate_webhook(request: HttpRequest) -> HttpResponse:
    return _shown(request, service.rotate_webhook_secret(actor=actor_of(request)))


@login_required
@require_POST
@not_found_is_404
def resume_webhook(request: HttpRequest) -> HttpResponse:
    service.resume_webhook(actor=actor_of(request))
    messages.success(request, "Your webhook is on again.")
    return see_other("accounts:settings")


@login_required
@require_POST
@not_found_is_404
def remove_webhook(request: HttpRequest) -> HttpResponse:
    service.remove_webhook(actor=actor_of(request))
    messages.success(request, "Your webhook is removed.")
    return see_other("accounts:settings")


@login_required
@require_POST
def send_test(request: HttpRequest) -> HttpResponse:
    try:
        service.send_test_notice(actor=actor_of(request))
    except (TooManyRequests, SessionStoreUnavailable) as error:
        messages.error(request, str(error))
    else:
        messages.success(request, "A test notice is on its way.")
    return see_other("accounts:settings")


def _shown(request: HttpRequest, shown: ShownWebhook) -> HttpResponse:
    response = render(request, "credentials/webhook_shown.html", {"shown": shown})
    response.headers["Cache-Control"] = "no-store, no-transform"
    return response
