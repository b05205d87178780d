"""The page of the link in a notice that ends its kind, without signing in."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from accounts.actors import Visitor
from accounts.audit import request_ip
from accounts.errors import NotFound
from accounts.notices import choices
from accounts.notices.kinds import KINDS


@csrf_exempt  # mail programs post here without a page before it (RFC 8058 §3.2), and the URL is the permission
@require_http_methods(["GET", "HEAD", "POST"])
def unsubscribe(request: HttpRequest, token: str) -> HttpResponse:
    """Show what the link ends. On POST, end it, or with `everything` the emails of every kind."""
    everything = request.POST.get("everything") == "1"
    try:
        if request.method == "POST":
            kind = choices.unsubscribe(actor=Visitor(request_ip(request)), token=token, everything=everything)
        else:
            _, kind = choices.unsubscriber(token)
    except NotFound as error:
        raise Http404 from error
    label = KINDS[kind].label if kind in KINDS else kind
    context = {"label": label, "everything": everything, "done": request.method == "POST"}
    response = render(request, "accounts/unsubscribe.html", context)
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    return response
