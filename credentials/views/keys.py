"""Replace the provider key behind an endpoint, or point the endpoint elsewhere."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from accounts.audit import actor_of
from accounts.decorators import recent_sign_in_required
from credentials import providers, services
from credentials.forms import DestinationForm, ReplaceKeyForm
from credentials.views.common import missing_is_404, see_other


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
@missing_is_404
def replace_key(request: HttpRequest, subdomain: str) -> HttpResponse:
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    provider = providers.get(endpoint.provider)
    form = ReplaceKeyForm(request.POST or None, provider=provider)
    status = 200
    if request.method == "POST":
        status = 400
        if form.is_valid():
            with form.outcome() as outcome:
                services.replace_key(actor=actor_of(request), subdomain=subdomain, **form.key_arguments())
            if not outcome.failed:
                messages.success(request, "The new key is sealed. Address and tokens stay as they were.")
                return see_other(reverse("credentials:endpoint", args=[subdomain]))
            status = outcome.status
    context = {"endpoint": endpoint, "provider": provider, "form": form}
    return render(request, "credentials/replace_key.html", context, status=status)


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
@missing_is_404
def change_destination(request: HttpRequest, subdomain: str) -> HttpResponse:
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    provider = providers.get(endpoint.provider)
    if not provider.needs_destination:
        raise Http404("The destination of this provider is fixed.")
    credential = endpoint.credential
    initial = {
        "destination_url": credential.destination_url,
        "header_name": credential.header_name,
        "header_template": credential.header_template,
    }
    form = DestinationForm(request.POST or None, provider=provider, initial=initial)
    status = 200
    if request.method == "POST":
        status = 400
        if form.is_valid():
            with form.outcome() as outcome:
                services.change_destination(actor=actor_of(request), subdomain=subdomain, **form.key_arguments())
            if not outcome.failed:
                messages.success(request, "The endpoint has its new destination. Address and tokens stay.")
                return see_other(reverse("credentials:endpoint", args=[subdomain]))
            status = outcome.status
    context = {"endpoint": endpoint, "provider": provider, "form": form}
    return render(request, "credentials/change_destination.html", context, status=status)
