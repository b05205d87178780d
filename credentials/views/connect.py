"""Connect a provider: choose it, paste its key, see the endpoint and its token once."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from accounts.audit import actor_of
from credentials import providers, services
from credentials.errors import UnknownProvider
from credentials.forms import KeyForm
from credentials.providers import Provider
from credentials.snippets import snippets_for
from credentials.views.common import Submission


@login_required
@require_safe
def choose(request: HttpRequest) -> HttpResponse:
    """The providers of this installation, as cards."""
    return render(request, "credentials/connect.html", {"providers": providers.available()})


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def connect_provider(request: HttpRequest, provider: str) -> HttpResponse:
    """Paste a key; the answer to the POST is the page that shows the token, and nothing keeps it."""
    try:
        chosen = providers.get(provider)
    except UnknownProvider as error:
        raise Http404(str(error)) from None
    form = KeyForm(request.POST or None, provider=chosen)
    if request.method != "POST":
        return _form(request, chosen, form)
    submission = Submission(request)
    if (earlier := submission.earlier_result()) is not None:
        return earlier
    if not form.is_valid():
        submission.failed()
        return _form(request, chosen, form, status=400)
    actor = actor_of(request)
    assert actor.user is not None  # noqa: S101  (actor_of refuses a request without one)
    with form.outcome() as outcome:
        connected = services.connect(
            actor=actor,
            owner=actor.user,
            provider=chosen.slug,
            label=form.cleaned_data["label"],
            **form.key_arguments(),
        )
    if outcome.failed:
        submission.failed()
        return _form(request, chosen, form, status=outcome.status)
    url = reverse("credentials:endpoint", args=[connected.endpoint.subdomain])
    submission.succeeded(url)
    return token_page(
        request,
        {
            "endpoint": connected.endpoint,
            "token": connected.token,
            "plaintext": connected.plaintext,
            "provider": chosen,
            "event": "connected",
            "unchecked": outcome.unchecked,
        },
    )


def token_page(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """Show a token for the only time, with ready-made snippets. `context` needs all that `connect_provider` gives."""
    snippets = snippets_for(context["endpoint"], context["provider"], context["plaintext"])
    response = render(request, "credentials/token_shown.html", {**context, "snippets": snippets}, status=201)
    response.headers["Cache-Control"] = "no-store, no-transform"
    return response


def _form(request: HttpRequest, provider: Provider, form: KeyForm, *, status: int = 200) -> HttpResponse:
    context = {"provider": provider, "form": form, "submission": Submission.number()}
    return render(request, "credentials/connect_provider.html", context, status=status)
