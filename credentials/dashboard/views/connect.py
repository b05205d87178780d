"""Connect a provider: choose it, paste its key, see the endpoint and its token once."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods, require_safe

from accounts.audit import actor_of
from credentials import providers, services
from credentials.dashboard.idempotency import IdempotencyKey
from credentials.dashboard.key_forms import KEY_ERRORS, KeyForm
from credentials.dashboard.views.common import posted, render_key_form
from credentials.dashboard.views.tokens import token_page
from credentials.errors import UnknownProvider
from credentials.providers import DEMO_SLUG, Provider


@login_required
@require_safe
def choose_provider(request: HttpRequest) -> HttpResponse:
    """The providers of this installation, as cards in groups, below the demo if there is one."""
    demo, groups = None, dict[str, list[Provider]]()
    for provider in (available := providers.available()):
        if provider.slug == DEMO_SLUG:
            demo = provider
        else:
            groups.setdefault(provider.group, []).append(provider)
    context = {"demo": demo, "groups": list(groups.items()), "count": len(available) - (demo is not None)}
    return render(request, "credentials/connect.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def connect_provider(request: HttpRequest, provider: str) -> HttpResponse:
    """The form for a key. The response to its POST is the only page that ever shows the new token."""
    try:
        chosen = providers.get(provider)
    except UnknownProvider as error:
        raise Http404(str(error)) from None
    form = KeyForm(posted(request), provider=chosen, owner=actor_of(request).user)
    if request.method == "POST":
        idempotency_key = IdempotencyKey(request)
        if (earlier := idempotency_key.earlier_result()) is not None:
            return earlier
        if form.is_valid():
            actor = actor_of(request)
            try:
                connected = services.connect(
                    actor=actor,
                    owner=actor.user,
                    provider=chosen.slug,
                    label=form.cleaned_data["label"],
                    **form.key_arguments(),
                )
            except KEY_ERRORS as error:
                form.add_service_error(error)
            else:
                unchecked = form.cleaned_data["unchecked"]
                return token_page(
                    request, idempotency_key, connected.token, connected.plaintext, "connected", unchecked=unchecked
                )
        idempotency_key.failed()
    context = {"provider": chosen, "submission": IdempotencyKey.generate()}
    return render_key_form(request, "credentials/connect_provider.html", context, form)
