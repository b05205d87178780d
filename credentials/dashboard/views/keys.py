"""Replace the provider key of an endpoint, or change its destination."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_http_methods

from accounts.audit import actor_of
from accounts.sessions.decorators import recent_sign_in_required
from accounts.shortcuts import see_other
from credentials import providers, services
from credentials.dashboard.key_forms import KEY_ERRORS, DestinationForm, ReplaceKeyForm
from credentials.dashboard.views.common import not_found_is_404, posted, render_key_form
from credentials.models import Endpoint
from credentials.places import Place


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def replace_key(request: HttpRequest, subdomain: str) -> HttpResponse:
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    form = ReplaceKeyForm(posted(request), provider=providers.get(endpoint.provider), stored=endpoint.credential)
    done = "Saved the new key. The URL and the tokens are the same."
    return _key_page(request, endpoint, form, services.replace_key, done)


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def change_destination(request: HttpRequest, subdomain: str) -> HttpResponse:
    """Requires the key, because the stored ciphertext is bound to the old destination."""
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    provider = providers.get(endpoint.provider)
    if not provider.has_destinations:
        raise Http404("The destination of this provider is fixed.")
    initial = {
        "destination_url": endpoint.credential.destination_url,
        "header_name": endpoint.credential.header_name,
        "header_template": endpoint.credential.header_template,
        "places": "\n".join(str(Place(*place)) for place in endpoint.credential.places),
    }
    form = DestinationForm(
        posted(request), provider=provider, owner=endpoint.owner, initial=initial, stored=endpoint.credential
    )
    done = "Changed the destination. The URL and the tokens are the same."
    return _key_page(request, endpoint, form, services.change_destination, done)


def _key_page(
    request: HttpRequest, endpoint: Endpoint, form: ReplaceKeyForm, service: Callable[..., Endpoint], done: str
) -> HttpResponse:
    """Show the form, or pass what was sent to `service` and redirect with the message `done`."""
    if form.is_valid():
        try:
            service(actor=actor_of(request), subdomain=endpoint.subdomain, **form.key_arguments())
        except KEY_ERRORS as error:
            form.add_service_error(error)
        else:
            messages.success(request, done)
            return see_other("credentials:endpoint", endpoint.subdomain)
    context = {
        "endpoint": endpoint,
        "provider": form.provider,
        "changes_destination": isinstance(form, DestinationForm),
    }
    return render_key_form(request, "credentials/replace_key.html", context, form)
