"""Notices in the management API: which the person gets, and their webhook."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from django.http import HttpRequest
from ninja import Field, Router, Schema, Status

from accounts.actors import Person
from accounts.errors import NotFound
from accounts.models import Webhook
from accounts.notice_models import MAX_URL_LENGTH
from accounts.notices import choices
from accounts.notices.kinds import KINDS
from credentials.api.schemas import Body, ErrorAnswer
from credentials.webhooks import service

ERRORS = frozenset({400, 401, 403, 404, 411, 413, 422, 429, 503})
Kinds = Annotated[list[str], Field(max_length=50, description=f"Any of {', '.join(KINDS)}.", examples=[[*KINDS]])]

router = Router()


class ChosenNotices(Schema):
    mail: list[str]
    webhook: list[str]


class NewChoice(Body):
    mail: Kinds
    webhook: Kinds


class WebhookState(Schema):
    id: str
    url: str
    created_at: datetime
    last_at: datetime | None = Field(description="When the last message was sent, or tried.")
    last_result: str
    failing_since: datetime | None
    disabled_at: datetime | None = Field(description="Since then nothing is sent. Set it again, or resume it.")


class OneWebhook(Schema):
    webhook: WebhookState


class NewWebhook(Body):
    url: Annotated[str, Field(max_length=MAX_URL_LENGTH, pattern=r"^[!-~]+$", examples=["https://example.com/hooks"])]


class WebhookWithSecret(Schema):
    webhook: WebhookState
    secret: str = Field(description="`whsec_…`, which signs the messages. It is in this answer and nowhere else.")


@router.get("", response={200: ChosenNotices, ERRORS: ErrorAnswer}, summary="Show which notices you get")
def show_notices(request: HttpRequest) -> ChosenNotices:
    return _chosen(choices.choices(_actor(request).user))


@router.put("", response={200: ChosenNotices, ERRORS: ErrorAnswer}, summary="Choose which notices you get")
def choose_notices(request: HttpRequest, body: NewChoice) -> ChosenNotices:
    return _chosen(choices.choose(actor=_actor(request), mail=body.mail, webhook=body.webhook))


@router.post("/test", response={202: None, ERRORS: ErrorAnswer}, summary="Send a test notice")
def send_test_notice(request: HttpRequest) -> Status[None]:
    """By email and to the webhook, whatever is chosen."""
    service.send_test_notice(actor=_actor(request))
    return Status(202, None)


@router.get("/webhook", response={200: OneWebhook, ERRORS: ErrorAnswer}, summary="Show the webhook")
def show_webhook(request: HttpRequest) -> OneWebhook:
    webhook = service.find(_actor(request))
    if webhook is None:
        raise NotFound("There is no webhook.")
    return OneWebhook(webhook=_state(webhook))


@router.put("/webhook", response={200: WebhookWithSecret, ERRORS: ErrorAnswer}, summary="Set the webhook")
def set_webhook(request: HttpRequest, body: NewWebhook) -> WebhookWithSecret:
    """Replaces the webhook that was there. The new one has a new secret."""
    return _shown(service.set_webhook(actor=_actor(request), url=body.url))


@router.delete("/webhook", response={204: None, ERRORS: ErrorAnswer}, summary="Remove the webhook")
def remove_webhook(request: HttpRequest) -> Status[None]:
    service.remove_webhook(actor=_actor(request))
    return Status(204, None)


@router.post(
    "/webhook/rotate", response={200: WebhookWithSecret, ERRORS: ErrorAnswer}, summary="Replace the webhook's secret"
)
def rotate_webhook_secret(request: HttpRequest) -> WebhookWithSecret:
    """For a day, messages are also signed with the former secret."""
    return _shown(service.rotate_webhook_secret(actor=_actor(request)))


@router.post("/webhook/resume", response={204: None, ERRORS: ErrorAnswer}, summary="Turn the webhook on again")
def resume_webhook(request: HttpRequest) -> Status[None]:
    service.resume_webhook(actor=_actor(request))
    return Status(204, None)


def _actor(request: HttpRequest) -> Person:
    actor = request.auth  # type: ignore[attr-defined]
    if not isinstance(actor, Person):
        raise TypeError("The API acts for a person only.")
    return actor


def _chosen(wanted: choices.Choices) -> ChosenNotices:
    return ChosenNotices(mail=sorted(wanted.mail), webhook=sorted(wanted.webhook))


def _state(webhook: Webhook) -> WebhookState:
    return WebhookState(
        id=webhook.pk,
        url=webhook.url,
        created_at=webhook.created_at,
        last_at=webhook.last_at,
        last_result=webhook.last_result,
        failing_since=webhook.failing_since,
        disabled_at=webhook.disabled_at,
    )


def _shown(shown: service.ShownWebhook) -> WebhookWithSecret:
    return WebhookWithSecret(webhook=_state(shown.webhook), secret=shown.secret)
