"""Posting notices to webhooks: what waits in the outbox is signed and sent, and the webhook remembers how it went.

While a webhook fails, everything that waits for it waits for its next attempt, so that it costs one attempt at a time
and not one for each message. After three days it is turned off, and its person gets an email.
"""

from __future__ import annotations

import json
import logging
import ssl
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from accounts import outbox
from accounts.metrics import Counter
from accounts.models import OutboxMail, Webhook
from accounts.notices.choices import choices
from accounts.notices.kinds import KINDS, WEBHOOK_DISABLED
from accounts.notices.mail import NOTICE, text_of
from accounts.notices.publishing import WEBHOOK
from accounts.outbox import BACKGROUND, Kind
from credentials.egress import EgressPolicy, ForbiddenAddress
from credentials.egress_allowlist import EgressAllowlist
from credentials.webhooks import signing

logger = logging.getLogger(__name__)

SECONDS = 10.0  # for a whole delivery
RETRY_SECONDS = (5, 60, 300, 1800, 7200, 18000, 36000, 50400, 72000)
DISABLE_AFTER = timedelta(days=3)
MAX_WAITING = 100
ATTEMPTS = Counter("strake_webhook_attempts_total", "Attempts to deliver notices to webhooks.", ["outcome"])


class NotDelivered(Exception):
    """The receiver did not take a message. The text says why, without the URL. `gone` means that it never will."""

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """A signed message to one webhook."""

    webhook: Webhook
    message_id: str
    body: bytes

    def send(self, fail_silently: bool = False) -> None:
        """Post it. Raises `NotDelivered`. A redirect is not followed and counts as a refusal."""
        # Here, since all processes register the kind, and only the web half sends.
        import httpcore
        import httpx

        from credentials.egress_transport import EgressTransport

        if signing.digest(self.webhook) != self.webhook.secret_digest:
            raise NotDelivered("the secret key of this Strake has changed, so replace the webhook's secret", gone=True)
        now = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Strake",
            "Accept-Encoding": "identity",
            "webhook-id": self.message_id,
            "webhook-timestamp": str(now),
            "webhook-signature": signing.signatures(
                self.webhook, message_id=self.message_id, timestamp=now, body=self.body
            ),
        }
        url, person = self.webhook.url, self.webhook.person
        policy = EgressPolicy(
            EgressAllowlist(settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS),
            plain=urlsplit(url).scheme == "http",
            owner_email=person.email,
        )
        transport = EgressTransport(policy, seconds=SECONDS, owner_id=person.pk)
        try:
            with (
                httpx.Client(transport=transport, trust_env=False, follow_redirects=False) as client,
                client.stream("POST", url, content=self.body, headers=headers) as response,
            ):
                status = response.status_code
        except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL, httpcore.ProtocolError) as error:
            raise NotDelivered(_reason(error)) from None
        if not 200 <= status < 300:
            raise NotDelivered(f"it answered {status}", gone=status == 410)


def payload(details: dict[str, Any]) -> bytes:
    """The body of a message: type, timestamp and data, with the sentence that an email would have as its subject."""
    kind, facts = details["notice"], details["facts"]
    subject, _ = text_of(kind, [facts])
    content = {"type": kind, "timestamp": details["at"], "data": {"message": subject, **facts}}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def _webhook_of(mail: OutboxMail) -> Webhook | None:
    return Webhook.objects.select_related("person").filter(person__email=mail.email, disabled_at=None).first()


def _compose(mail: OutboxMail) -> WebhookMessage | None:
    webhook, kind = _webhook_of(mail), mail.details["notice"]
    if webhook is None or (kind in KINDS and kind not in choices(webhook.person).webhook):
        return None
    return WebhookMessage(webhook, mail.details["message"], payload(mail.details))


def _note(mail: OutboxMail, failure: Exception | None) -> None:
    """Store how an attempt went. A failure also lets everything else for this webhook wait."""
    ATTEMPTS.add("failed" if failure else "delivered")
    webhook = _webhook_of(mail)
    if webhook is None:
        return
    now = timezone.now()
    webhook.last_at = now
    fields = ["last_at", "last_result", "failures", "failing_since"]
    if failure is None:
        webhook.last_result, webhook.failures, webhook.failing_since = "delivered", 0, None
        webhook.save(update_fields=fields)
        return
    reason = str(failure) if isinstance(failure, NotDelivered) else type(failure).__name__
    webhook.last_result = f"not delivered: {reason}"[:100]
    webhook.failures += 1
    webhook.failing_since = webhook.failing_since or now
    is_gone = isinstance(failure, NotDelivered) and failure.gone
    with transaction.atomic():
        waiting = OutboxMail.objects.filter(email=mail.email, kind=WEBHOOK)
        if is_gone or webhook.failing_since <= now - DISABLE_AFTER:
            webhook.disabled_at = now
            fields.append("disabled_at")
            waiting.delete()
            facts = {"host": urlsplit(webhook.url).hostname, "reason": reason, "failing_at": webhook.failing_since}
            facts["failing_at"] = webhook.failing_since.isoformat(timespec="seconds")
            outbox.submit_all(NOTICE, [(mail.email, {"notice": WEBHOOK_DISABLED, "items": [facts]})])
        else:
            pause = timedelta(seconds=RETRY_SECONDS[min(webhook.failures, len(RETRY_SECONDS)) - 1])
            waiting.filter(due_at__lt=Now() + pause).update(due_at=Now() + pause)
        webhook.save(update_fields=fields)


def _reason(error: Exception) -> str:
    if isinstance(error, ForbiddenAddress):
        return "Strake does not connect to its address"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not valid"
    if isinstance(error, TimeoutError):
        return f"it did not answer within {SECONDS:.0f} seconds"
    return "it cannot be reached" if isinstance(error, OSError) else "its answer was not valid HTTP"


def _give_up(mail: OutboxMail) -> None:
    """The outbox has logged it, and the webhook says how the last attempt went."""


MESSAGE = Kind(
    WEBHOOK,
    _compose,
    _give_up,
    _note,
    retry_seconds=RETRY_SECONDS,
    max_age=DISABLE_AFTER,
    max_waiting=MAX_WAITING,
    lane=BACKGROUND,
)
