"""Notices in the management API: which the person gets, and their webhook."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from django.http import HttpRequest
from ninja import Field, Router, Schema, Status

from accounts.errors import NotFound
from accounts.models import Webhook
from accounts.notice_models import MAX_URL_LENGTH
from accounts.notices import choices
from accounts.notices.kinds import KINDS
from credentials.api.access import ENDPOINTS, actor_of
from credentials.api.document import errors
from credentials.api.schemas import Body, ErrorAnswer
from credentials.webhooks import service

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


@router.get("", response={200: ChosenNotices, errors(): ErrorAnswer}, summary="Show which notices you get")
def show_notices(request: HttpRequest) -> ChosenNotices:
    return _chosen(choices.choices(actor_of(request).user))


@router.put(
    "", auth=ENDPOINTS, response={200: ChosenNotices, errors(422): ErrorAnswer}, summary="Choose which notices you get"
)
def choose_notices(request: HttpRequest, body: NewChoice) -> ChosenNotices:
    return _chosen(choices.choose(actor=actor_of(request), mail=body.mail, webhook=body.webhook))


@router.post("/test", auth=ENDPOINTS, response={202: None, errors(): ErrorAnswer}, summary="Send a test notice")
def send_test_notice(request: HttpRequest) -> Status[None]:
    """By email and to the webhook, whatever is chosen."""
    service.send_test_notice(actor=actor_of(request))
    return Status(202, None)


@router.get("/webhook", response={200: OneWebhook, errors(404): ErrorAnswer}, summary="Show the webhook")
def show_webhook(request: HttpRequest) -> OneWebhook:
    webhook = service.find(actor_of(request))
    if webhook is None:
        raise NotFound("There is no webhook.")
    return OneWebhook(webhook=_state(webhook))


@router.put(
    "/webhook", auth=ENDPOINTS, response={200: WebhookWithSecret, errors(422): ErrorAnswer}, summary="Set the webhook"
)
def set_webhook(request: HttpRequest, body: NewWebhook) -> WebhookWithSecret:
    """Replaces the webhook that was there. The new one has a new secret."""
    return _shown(service.set_webhook(actor=actor_of(request), url=body.url))


@router.delete("/webhook", auth=ENDPOINTS, response={204: None, errors(404): ErrorAnswer}, summary="Remove the webhook")
def remove_webhook(request: HttpRequest) -> Status[None]:
    service.remove_webhook(actor=actor_of(request))
    return Status(204, None)


@router.post(
    "/webhook/rotate",
    auth=ENDPOINTS,
    response={200: WebhookWithSecret, errors(404): ErrorAnswer},
    summary="Replace the webhook's secret",
)
def rotate_webhook_secret(request: HttpRequest) -> WebhookWithSecret:
    """For a day, messages are also signed with the former secret."""
    return _shown(service.rotate_webhook_secret(actor=actor_of(request)))


@router.post(
    "/webhook/resume",
    auth=ENDPOINTS,
    response={204: None, errors(404): ErrorAnswer},
    summary="Turn the webhook on again",
)
def resume_webhook(request: HttpRequest) -> Status[None]:
    service.resume_webhook(actor=actor_of(request))
    return Status(204, None)


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
