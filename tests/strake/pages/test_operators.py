"""The pages for staff: who may open them, what they find, what they change, and that they show nothing secret."""

from __future__ import annotations

import base64
from datetime import timedelta
from http import HTTPStatus

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import access_tokens, users
from accounts.actors import OPERATOR, Person
from accounts.models import AuditEvent, User
from credentials.models import BearerToken, Endpoint, SealedKey
from proxy.models import RequestRollup
from tests.support import factories
from tests.support.factories import Connected
from tests.support.pages import FROM_LOOPBACK, text
from tests.support.populate import populate


@pytest.fixture
def staff(db: None) -> User:
    return factories.make_user("operator@example.org", is_staff=True)


@pytest.fixture
def operator(staff: User) -> Client:
    client = Client(headers=FROM_LOOPBACK)
    client.force_login(staff)
    return client


@pytest.fixture
def made(alice: User) -> Connected:
    return factories.make_endpoint(owner=alice, label="laptop")


def seen(client: Client, path: str) -> str:
    response = client.get(path)
    assert response.status_code == HTTPStatus.OK
    return text(response)


def last_event(action: str) -> AuditEvent:
    return AuditEvent.objects.filter(action=action).latest("pk")


# --- Suspending ------------------------------------------------------------------------------------------------------


def test_suspending_ends_all_access(operator: Client, staff: User, alice: User, made: Connected) -> None:
    browser, script = Client(), Client()
    browser.force_login(alice)
    token = access_tokens.create(actor=Person(alice), user=alice, label="script").plaintext
    script.defaults["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    assert script.get("/api/v1/me").status_code == HTTPStatus.OK

    page = operator.post(f"/admin/people/{alice.pk}/suspend/", {"reason": "key leaked"}, follow=True)
    assert "alice@example.org is suspended. 1 session ended." in text(page)
    assert "Suspended just now by operator@example.org. Reason: key leaked" in text(page)
    assert browser.get("/endpoints/").status_code == HTTPStatus.FOUND
    assert script.get("/api/v1/me").status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
    assert "laptop" in seen(operator, "/admin/endpoints/?state=suspended"), "nothing is deleted"
    event = last_event("user.suspended")
    assert (event.actor, event.account, event.ip) == (staff, alice, "127.0.0.1")
    assert event.via.startswith("session ")
    assert event.details.items() >= {"from": "active", "to": "suspended", "reason": "key leaked"}.items()
    assert event.details["acting_id"] == staff.browser_sessions.get().pk


def test_resuming_gives_access_back(operator: Client, staff: User, alice: User) -> None:
    users.suspend(actor=OPERATOR, user=alice)
    assert "has access again" in text(operator.post(f"/admin/people/{alice.pk}/resume/", follow=True))
    assert User.objects.get(pk=alice.pk).suspended_at is None
    assert (last_event("user.resumed").actor, last_event("user.resumed").ip) == (staff, "127.0.0.1")


def test_resuming_needs_a_recent_sign_in(operator: Client, alice: User) -> None:
    """Suspending does not: whoever takes over a session of staff cannot give anybody access with it."""
    users.suspend(actor=OPERATOR, user=alice)
    with time_machine.travel(timezone.now() + timedelta(hours=1)):
        response = operator.post(f"/admin/people/{alice.pk}/resume/")
    assert response.headers["Location"].startswith("/signin/again/")
    assert User.objects.get(pk=alice.pk).suspended_at is not None


def test_nobody_suspends_themselves(operator: Client, staff: User) -> None:
    assert "/suspend/" not in operator.get(f"/admin/people/{staff.pk}/").content.decode()
    response = operator.post(f"/admin/people/{staff.pk}/suspend/")
    assert response.status_code == HTTPStatus.BAD_REQUEST
    assert "You can't suspend yourself" in text(response)
    assert User.objects.get(pk=staff.pk).suspended_at is None


def test_unknown_person_does_not_exist(operator: Client, made: Connected) -> None:
    for path in ("", "suspend/", "resume/"):
        assert operator.get(f"/admin/people/{made.endpoint.pk}/{path}").status_code == HTTPStatus.NOT_FOUND


# --- Rights ----------------------------------------------------------------------------------------------------------


def test_staff_have_no_more_rights_elsewhere(operator: Client, staff: User, made: Connected) -> None:
    """An operator acts on these pages alone. What staff do on others, and their scripts, is about what they own."""
    at = f"/endpoints/{made.endpoint.subdomain}/"
    token = access_tokens.create(actor=Person(staff), user=staff, label="script").plaintext
    script = Client(headers={"authorization": f"Bearer {token}"})
    assert operator.post(f"{at}limits/", {"max_streams": "5"}).status_code == HTTPStatus.NOT_FOUND
    assert operator.post(f"{at}pause/").status_code == HTTPStatus.NOT_FOUND
    assert script.get(f"/api/v1{at[:-1]}").status_code == HTTPStatus.NOT_FOUND
    assert Endpoint.objects.get().max_streams is None


def test_limit_of_an_endpoint_is_audited(operator: Client, staff: User, alice: User, made: Connected) -> None:
    at = f"/admin/endpoints/{made.endpoint.subdomain}/limits/"
    for wrong in ("0", "many", "3000"):
        assert operator.post(at, {"max_streams": wrong}).status_code == HTTPStatus.BAD_REQUEST
    page = operator.post(at, {"max_streams": "1234"}, follow=True)
    assert '"laptop" has a limit of 1,234.' in text(page)
    assert "Active 0 1,234 : limit laptop" in text(page)
    event = last_event("endpoint.limited")
    assert (event.actor, event.account, event.ip) == (staff, alice, "127.0.0.1")
    assert (event.details["from"], event.details["to"]) == (None, 1234)


def test_pages_show_nothing_sealed(operator: Client, alice: User, made: Connected) -> None:
    access_tokens.create(actor=Person(alice), user=alice, label="script")
    sealed, token = SealedKey.objects.whole().get(), BearerToken.objects.get()
    secrets = [
        bytes(value)
        for value in (
            *(sealed.ciphertext, sealed.iv, sealed.wrapped_dek, sealed.wrapped_dek_iv, token.digest),
            *(one.digest for one in alice.access_tokens.all()),
        )
    ]
    paths = ("health/", "people/", f"people/{alice.pk}/", f"people/{alice.pk}/suspend/", "endpoints/?q=laptop")
    for path in (*paths, f"endpoints/{made.endpoint.subdomain}/limits/"):
        page = operator.get(f"/admin/{path}").content.decode()
        for secret in secrets:
            for spelling in (secret.hex(), base64.b64encode(secret).decode(), str(secret)[2:14]):
                assert spelling not in page, path
        assert made.plaintext not in page


# --- Lists -----------------------------------------------------------------------------------------------------------


def emails(page: str) -> list[str]:
    return [word for word in page.split() if word.startswith("person-") and word.endswith("@example.com")]


def test_people_are_found_sorted_and_paged(operator: Client) -> None:
    User.objects.bulk_create(User(email=f"person-{number:02}@example.com") for number in range(60))
    users.suspend(actor=OPERATOR, user=User.objects.get(email="person-41@example.com"))
    first, last = (emails(seen(operator, f"/admin/people/?q=PERSON-&sort=email&page={page}")) for page in (1, 3))
    assert first == [f"person-{number:02}@example.com" for number in range(25)]
    assert last == [f"person-{number:02}@example.com" for number in range(50, 60)]
    assert emails(seen(operator, "/admin/people/?state=suspended")) == ["person-41@example.com"]
    assert emails(seen(operator, "/admin/people/?sort=suspended"))[0] == "person-41@example.com"
    assert emails(seen(operator, "/admin/people/?q=person-4&state=active&sort=nonsense&page=x"))
    assert "No people match your search" in seen(operator, "/admin/people/?q=nobody-like-this")
    assert "operator@example.org Active Staff 0 0 just now" in seen(operator, "/admin/people/?state=staff")


def test_endpoints_are_found_by_what_they_need(operator: Client, alice: User, bob: User, made: Connected) -> None:
    busy = factories.make_endpoint(owner=bob, label="busy")
    lost = factories.make_endpoint(owner=bob, label="lost")
    SealedKey.objects.filter(credential=lost.credential).update(master_key_id="gone")
    bare = factories.make_endpoint(owner=bob, label="bare")
    SealedKey.objects.filter(credential=bare.credential).delete()
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    for status_class, count in ((2, 1000), (5, 34)):
        RequestRollup.objects.create(
            endpoint=busy.endpoint,
            token=busy.token,
            hour=hour,
            status_class=status_class,
            count=count,
            latency_max_ms=1,
        )

    def found(query: str) -> list[str]:
        page = seen(operator, f"/admin/endpoints/?{query}").partition(" Created ")[2]
        return [word for word in page.split() if word in {"laptop", "busy", "lost", "bare"}][::2]

    assert found("state=keyless&sort=label") == ["bare", "lost"]
    assert found("sort=requests")[0] == "busy"
    assert found("q=ALICE@") == ["laptop"]
    assert found(f"q={lost.endpoint.subdomain}") == ["lost"]
    page = seen(operator, "/admin/endpoints/?q=busy")
    assert f"busy {busy.endpoint.subdomain} bob@example.org Custom Active 1,034 Default" in page
    assert "bare" in seen(operator, f"/admin/people/{bob.pk}/")
    assert "Endpoints 3 of 100 STRAKE_MAX_ENDPOINTS" in seen(operator, f"/admin/people/{bob.pk}/")


def test_query_count_does_not_grow_with_rows(operator: Client, staff: User) -> None:
    owner = factories.make_user()
    lists = ["/admin/people/", f"/admin/people/{owner.pk}/", "/admin/endpoints/?sort=requests", "/admin/health/"]
    lists += ["/audit/?everybody=on", "/access-tokens/", "/settings/"]

    def add(people: int) -> None:
        for person in (owner, *(factories.make_user() for _ in range(people))):
            populate(person, endpoints=2, tokens_first=2, records=5)
            for holder in (person, staff):
                access_tokens.create(actor=Person(holder), user=holder, label="CI")

    def query_counts() -> dict[str, int]:
        found = {}
        for path in lists:
            with CaptureQueriesContext(connection) as queries:
                assert operator.get(path).status_code == HTTPStatus.OK
            found[path] = len(queries)
        return found

    with time_machine.travel(timezone.now(), tick=False):  # what happens once a minute happens in no request
        add(1)
        query_counts()  # the first reading of each page is recorded
        few = query_counts()
        add(12)
        assert query_counts() == few
    assert few.pop("/admin/health/") <= 24, "one look at each thing that it shows"
    assert max(few.values()) <= 15
