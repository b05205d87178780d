"""Add, rotate and revoke the tokens of an endpoint."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from accounts.audit import actor_of
from accounts.errors import NotFound, QuotaReached
from accounts.sessions.decorators import recent_sign_in_required
from accounts.shortcuts import see_other
from credentials import providers, services
from credentials.dashboard import panels
from credentials.dashboard.forms import TokenForm
from credentials.dashboard.idempotency import IdempotencyKey
from credentials.dashboard.snippets import sdk_suffix, snippets_for
from credentials.dashboard.views.common import not_found_is_404, posted, render_dialog
from credentials.errors import InvalidLimit
from credentials.models import BearerToken


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def issue(request: HttpRequest, subdomain: str) -> HttpResponse:
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    form = TokenForm(posted(request))
    if request.method == "POST":
        idempotency_key = IdempotencyKey(request)
        if (earlier := idempotency_key.earlier_result()) is not None:
            return earlier
        if form.is_valid():
            try:
                issued = services.issue_token(actor=actor_of(request), subdomain=subdomain, **form.limits())
            except (InvalidLimit, QuotaReached) as error:
                form.add_service_error(error)
            else:
                return token_page(request, idempotency_key, issued.token, issued.plaintext, "issued")
        idempotency_key.failed()
    context = {
        "endpoint": endpoint,
        "provider": providers.get(endpoint.provider),
        "form": form,
        "submission": IdempotencyKey.generate(),
    }
    return render(request, "credentials/issue_token.html", context, status=400 if form.errors else 200)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def rotate(request: HttpRequest, subdomain: str, token_id: str) -> HttpResponse:
    if request.method == "POST":
        idempotency_key = IdempotencyKey(request)
        if (earlier := idempotency_key.earlier_result()) is not None:
            return earlier
        issued = services.rotate_token(actor=actor_of(request), token_id=token_id, subdomain=subdomain)
        return token_page(request, idempotency_key, issued.token, issued.plaintext, "rotated")
    context = {"token": _token(request, subdomain, token_id), "submission": IdempotencyKey.generate()}
    return render_dialog(request, "credentials/rotate.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def revoke(request: HttpRequest, subdomain: str, token_id: str) -> HttpResponse:
    if request.method == "POST":
        token = services.revoke_token(actor=actor_of(request), token_id=token_id, subdomain=subdomain)
        messages.success(request, f"{token.label} is revoked. Every request with it is refused from now on.")
        return see_other("credentials:endpoint", subdomain)
    return render_dialog(request, "credentials/revoke.html", {"token": _token(request, subdomain, token_id)})


def token_page(
    request: HttpRequest,
    idempotency_key: IdempotencyKey,
    token: BearerToken,
    plaintext: str,
    event: str,
    *,
    unchecked: bool = False,
) -> HttpResponse:
    """Show a new token for the only time, with snippets that use it. `event` is connected, issued or rotated."""
    endpoint, provider = token.endpoint, providers.get(token.endpoint.provider)
    idempotency_key.succeeded(reverse("credentials:endpoint", args=[endpoint.subdomain]))
    context = {
        "endpoint": endpoint,
        "token": token,
        "plaintext": plaintext,
        "provider": provider,
        "event": event,
        "unchecked": unchecked,
        "snippets": snippets_for(endpoint, provider, plaintext),
        "sdk_suffix": sdk_suffix(endpoint, provider),
        "below_new_token": panels.render(
            panels.Place.BELOW_NEW_TOKEN, request, endpoint, provider=provider, plaintext=plaintext
        ),
    }
    response = render(request, "credentials/token_shown.html", context, status=201)
    response.headers["Cache-Control"] = "no-store, no-transform"
    return response


def _token(request: HttpRequest, subdomain: str, token_id: str) -> BearerToken:
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    token = endpoint.tokens.filter(pk=token_id, revoked_at=None).first()
    if token is None:
        raise NotFound("There is no such token.")
    return token
