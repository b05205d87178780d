"""Pages for signed-in people: settings, access tokens and the audit log. Signing in is in `accounts.sign_in.views`."""

from __future__ import annotations

from datetime import timedelta

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import access_tokens, audit_log, settings_cards, users
from accounts.audit import actor_of, record_reading
from accounts.errors import ConfirmationMismatch, InvalidLabel, InvalidNetwork, NotFound, QuotaReached
from accounts.forms import AccessTokenForm, AuditFilterForm, DeleteAccountForm
from accounts.models import AccessToken, AuditEvent
from accounts.sessions import service as sessions
from accounts.sessions.decorators import recent_sign_in_required
from accounts.shortcuts import see_other

TOKENS_PER_PAGE = 25
EVENTS_PER_PAGE = 50


# --- Settings ------------------------------------------------------------------------------------------------------


@login_required
@require_safe
def settings_page(request: HttpRequest) -> HttpResponse:
    context = {
        "sessions": sessions.list_sessions(actor_of(request).user),
        "current": sessions.current_session(request),
        "cards": settings_cards.render(request),
    }
    return render(request, "accounts/settings.html", context)


@login_required
@require_POST
def end_session(request: HttpRequest, session_id: str) -> HttpResponse:
    try:
        sessions.end_session(actor=actor_of(request), session_id=session_id)
    except NotFound as error:
        raise Http404 from error
    messages.success(request, "That browser is signed out.")
    return see_other("accounts:settings")


@login_required
@require_POST
def end_other_sessions(request: HttpRequest) -> HttpResponse:
    ended = sessions.end_other_sessions(actor=actor_of(request), keep=sessions.current_session(request))
    if ended:
        messages.success(request, f"{ended} other {'browser is' if ended == 1 else 'browsers are'} signed out.")
    else:
        messages.info(request, "There was no other browser to sign out.")
    return see_other("accounts:settings")


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
def delete_account(request: HttpRequest) -> HttpResponse:
    form = DeleteAccountForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            users.delete_account(actor=actor_of(request), confirmation=form.cleaned_data["confirmation"])
        except ConfirmationMismatch as error:
            form.add_error("confirmation", str(error))
        else:
            request.session.flush()
            messages.success(request, "Your account is deleted, with all its endpoints, keys and tokens.")
            return see_other("accounts:sign_in")
    status = 400 if form.errors else 200
    return render(request, "accounts/delete_account.html", {"form": form}, status=status)


# --- Access tokens -------------------------------------------------------------------------------------------------


@login_required
@require_safe
def access_token_list(request: HttpRequest) -> HttpResponse:
    tokens = AccessToken.objects.visible_to(actor_of(request)).order_by("-created_at", "pk")
    context = {"page": Paginator(tokens, TOKENS_PER_PAGE).get_page(request.GET.get("page")), "now": timezone.now()}
    return render(request, "accounts/access_tokens.html", context)


@recent_sign_in_required
@require_http_methods(["GET", "HEAD", "POST"])
def create_access_token(request: HttpRequest) -> HttpResponse:
    """Create a token. The response to the POST is the only place that shows it."""
    form = AccessTokenForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        days = form.cleaned_data["days"]
        actor = actor_of(request)
        try:
            created = access_tokens.create(
                actor=actor,
                user=actor.user,
                label=form.cleaned_data["label"],
                scopes=form.cleaned_data["scopes"],
                expires_at=timezone.now() + timedelta(days=days) if days else None,
                allowed_networks=form.cleaned_data["allowed_networks"].splitlines(),
            )
        except InvalidLabel as error:
            form.add_error("label", str(error))
        except InvalidNetwork as error:
            form.add_error("allowed_networks", str(error))
        except QuotaReached as error:
            form.add_error(None, str(error))
        else:
            response = render(request, "accounts/access_token_shown.html", {"created": created})
            response.headers["Cache-Control"] = "no-store, no-transform"
            return response
    status = 400 if form.errors else 200
    return render(request, "accounts/new_access_token.html", {"form": form}, status=status)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def revoke_access_token(request: HttpRequest, token_id: str) -> HttpResponse:
    actor = actor_of(request)
    token = AccessToken.objects.visible_to(actor).filter(pk=token_id, revoked_at=None).first()
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


# --- Audit log -----------------------------------------------------------------------------------------------------


@login_required
@require_safe
def audit_page(request: HttpRequest) -> HttpResponse:
    """The person's audit log, and for staff also everybody's. Invalid filters are reported and ignored."""
    form, events = _filtered_events(request, "Audit")
    page = Paginator(events, EVENTS_PER_PAGE).get_page(request.GET.get("page"))
    rows = [
        (
            event,
            audit_log.action_label(event),
            audit_log.actor_label(event),
            audit_log.changes(event),
            audit_log.acted_through(event),
        )
        for event in page
    ]
    context = {
        "form": form,
        "page": page,
        "rows": rows,
        "is_filtered": bool(form.filters()),
        "fingerprint": audit_log.fingerprint(),
    }
    return render(request, "accounts/audit.html", context, status=400 if form.errors else 200)


@login_required
@require_safe
def audit_csv(request: HttpRequest) -> StreamingHttpResponse:
    """Every event that matches the filters, on all pages."""
    _, events = _filtered_events(request, "Audit, as CSV")
    response = StreamingHttpResponse(audit_log.csv_lines(events), content_type="text/csv; charset=utf-8")
    response.headers["Content-Disposition"] = 'attachment; filename="strake-audit.csv"'
    return response


@require_safe
def audit_checkpoint(request: HttpRequest) -> HttpResponse:
    """The newest signed checkpoint, for anybody: it says how many events there are, and nothing about them."""
    newest = audit_log.newest_checkpoint()
    text = newest.note if newest else "No checkpoint has been signed yet.\n"
    response = HttpResponse(text, content_type="text/plain; charset=utf-8", status=200 if newest else 404)
    response.headers["Cache-Control"] = "no-store"
    return response


def _filtered_events(request: HttpRequest, page: str) -> tuple[AuditFilterForm, QuerySet[AuditEvent]]:
    """The form and the events that match it. Records that staff read the events of everybody."""
    actor = actor_of(request)
    form = AuditFilterForm(request.GET, viewer=actor.user)
    form.is_valid()
    filters = form.filters()
    everybody = bool(filters.pop("everybody", False))
    if everybody:
        record_reading(actor, page, subject="everybody", filters=filters)
    events = AuditEvent.objects.visible_to(actor, everybody=everybody).matching(**filters)
    return form, events.select_related("actor", "account").order_by("-at", "-pk")
