"""Webhooks: signatures, delivery to a real receiver, retries, turning off, and the pages."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.core import mail
from django.db.models import F
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts import access_tokens, outbox
from accounts.actors import Person
from accounts.errors import InvalidWebhook, TooManyRequests
from accounts.models import AuditEvent, OutboxMail, User, Webhook
from accounts.notices import choices, publishing
from accounts.outbox import BACKGROUND
from credentials.webhooks import delivery, service, signing
from tests.accounts.test_notices import NOW, failing
from tests.support.upstream import Exchange, Upstream, fixed

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def open_loopback(settings: Settings) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.1/32"]


@pytest.fixture
def receiver(upstream: Upstream) -> Upstream:
    upstream.default = fixed(204)
    return upstream


@pytest.fixture
def hooked(alice: User, receiver: Upstream) -> service.ShownWebhook:
    return service.set_webhook(actor=Person(alice), url=f"{receiver.url}/hooks?sig=abc")


def deliver(*, seconds: float = 0) -> None:
    """Send what is due, or will be in `seconds`."""
    moved = timedelta(seconds=seconds)
    OutboxMail.objects.update(due_at=F("due_at") - moved, created_at=F("created_at") - moved)
    outbox.run_due(BACKGROUND)


def verified(exchange: Exchange, secret: str) -> dict[str, object]:
    """The message, if the function on the docs page takes its signature."""
    snippet: dict[str, Any] = {}
    exec((settings.ROOT / "templates/strake/docs/snippets/notice-check.txt").read_text(), snippet)
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    headers = {name: (exchange.header(name) or b"").decode() for name in names}
    assert exchange.method == "POST"
    assert snippet["is_from_strake"](secret, headers, exchange.body)
    assert not snippet["is_from_strake"](secret, headers, exchange.body + b" ")
    found: dict[str, object] = json.loads(exchange.body)
    return found


def test_message_is_signed_and_says_what_happened(
    alice: User, receiver: Upstream, hooked: service.ShownWebhook
) -> None:
    publishing.publish([failing(alice)], NOW)
    deliver()
    [exchange] = receiver.exchanges
    assert exchange.target == b"/hooks?sig=abc"
    message = verified(exchange, hooked.secret)
    assert message["type"] == "endpoint.failing"
    assert message["data"] == {"message": "The endpoint “Work” is failing", **failing(alice).facts}
    webhook = Webhook.objects.get()
    assert (webhook.last_result, webhook.failures) == ("delivered", 0)
    assert hooked.secret not in str(Webhook.objects.values()), "the secret is stored"


def test_rotated_secret_overlaps_for_a_day(alice: User, receiver: Upstream, hooked: service.ShownWebhook) -> None:
    rotated = service.rotate_webhook_secret(actor=Person(alice))
    assert rotated.secret != hooked.secret
    service.send_test_notice(actor=Person(alice))
    deliver()
    for secret in (hooked.secret, rotated.secret):
        assert verified(receiver.exchanges[0], secret)["type"] == "notice.test"
    Webhook.objects.update(rotated_at=F("rotated_at") - signing.OVERLAP)
    service.send_test_notice(actor=Person(alice))
    deliver()
    with pytest.raises(AssertionError):
        verified(receiver.exchanges[1], hooked.secret)


def test_failed_message_is_sent_again_with_its_id(
    alice: User, receiver: Upstream, hooked: service.ShownWebhook
) -> None:
    receiver.default = fixed(503)
    publishing.publish([failing(alice), failing(alice, subject="two")], NOW)
    deliver()
    assert len(receiver.exchanges) == 1, "each message made an attempt of its own"
    webhook = Webhook.objects.get()
    assert (webhook.failures, webhook.last_result) == (1, "not delivered: it answered 503")
    deliver(seconds=delivery.RETRY_SECONDS[0] - 1)
    assert len(receiver.exchanges) == 1
    receiver.default = fixed(200)
    deliver(seconds=2)
    first, *others = [exchange.header("webhook-id") for exchange in receiver.exchanges]
    assert others[0] == first
    assert len(set(others)) == 2
    assert (Webhook.objects.get().failures, outbox.waiting(BACKGROUND)) == (0, 0)


def test_webhook_is_turned_off_after_three_days(alice: User, receiver: Upstream, hooked: service.ShownWebhook) -> None:
    receiver.default = fixed(500)
    publishing.publish([failing(alice)], NOW)
    for pause in (0, *delivery.RETRY_SECONDS):
        deliver(seconds=pause)
        Webhook.objects.update(failing_since=F("failing_since") - timedelta(seconds=pause))
    assert Webhook.objects.get().disabled_at is None
    assert outbox.waiting(BACKGROUND) == 0, "a message waits for ever"
    Webhook.objects.update(failing_since=timezone.now() - delivery.DISABLE_AFTER)
    publishing.publish([failing(alice, subject=str(number)) for number in range(3)], NOW)
    deliver(seconds=delivery.RETRY_SECONDS[-1])
    assert Webhook.objects.get().disabled_at is not None
    outbox.run_due()
    assert [message.subject for message in mail.outbox][-1] == "Your webhook has been turned off"
    before = len(receiver.exchanges)
    publishing.publish([failing(alice, subject="later")], NOW)
    assert outbox.waiting(BACKGROUND) == 0
    service.resume_webhook(actor=Person(alice))
    receiver.default = fixed(200)
    service.send_test_notice(actor=Person(alice))
    deliver()
    assert len(receiver.exchanges) == before + 1


def test_gone_receiver_and_new_secret_key_turn_it_off(
    alice: User, receiver: Upstream, hooked: service.ShownWebhook, settings: Settings
) -> None:
    receiver.default = fixed(410)
    service.send_test_notice(actor=Person(alice))
    deliver()
    assert Webhook.objects.get().disabled_at is not None
    service.resume_webhook(actor=Person(alice))
    settings.SECRET_KEY = "another" * 10
    service.send_test_notice(actor=Person(alice))
    deliver()
    assert Webhook.objects.get().disabled_at is not None
    assert len(receiver.exchanges) == 1, "a message was signed with a secret that nobody knows"


def test_redirects_are_not_followed(alice: User, receiver: Upstream, hooked: service.ShownWebhook) -> None:
    receiver.default = fixed(307, [("Location", "/elsewhere")])
    service.send_test_notice(actor=Person(alice))
    deliver()
    assert len(receiver.exchanges) == 1
    assert Webhook.objects.get().last_result == "not delivered: it answered 307"


def test_private_addresses_get_nothing(
    alice: User, receiver: Upstream, hooked: service.ShownWebhook, settings: Settings
) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = []  # as if the name led elsewhere now
    service.send_test_notice(actor=Person(alice))
    deliver()
    assert receiver.exchanges == []
    assert Webhook.objects.get().last_result == "not delivered: Strake does not connect to its address"
    for url in (
        receiver.url,
        "http://example.com/",
        "https://10.0.0.1/",
        "https://u:p@example.com/",
        "x",
        "https://a/#b",
    ):
        with pytest.raises(InvalidWebhook):
            service.set_webhook(actor=Person(alice), url=url)


def test_nobody_else_gets_it(alice: User, bob: User, receiver: Upstream, hooked: service.ShownWebhook) -> None:
    publishing.publish([failing(bob)], NOW)
    choices.choose(actor=Person(alice), mail=[], webhook=[])
    publishing.publish([failing(alice)], NOW)
    deliver()
    assert receiver.exchanges == []


def test_flood_of_notices_is_bounded(alice: User, hooked: service.ShownWebhook) -> None:
    publishing.publish([failing(alice, subject=str(number)) for number in range(200)], NOW)
    assert outbox.waiting(BACKGROUND) == delivery.MAX_WAITING
    service.remove_webhook(actor=Person(alice))
    assert outbox.waiting(BACKGROUND) == 0


def test_test_notices_are_limited(alice: User) -> None:
    for _ in range(service.TESTS.count):
        service.send_test_notice(actor=Person(alice))
    with pytest.raises(TooManyRequests):
        service.send_test_notice(actor=Person(alice))
    outbox.run_due()
    assert {message.subject for message in mail.outbox} == {"A test notice from Strake"}


def test_pages_set_and_remove_a_webhook(client: Client, alice: User, receiver: Upstream) -> None:
    client.force_login(alice)
    assert client.post("/settings/webhook/", {"url": "nothing"}).status_code == 400
    shown = client.post("/settings/webhook/", {"url": receiver.url})
    secret = signing.secret(Webhook.objects.get())
    assert secret in shown.content.decode()
    assert "no-store" in shown.headers["Cache-Control"]
    settings_page = client.get("/settings/").content.decode()
    assert secret not in settings_page
    assert receiver.url in settings_page
    client.post("/settings/notices/", {"mail": ["key.refused", "unknown"], "webhook": []})
    assert choices.choices(alice).mail == {"key.refused"}
    assert signing.secret(Webhook.objects.get(), version=2) in client.post("/settings/webhook/rotate/").content.decode()
    client.post("/settings/webhook/remove/")
    assert not Webhook.objects.exists()
    actions = AuditEvent.objects.filter(subject_type="webhook").order_by("pk").values_list("action", "subject_label")
    assert list(actions) == [(f"webhook.{verb}", "127.0.0.1") for verb in ("set", "rotated", "removed")]


def test_api_does_what_the_pages_do(client: Client, alice: User, receiver: Upstream) -> None:
    token = access_tokens.create(actor=Person(alice), user=alice, label="t").plaintext
    bearer: dict[str, Any] = {"HTTP_AUTHORIZATION": f"Bearer {token}", "content_type": "application/json"}
    assert client.get("/api/v1/notices/webhook", **bearer).status_code == 404
    made = client.put("/api/v1/notices/webhook", json.dumps({"url": receiver.url}), **bearer).json()
    assert made["secret"] == signing.secret(Webhook.objects.get())
    assert client.get("/api/v1/notices/webhook", **bearer).json()["webhook"]["url"] == f"{receiver.url}/"
    assert client.post("/api/v1/notices/test", **bearer).status_code == 202
    deliver()
    assert verified(receiver.exchanges[0], made["secret"])["type"] == "notice.test"
    rotated = client.post("/api/v1/notices/webhook/rotate", **bearer).json()
    assert rotated["secret"] != made["secret"]
    wanted = {"mail": ["key.refused"], "webhook": []}
    assert client.put("/api/v1/notices", json.dumps(wanted), **bearer).json() == wanted
    assert client.get("/api/v1/notices", **bearer).json() == wanted
    refused = client.put("/api/v1/notices", json.dumps({"mail": ["x"], "webhook": []}), **bearer)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "unknown_notice")
    refused = client.put("/api/v1/notices/webhook", json.dumps({"url": "ftp://x"}), **bearer)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_webhook")
    assert client.post("/api/v1/notices/webhook/resume", **bearer).status_code == 204
    assert client.delete("/api/v1/notices/webhook", **bearer).status_code == 204
