"""Add, rotate and revoke the tokens of an endpoint."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from accounts.audit import actor_of
from accounts.decorators import recent_sign_in_required
from credentials import providers, services
from credentials.errors import InvalidLimit, NotFound
from credentials.forms import TokenForm
from credentials.models import BearerToken
from credentials.services import Issued
from credentials.views.common import Submission, ask, missing_is_404, see_other
from credentials.views.connect import token_page


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
@missing_is_404
def issue(request: HttpRequest, subdomain: str) -> HttpResponse:
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    form = TokenForm(request.POST or None)
    if request.method == "POST":
        submission = Submission(request)
        if (earlier := submission.earlier_result()) is not None:
            return earlier
        if form.is_valid():
            try:
                issued = services.issue_token(actor=actor_of(request), subdomain=subdomain, **form.limits())
            except InvalidLimit as error:
                form.add_error(form.field_of(error.field), str(error))
            else:
                return _shown(request, submission, issued, "issued")
        submission.failed()
    context = {
        "endpoint": endpoint,
        "provider": providers.get(endpoint.provider),
        "form": form,
        "submission": Submission.number(),
    }
    return render(request, "credentials/issue_token.html", context, status=400 if form.errors else 200)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@missing_is_404
def rotate(request: HttpRequest, subdomain: str, token_id: str) -> HttpResponse:
    if request.method == "POST":
        submission = Submission(request)
        if (earlier := submission.earlier_result()) is not None:
            return earlier
        issued = services.rotate_token(actor=actor_of(request), token_id=token_id, subdomain=subdomain)
        return _shown(request, submission, issued, "rotated")
    context = {"token": _token(request, subdomain, token_id), "submission": Submission.number()}
    return ask(request, "credentials/rotate.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@missing_is_404
def revoke(request: HttpRequest, subdomain: str, token_id: str) -> HttpResponse:
    if request.method == "POST":
        token = services.revoke_token(actor=actor_of(request), token_id=token_id, subdomain=subdomain)
        messages.success(request, f"{token.label} is revoked. Every request with it is refused from now on.")
        return see_other(reverse("credentials:endpoint", args=[subdomain]))
    return ask(request, "credentials/revoke.html", {"token": _token(request, subdomain, token_id)})


def _shown(request: HttpRequest, submission: Submission, issued: Issued, event: str) -> HttpResponse:
    endpoint = issued.token.endpoint
    submission.succeeded(reverse("credentials:endpoint", args=[endpoint.subdomain]))
    context = {
        "endpoint": endpoint,
        "token": issued.token,
        "plaintext": issued.plaintext,
        "provider": providers.get(endpoint.provider),
        "event": event,
    }
    return token_page(request, context)


def _token(request: HttpRequest, subdomain: str, token_id: str) -> BearerToken:
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    token = endpoint.tokens.filter(pk=token_id, revoked_at=None).first()
    if token is None:
        raise NotFound("There is no such token.")
    return token
