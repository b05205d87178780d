"""The secrets and signatures of webhooks (Standard Webhooks 1.0).

Nothing secret is stored: a webhook's secret is derived from the secret key, the webhook's id and a version. So a copy
of the database forges no notice, and the web half, which has no master key, can sign. A new secret key changes every
webhook's secret, as it ends every session. `secret_digest` detects that.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import timedelta

from django.utils import timezone
from django.utils.crypto import salted_hmac

from accounts.models import Webhook

PREFIX = "whsec_"
OVERLAP = timedelta(days=1)  # how long messages are also signed with the secret before


def secret(webhook: Webhook, *, version: int | None = None) -> str:
    """The secret of a webhook, `whsec_` and 32 bytes in base64."""
    return PREFIX + base64.b64encode(_key(webhook, webhook.version if version is None else version)).decode()


def digest(webhook: Webhook) -> str:
    """Return the value of `Webhook.secret_digest`. It reveals nothing about 32 random bytes."""
    return hashlib.sha256(_key(webhook, webhook.version)).hexdigest()


def signatures(webhook: Webhook, *, message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: one signature, or two in the day after the secret was replaced."""
    versions = [webhook.version]
    if webhook.rotated_at is not None and webhook.rotated_at > timezone.now() - OVERLAP:
        versions.append(webhook.version - 1)
    content = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(
        "v1," + base64.b64encode(hmac.digest(_key(webhook, version), content, "sha256")).decode()
        for version in versions
    )


def _key(webhook: Webhook, version: int) -> bytes:
    return salted_hmac("strake.credentials.webhook", f"{webhook.pk}:{version}", algorithm="sha256").digest()
