"""Notices: choosing, telling once, emails and the link in them, and watchers of several processes."""

from __future__ import annotations

from datetime import datetime, timedelta
from email import message_from_bytes
from email.policy import default

import pytest
from django.core import mail
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts import outbox, users
from accounts.actors import Person
from accounts.errors import UnknownNotice
from accounts.models import AuditEvent, Notice, NoticeChoices, NoticeWatch, OutboxMail, User, Webhook
from accounts.notices import choices, publishing, watch
from accounts.notices.kinds import ENDPOINT_FAILING, KEY_REFUSED, KINDS
from accounts.notices.publishing import Sighting
from accounts.notices.watch import Watcher
from tests.support.pages import FROM_LOOPBACK

pytestmark = pytest.mark.django_db
NOW = timezone.now()


def failing(person: User, label: str = "Work", subject: str = "one") -> Sighting:
    endpoint = {"subdomain": "abc123def456", "label": label, "page": "https://strake.example/endpoints/abc123def456/"}
    facts = {"endpoint": endpoint, "status": 503, "error": "", "failures": 7}
    return Sighting(person.pk, ENDPOINT_FAILING, subject, facts)


def mailed() -> list[str]:
    """The subjects of the emails since the last call."""
    outbox.run_due()
    subjects = [str(message.subject) for message in mail.outbox]
    mail.outbox.clear()
    return subjects


def test_what_goes_on_is_told_once(alice: User) -> None:
    for minute in range(0, 24 * 60, 60):
        publishing.publish([failing(alice)], NOW + timedelta(minutes=minute))
    assert mailed() == ["The endpoint “Work” is failing"]


def test_quiet_time_ends_flapping(alice: User) -> None:
    publishing.publish([failing(alice)], NOW)
    publishing.publish([failing(alice)], NOW + ENDPOINT_FAILING.quiet)
    assert len(mailed()) == 1
    publishing.publish([failing(alice)], NOW + 2 * ENDPOINT_FAILING.quiet + timedelta(seconds=1))
    assert len(mailed()) == 1


def test_one_email_names_all_of_a_kind(alice: User, bob: User) -> None:
    publishing.publish([failing(alice, f"E{n}", str(n)) for n in range(30)] + [failing(bob)], NOW)
    outbox.run_due()
    to_alice, to_bob = sorted(mail.outbox, key=lambda message: message.to)
    assert (to_alice.subject, to_bob.subject) == ("30 endpoints are failing", "The endpoint “Work” is failing")
    assert str(to_alice.body).count("failed in 15 minutes") == 20
    assert "And 10 more." in str(to_alice.body)


def test_muted_and_suspended_people_get_nothing(alice: User, bob: User) -> None:
    choices.choose(actor=Person(alice), mail=KINDS.keys() - {"endpoint.failing"}, webhook=[])
    User.objects.filter(pk=bob.pk).update(suspended_at=NOW)
    publishing.publish([failing(alice), failing(bob)], NOW)
    assert not OutboxMail.objects.exists()


def test_choice_names_known_kinds_and_is_audited(alice: User) -> None:
    with pytest.raises(UnknownNotice):
        choices.choose(actor=Person(alice), mail=["nothing"], webhook=[])
    chosen = choices.choose(actor=Person(alice), mail=["key.refused"], webhook=[])
    assert chosen == choices.Choices(frozenset({"key.refused"}), frozenset())
    choices.choose(actor=Person(alice), mail=["key.refused"], webhook=[])
    [event] = AuditEvent.objects.filter(action="notices.chosen")
    assert event.details == {"mail": ["key.refused"], "webhook": []}


def test_notices_do_not_delay_sign_in_links(alice: User, client: Client) -> None:
    publishing.publish([failing(alice)], NOW)
    client.post("/signin/", {"email": "alice@example.org"})
    assert mailed() == ["Your sign-in link for Strake", "The endpoint “Work” is failing"]
    for number in range(60):
        publishing.publish([failing(alice, subject=str(number))], NOW)
    client.post("/signin/", {"email": "alice@example.org"})
    assert OutboxMail.objects.filter(kind="notice").count() == 50
    assert mailed()[0] == "Your sign-in link for Strake"


def test_erasing_a_person_removes_their_notices(alice: User) -> None:
    publishing.publish([failing(alice)], NOW)
    choices.choose(actor=Person(alice), mail=[], webhook=[])
    Webhook.objects.create(person=alice, url="https://example.com/", secret_digest="")
    users.delete_account(actor=Person(alice), confirmation=alice.email)
    for model in (Notice, NoticeChoices, Webhook, OutboxMail):
        assert not model._default_manager.exists()


# --- The link in an email ------------------------------------------------------------------------------------------


