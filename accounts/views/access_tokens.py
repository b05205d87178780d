"""Access tokens for the management API."""

from __future__ import annotations

from datetime import timedelta

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from accounts import access_tokens
from accounts.audit import actor_of
from accounts.decorators import recent_sign_in_required
from accounts.errors import InvalidLabel, NotFound
from accounts.forms import AccessTokenForm
from accounts.views.common import see_other, signed_in

PER_PAGE = 25


@login_required
@require_safe
def token_list(request: HttpRequest) -> HttpResponse:
    tokens = access_tokens.access_tokens_for(actor_of(request))
    context = {"page": Paginator(tokens, PER_PAGE).get_page(request.GET.get("page")), "now": timezone.now()}
    return render(request, "accounts/access_tokens.html", context)


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
def create(request: HttpRequest) -> HttpResponse:
    """Make a token. The answer to the POST shows it, once; it is nowhere else."""
    form = AccessTokenForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        days = form.cleaned_data["days"]
        try:
            created = access_tokens.create_access_token(
                actor=actor_of(request),
                user=signed_in(request),
                label=form.cleaned_data["label"],
                expires_at=timezone.now() + timedelta(days=days) if days else None,
            )
        except InvalidLabel as error:
            form.add_error("label", str(error))
        else:
            response = render(request, "accounts/access_token_shown.html", {"created": created})
            response.headers["Cache-Control"] = "no-store, no-transform"
            return response
    status = 400 if form.errors else 200
    return render(request, "accounts/new_access_token.html", {"form": form}, status=status)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def revoke(request: HttpRequest, token_id: str) -> HttpResponse:
    actor = actor_of(request)
    token = access_tokens.access_tokens_for(actor).filter(pk=token_id, revoked_at=None).first()
    if token is None:
        raise Http404
    if request.method != "POST":
        return render(request, "accounts/revoke_access_token.html", {"token": token})
    try:
        access_tokens.revoke_access_token(actor=actor, token_id=token_id)
    except NotFound as error:
        raise Http404 from error
    messages.success(request, f"{token.label} is revoked. It stopped working at once.")
    return see_other("accounts:access_tokens")
