"""Setting, rotating and removing a person's webhook, and test notices."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from django.db import transaction
from django.utils import timezone

from accounts import audit, outbox
from accounts.actors import Person
from accounts.errors import InvalidWebhook, NotFound, TooManyRequests
from accounts.models import OutboxMail, Webhook
from accounts.notice_models import MAX_URL_LENGTH
from accounts.notices.kinds import TEST
from accounts.notices.mail import NOTICE
from accounts.notices.publishing import WEBHOOK, webhook_details
from accounts.sign_in import throttle
from accounts.sign_in.mail import delivery
from credentials import destinations
from credentials.errors import InvalidDestination
from credentials.outbound import limited
from credentials.webhooks import signing

TESTS = throttle.Limit("notice-tests", 10, 3600)


@dataclass(frozen=True, slots=True)
class ShownWebhook:
    """A webhook and its secret, which is shown this once."""

    webhook: Webhook
    secret: str = field(repr=False)


def find(person: Person) -> Webhook | None:
    """The webhook of a person."""
    return Webhook.objects.filter(person=person.user).first()


@limited
def set_webhook(*, actor: Person, url: str) -> ShownWebhook:
    """Send the actor's notices to `url`, with a new secret. Replaces the webhook that was there.

    Raises `InvalidWebhook`, or as `credentials.outbound.limited` says.
    """
    url = _checked(actor, url)
    with transaction.atomic():
        _remove(actor)
        webhook = Webhook(person=actor.user, url=url)
        webhook.secret_digest = signing.digest(webhook)
        webhook.save()
        _audit(actor, "webhook.set", webhook)
    return ShownWebhook(webhook, signing.secret(webhook))


def rotate_webhook_secret(*, actor: Person) -> ShownWebhook:
    """Replace the secret. For a day, messages are signed with the former one too. Raises `NotFound`."""
    with transaction.atomic():
        webhook = _locked(actor)
        webhook.version += 1
        webhook.rotated_at = timezone.now()
        webhook.secret_digest = signing.digest(webhook)
        webhook.save(update_fields=["version", "rotated_at", "secret_digest"])
        _audit(actor, "webhook.rotated", webhook)
    return ShownWebhook(webhook, signing.secret(webhook))


def resume_webhook(*, actor: Person) -> None:
    """Turn a webhook on again that Strake has turned off. Raises `NotFound`."""
    with transaction.atomic():
        webhook = _locked(actor)
        if webhook.disabled_at is None:
            return
        webhook.disabled_at = webhook.failing_since = None
        webhook.failures = 0
        webhook.save(update_fields=["disabled_at", "failing_since", "failures"])
        _audit(actor, "webhook.resumed", webhook)


def remove_webhook(*, actor: Person) -> None:
    """Delete the webhook and what waits for it. Raises `NotFound`."""
    with transaction.atomic():
        if not _remove(actor):
            raise NotFound("There is no webhook.")


def send_test_notice(*, actor: Person) -> None:
    """Send a test notice by email and to the webhook, whatever is chosen. Raises `TooManyRequests`."""
    verdict = throttle.count(TESTS, str(actor.user.pk))
    if verdict.exceeded:
        raise TooManyRequests("You may send 10 test notices an hour. Try again later.", verdict.retry_after)
    webhook = find(actor)
    with transaction.atomic():
        if delivery() != "none":
            outbox.submit_all(NOTICE, [(actor.user.email, {"notice": TEST, "items": [{}]})])
        if webhook is not None and webhook.disabled_at is None:
            details = webhook_details(TEST, {}, timezone.now())
            outbox.submit_all(outbox.registered(WEBHOOK), [(actor.user.email, details)])


def _locked(actor: Person) -> Webhook:
    webhook = Webhook.objects.select_for_update().filter(person=actor.user).first()
    if webhook is None:
        raise NotFound("There is no webhook.")
    return webhook


def _remove(actor: Person) -> bool:
    webhook = Webhook.objects.select_for_update().filter(person=actor.user).first()
    if webhook is None:
        return False
    OutboxMail.objects.filter(email=actor.user.email, kind=WEBHOOK).delete()
    webhook.delete()
    _audit(actor, "webhook.removed", webhook)
    return True


def _audit(actor: Person, action: str, webhook: Webhook) -> None:
    # Only the origin: the path may be a secret of the receiver's.
    audit.record(
        actor,
        action,
        account=actor.user,
        subject_type="webhook",
        subject_id=webhook.pk,
        subject_label=urlsplit(webhook.url).hostname or "",
    )


def _checked(actor: Person, url: str) -> str:
    """Return the URL if the egress policy lets the actor post to it. It is enforced again when connecting."""
    url = url.strip()
    if not re.fullmatch(r"[!-~]+", url) or "#" in url or len(url) > MAX_URL_LENGTH:
        raise InvalidWebhook(f"Enter a URL like https://example.com/hooks, of at most {MAX_URL_LENGTH} characters.")
    try:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        destination = destinations.check(origin, owner_id=actor.user.pk, owner_email=actor.user.email)
    except ValueError:
        raise InvalidWebhook("That is not a URL. It should look like https://example.com/hooks") from None
    except InvalidDestination as error:
        raise InvalidWebhook(str(error)) from None
    query = f"?{parts.query}" if parts.query else ""
    return f"{destination.scheme}://{destination.netloc}{parts.path or '/'}{query}"
