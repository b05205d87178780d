"""Add, change, rotate and revoke the tokens of an endpoint."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from accounts.audit import actor_of
from accounts.errors import ConfirmationMismatch, NotFound, QuotaReached
from accounts.sessions.decorators import recent_sign_in_required
from accounts.shortcuts import see_other
from credentials import providers, services
from credentials.dashboard import panels, rejected
from credentials.dashboard.forms import ConfirmationForm
from credentials.dashboard.idempotency import IdempotencyKey
from credentials.dashboard.snippets import TOKEN_PLACEHOLDER, environment, sdk_suffix, snippets_for
from credentials.dashboard.token_forms import EditTokenForm, TokenForm, initial_of
from credentials.dashboard.views.common import not_found_is_404, render_dialog
from credentials.errors import InvalidLimit
from credentials.models import BearerToken, Endpoint


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def issue(request: HttpRequest, subdomain: str) -> HttpResponse:
    """A new token. `?from=` names a token whose limits fill in the form."""
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    original = endpoint.tokens.filter(pk=request.GET.get("from", "")).first()
    initial = None if original is None else initial_of(original) | {"label": f"{original.label} (copy)"[:100]}
    parents = BearerToken.objects.live().filter(endpoint=endpoint, parent=None).order_by("label")
    form = TokenForm(rejected.posted(request), initial=initial, parents=parents)
    if request.method == "POST":
        idempotency_key = IdempotencyKey(request)
        if (earlier := idempotency_key.earlier_result()) is not None:
            return earlier
        if form.is_valid():
            try:
                issued = services.issue_token(
                    actor=actor_of(request), subdomain=subdomain, parent_id=form.parent_id, **form.limits()
                )
            except (InvalidLimit, QuotaReached) as error:
                form.add_service_error(error)
            else:
                return token_page(request, idempotency_key, issued.token, issued.plaintext, "issued")
        idempotency_key.failed()
    context = {"endpoint": endpoint, "original": original, "submission": IdempotencyKey.generate()}
    return _render_form(request, "credentials/issue_token.html", context, form)


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def edit(request: HttpRequest, subdomain: str, token_id: str) -> HttpResponse:
    """Change the name, the expiry and the limits of a token. Its secret stays."""
    token = live_token(request, subdomain, token_id)
    form = EditTokenForm(rejected.posted(request), token=token)
    if request.method == "POST" and form.is_valid():
        try:
            changed = services.update_token(
                actor=actor_of(request), token_id=token_id, subdomain=subdomain, **form.limits()
            )
        except InvalidLimit as error:
            form.add_service_error(error)
        else:
            messages.success(request, f"Saved “{changed.label}”. Its secret is the same, so your tools keep working.")
            return see_other("credentials:endpoint", subdomain)
    context = {"endpoint": token.endpoint, "token": token}
    return _render_form(request, "credentials/edit_token.html", context, form)


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
    context = {"token": live_token(request, subdomain, token_id), "submission": IdempotencyKey.generate()}
    return render_dialog(request, "credentials/rotate.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def revoke(request: HttpRequest, subdomain: str, token_id: str) -> HttpResponse:
    if request.method == "POST":
        token = services.revoke_token(actor=actor_of(request), token_id=token_id, subdomain=subdomain)
        messages.success(request, f"Revoked “{token.label}”. Strake refuses every request with it from now on.")
        return see_other("credentials:endpoint", subdomain)
    return render_dialog(request, "credentials/revoke.html", {"token": live_token(request, subdomain, token_id)})


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def revoke_selected(request: HttpRequest, subdomain: str) -> HttpResponse:
    """Revoke the tokens that `token` names, once for each. The GET lists them."""
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    chosen = request.POST.getlist("token") if request.method == "POST" else request.GET.getlist("token")
    if not chosen:
        messages.info(request, "Select the tokens to revoke first.")
        return see_other("credentials:endpoint", subdomain)
    if request.method == "POST":
        revoked = services.revoke_tokens(actor=actor_of(request), subdomain=subdomain, token_ids=chosen)
        messages.success(request, _revoked(len(revoked)))
        return see_other("credentials:endpoint", subdomain)
    tokens = endpoint.tokens.live().filter(pk__in=chosen).order_by("label", "pk")
    if not tokens:
        raise NotFound("There is no such token.")
    return render(
        request, "credentials/revoke_selected.html", {"endpoint": endpoint, "tokens": tokens, "layout": "base.html"}
    )


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def revoke_all(request: HttpRequest, subdomain: str) -> HttpResponse:
    """Revoke every token of an endpoint, after its subdomain was typed."""
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    form = ConfirmationForm(rejected.posted(request))
    if request.method == "POST" and form.is_valid():
        if form.cleaned_data["confirmation"].strip().lower() == endpoint.subdomain:
            revoked = services.revoke_all_tokens(actor=actor_of(request), subdomain=subdomain)
            messages.success(request, _revoked(len(revoked)))
            return see_other("credentials:endpoint", subdomain)
        form.add_error("confirmation", str(ConfirmationMismatch(f"Type {endpoint.subdomain} to revoke all tokens.")))
    if (shown := rejected.redirect(request, form)) is not None:
        return shown
    context = {"endpoint": endpoint, "form": form, "count": endpoint.tokens.live().count()}
    return render_dialog(request, "credentials/revoke_all.html", context, status=400 if form.errors else 200)


@login_required
@require_safe
@not_found_is_404
def use(request: HttpRequest, subdomain: str, token_id: str) -> HttpResponse:
    """Snippets for one token, with a placeholder for its secret."""
    token = live_token(request, subdomain, token_id)
    context = {"endpoint": token.endpoint, "token": token, **snippet_context(token.endpoint, token)}
    return render(request, "credentials/use_token.html", context)


def snippet_context(
    endpoint: Endpoint, token: BearerToken | None = None, plaintext: str = TOKEN_PLACEHOLDER
) -> dict[str, Any]:
    """The context of the snippets of an endpoint, or of those that one of its tokens allows."""
    provider = providers.get(endpoint.provider)
    paths = () if token is None else token.allowed_paths
    return {
        "provider": provider,
        "snippets": [
            *snippets_for(endpoint, provider, plaintext, allowed_paths=paths),
            environment(endpoint, provider, plaintext),
        ],
        "sdk_suffix": sdk_suffix(endpoint, provider),
    }


def token_page(
    request: HttpRequest,
    idempotency_key: IdempotencyKey,
    token: BearerToken,
    plaintext: str,
    event: str,
    **context: object,
) -> HttpResponse:
    """Show a new token for the only time, with snippets that use it.

    `event` is connected, issued, rotated, or changing for one that another token is changed over to.
    """
    endpoint = token.endpoint
    idempotency_key.succeeded(reverse("credentials:endpoint", args=[endpoint.subdomain]))
    context |= {
        "endpoint": endpoint,
        "token": token,
        "plaintext": plaintext,
        "event": event,
        **snippet_context(endpoint, token, plaintext),
    }
    context["below_new_token"] = panels.render(
        panels.Place.BELOW_NEW_TOKEN, request, endpoint, provider=context["provider"], plaintext=plaintext
    )
    response = render(request, "credentials/token_shown.html", context, status=201)
    response.headers["Cache-Control"] = "no-store, no-transform"
    return response


def live_token(request: HttpRequest, subdomain: str, token_id: str) -> BearerToken:
    """A token that is not revoked. Raises `NotFound`."""
    endpoint = services.get_endpoint(actor=actor_of(request), subdomain=subdomain)
    token = endpoint.tokens.filter(pk=token_id, revoked_at=None).first()
    if token is None:
        raise NotFound("There is no such token.")
    return token


def _render_form(request: HttpRequest, template: str, context: dict[str, Any], form: TokenForm) -> HttpResponse:
    if (shown := rejected.redirect(request, form)) is not None:
        return shown
    return render(request, template, {**context, "form": form}, status=400 if form.errors else 200)


def _revoked(count: int) -> str:
    if count == 1:
        return "Revoked 1 token. Strake refuses every request with it from now on."
    return f"Revoked {count:,} tokens. Strake refuses every request with them from now on."