def unsubscribe_path(alice: User) -> str:
    """The path of the link in a new email, which both headers of RFC 8058 name."""
    publishing.publish([failing(alice)], NOW)
    outbox.run_due()
    sent = message_from_bytes(mail.outbox.pop().message().as_bytes(), policy=default)
    assert sent["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    url = sent["List-Unsubscribe"].replace("\n", "").replace(" ", "").strip("<>")
    text, html = (part.get_content() for part in sent.iter_parts())
    assert url in text
    assert url in html
    return str(url.partition("/notices/")[2])


def test_one_post_without_sign_in_unsubscribes(alice: User) -> None:
    path = "/notices/" + unsubscribe_path(alice)
    stranger = Client(enforce_csrf_checks=True, headers=FROM_LOOPBACK)
    page = stranger.get(path)
    assert "Endpoint is failing" in page.content.decode()
    assert alice.email not in page.content.decode()
    assert choices.choices(alice) == choices.EVERYTHING, "a scanner of links has unsubscribed somebody"
    assert stranger.post(path, {"List-Unsubscribe": "One-Click"}).status_code == 200
    assert KINDS.keys() - choices.choices(alice).mail == {"endpoint.failing"}
    assert choices.choices(alice).webhook == frozenset(KINDS)
    assert AuditEvent.objects.get(action="notices.chosen").account == alice
    assert stranger.post(path, {"everything": "1"}).status_code == 200
    assert choices.choices(alice).mail == frozenset()


def test_unsubscribing_ends_what_waits(alice: User) -> None:
    publishing.publish([failing(alice)], NOW)
    choices.choose(actor=Person(alice), mail=[], webhook=[])
    assert mailed() == []


@pytest.mark.parametrize("forged", ["x", "WyIwMCIsImtleS5yZWZ1c2VkIl0:abc", "changed"])
def test_forged_unsubscribe_link_is_a_404(client: Client, alice: User, forged: str) -> None:
    path = "/notices/" + unsubscribe_path(alice)
    if forged == "changed":
        forged = path.split("/")[3][:-1] + "_"
    assert client.post(f"/notices/unsubscribe/{forged}/").status_code == 404
    assert not NoticeChoices.objects.exists()


# --- Watchers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch, alice: User) -> list[tuple[datetime, datetime]]:
    """The intervals that the only watcher has looked at. It sees a failing endpoint every time."""
    done: list[tuple[datetime, datetime]] = []

    def look(since: datetime, until: datetime) -> list[Sighting]:
        done.append((since, until))
        return [failing(alice)]

    monkeypatch.setattr(watch, "_watchers", {"probe": Watcher("probe", look)})
    return done


def test_watcher_looks_once_a_minute_at_what_is_new(looks: list[tuple[datetime, datetime]]) -> None:
    watch.look_if_due()
    assert not looks, "what was there before the first start was told"
    watch.look_if_due()
    watch.look_if_due()
    assert len(looks) == 1
    NoticeWatch.objects.update(due_at=timezone.now())
    watch.look_if_due()
    assert looks[1][0] == looks[0][1]
    assert len(mailed()) == 1


def test_leased_watcher_is_left_alone(looks: list[tuple[datetime, datetime]]) -> None:
    NoticeWatch.objects.create(name="probe", looked_until=NOW, due_at=timezone.now() + watch.LEASE)
    watch.look_if_due()
    assert not looks


def test_lost_lease_tells_nothing(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stalls must not tell again what another one has told meanwhile."""

    def stall(since: datetime, until: datetime) -> list[Sighting]:
        NoticeWatch.objects.update(due_at=until)
        return [failing(alice)]

    monkeypatch.setattr(watch, "_watchers", {"probe": Watcher("probe", stall)})
    NoticeWatch.objects.create(name="probe", looked_until=NOW, due_at=NOW)
    watch.look_if_due()
    assert NoticeWatch.objects.get().looked_until == NOW
    assert mailed() == []


def test_failing_watcher_does_not_stop_others(
    looks: list[tuple[datetime, datetime]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(since: datetime, until: datetime) -> list[Sighting]:
        raise OperationalError("postgres://user:password@host")

    watch._watchers = {"broken": Watcher("broken", fail), **watch._watchers}
    for name in watch._watchers:
        NoticeWatch.objects.create(name=name, looked_until=NOW, due_at=NOW)
    watch.look_if_due()
    assert len(looks) == 1
    assert NoticeWatch.objects.get(name="broken").looked_until == NOW, "what was not looked at is lost"
    assert "notices_failed watcher=broken kind=OperationalError" in caplog.text
    assert "password" not in caplog.text


def test_nothing_older_than_a_day_is_told(looks: list[tuple[datetime, datetime]]) -> None:
    NoticeWatch.objects.create(name="probe", looked_until=NOW - timedelta(days=9), due_at=NOW)
    watch.look_if_due()
    assert looks[0][1] - looks[0][0] == watch.MAX_GAP


def test_without_email_only_webhooks_get_notices(alice: User, settings: Settings) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
    publishing.publish([Sighting(alice.pk, KEY_REFUSED, "one", failing(alice).facts)], NOW)
    assert not OutboxMail.objects.exists()
