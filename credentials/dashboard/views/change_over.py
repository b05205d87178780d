"""Change a tool over to another token without a gap: add one, switch the tool, watch the old one, revoke it.

Rotation is atomic, so it has a gap: the tool fails until it has the new token.
"""

from __future__ import annotations

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from accounts.audit import actor_of
from accounts.errors import QuotaReached
from accounts.sessions.decorators import recent_sign_in_required
from accounts.shortcuts import see_other
from credentials import services
from credentials.dashboard import panels
from credentials.dashboard.idempotency import IdempotencyKey
from credentials.dashboard.views.common import not_found_is_404
from credentials.dashboard.views.tokens import live_token, token_page
from credentials.models import BearerToken

_SUFFIX = " (new)"


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
@not_found_is_404
def change_over(request: HttpRequest, subdomain: str, token_id: str) -> HttpResponse:
    """The steps, and how far they are. The first POST adds the new token, and one with `finish` revokes the old one."""
    old = live_token(request, subdomain, token_id)
    new = _successor(old)
    error = ""
    if request.method == "POST":
        if "finish" in request.POST:
            return _finish(request, old, new)
        idempotency_key = IdempotencyKey(request)
        if (earlier := idempotency_key.earlier_result()) is not None:
            return earlier
        try:
            issued = services.duplicate_token(
                actor=actor_of(request), token_id=old.pk, subdomain=subdomain, label=_label_of_successor(old)
            )
        except QuotaReached as refused:
            error = str(refused)
            idempotency_key.failed()
        else:
            return token_page(request, idempotency_key, issued.token, issued.plaintext, "changing", old=old)
    use = None
    if new is not None and panels.facts.use_of is not None:
        use = panels.facts.use_of(old.endpoint, [])
    context = {
        "endpoint": old.endpoint,
        "old": old,
        "new": new,
        "old_use": None if use is None else use.tokens.get(old.pk),
        "new_use": None if use is None or new is None else use.tokens.get(new.pk),
        "is_quiet": new is not None and _is_quiet(old, new),
        "error": error,
        "submission": IdempotencyKey.generate(),
    }
    return render(request, "credentials/change_over.html", context, status=403 if error else 200)


def _finish(request: HttpRequest, old: BearerToken, new: BearerToken | None) -> HttpResponse:
    """Revoke the old token, and give its name to the new one."""
    subdomain = old.endpoint.subdomain
    if new is None:
        return see_other("credentials:change_over", subdomain, old.pk)
    with transaction.atomic():
        services.revoke_token(actor=actor_of(request), token_id=old.pk, subdomain=subdomain)
        services.update_token(actor=actor_of(request), token_id=new.pk, subdomain=subdomain, label=old.label)
    messages.success(request, f"Done. “{old.label}” is the new token now, and the old one is revoked.")
    return see_other("credentials:endpoint", subdomain)


def _label_of_successor(old: BearerToken) -> str:
    return old.label[: 100 - len(_SUFFIX)] + _SUFFIX


def _successor(old: BearerToken) -> BearerToken | None:
    """The token that this one is changed over to. Its name says so, since that is all that ties the two together."""
    later = BearerToken.objects.live().filter(
        endpoint=old.endpoint, label=_label_of_successor(old), created_at__gt=old.created_at
    )
    return later.order_by("-created_at").first()


def _is_quiet(old: BearerToken, new: BearerToken) -> bool:
    """True if the new token is used, and the old one has not been since the new one was."""
    return new.last_used_at is not None and (old.last_used_at is None or old.last_used_at < new.last_used_at)
