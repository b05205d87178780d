"""The device grant (RFC 8628): a program asks, a person allows it on a page, and the program gets one access token."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from io import StringIO
from typing import Any
from urllib.parse import quote

import pytest
import time_machine
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from accounts import access_tokens, device_grants
from accounts.actors import Person
from accounts.errors import InvalidDeviceCode, NotFound, TooManyRequests
from accounts.models import AccessToken, AuditEvent, DeviceGrant, User
from accounts.sign_in import throttle
from credentials.api.device import GRANT_TYPE
from tests.support.pages import FROM_LOOPBACK, text

pytestmark = pytest.mark.django_db
PAGE = "/device/"


def start(client: Client, **fields: str) -> dict[str, Any]:
    answer = client.post("/api/v1/device/code", {"client_id": "strake-cli", "device_name": "laptop", **fields})
    assert answer.status_code == 200, answer.content
    return dict(answer.json())


def ask(client: Client, started: dict[str, Any], **fields: str) -> tuple[int, dict[str, Any]]:
    form = {"grant_type": GRANT_TYPE, "device_code": started["device_code"], "client_id": "strake-cli", **fields}
    answer = client.post("/api/v1/device/token", form)
    return answer.status_code, dict(answer.json())


@pytest.fixture
def browser(alice: User) -> Client:
    browser = Client(headers=FROM_LOOPBACK)
    browser.force_login(alice)
    return browser


def decide(browser: Client, started: dict[str, Any], decision: str = "allow") -> Any:
    return browser.post(PAGE, {"user_code": started["user_code"], "decision": decision})


def test_program_gets_a_token_after_the_person_allows_it(client: Client, browser: Client, alice: User) -> None:
    started = start(client)
    assert started["verification_uri"] == "http://localhost:8000/device/"
    assert started["verification_uri_complete"] == f"http://localhost:8000/device/?user_code={started['user_code']}"
    assert ask(client, started) == (
        400,
        {"error": "authorization_pending", "error_description": "Nobody has allowed this yet."},
    )
    page = browser.get(f"{PAGE}?user_code={started['user_code']}")
    for shown in (started["user_code"], "strake-cli on laptop", "127.0.0.1", "alice@example.org", "90 days"):
        assert shown in text(page)
    assert "another network address" not in text(page)
    assert "strake-cli is signed in" in text(decide(browser, started))
    status, answer = ask(client, started)
    assert (status, answer["token_type"], answer["scope"]) == (200, "Bearer", "read tokens endpoints")
    assert 0 < answer["expires_in"] <= 90 * 86400
    found = access_tokens.authenticate(answer["access_token"])
    assert found is not None
    assert (found.user, found.label) == (alice, "strake-cli on laptop")
    events = AuditEvent.objects.filter(account=alice).order_by("pk").values_list("action", "ip")
    assert list(events)[-2:] == [("device_grant.allowed", "127.0.0.1"), ("access_token.created", "127.0.0.1")]


def test_token_has_the_scopes_that_the_page_showed(client: Client, browser: Client) -> None:
    started = start(client, scope="read")
    page = text(browser.get(f"{PAGE}?user_code={started['user_code']}"))
    assert "see your endpoints" in page
    assert "connect, change" not in page
    decide(browser, started)
    _, answer = ask(client, started)
    assert answer["scope"] == "read"
    assert AccessToken.objects.get().scopes == ["read"]


def test_codes_work_once(client: Client, browser: Client) -> None:
    started = start(client)
    decide(browser, started)
    assert decide(browser, started).status_code == 400
    assert ask(client, started)[0] == 200
    assert ask(client, started) == (
        400,
        {"error": "invalid_grant", "error_description": "There is no such device code, or it was used."},
    )
    assert AccessToken.objects.count() == 1


def test_concurrent_exchange_yields_one_token(client: Client, browser: Client, alice: User) -> None:
    started = start(client)
    decide(browser, started)
    late = DeviceGrant.objects.get()
    assert ask(client, started)[0] == 200
    with pytest.raises(InvalidDeviceCode):
        device_grants._issue(late, alice, None)
    assert AccessToken.objects.count() == 1


def test_no_code_is_stored(client: Client) -> None:
    started = start(client)
    stored = str(DeviceGrant.objects.values()) + str(AuditEvent.objects.values())
    for code in (started["device_code"][len("device_") :], started["user_code"], started["user_code"].replace("-", "")):
        assert code not in stored
        assert code[:6] not in stored
    assert re.fullmatch("[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}", started["user_code"])


def test_people_may_spell_the_code_as_they_like(client: Client, browser: Client) -> None:
    code = start(client)["user_code"]
    for spelt in (code, f" {code} ", code.lower(), " ".join(code.replace("-", ""))):
        assert "strake-cli" in text(browser.get(f"{PAGE}?user_code={quote(spelt)}"))


def test_denied_program_gets_nothing(client: Client, browser: Client) -> None:
    started = start(client)
    assert "got no access" in text(decide(browser, started, "deny"))
    assert decide(browser, started).status_code == 400
    assert ask(client, started)[1]["error"] == "access_denied"
    assert not AccessToken.objects.exists()
    assert AuditEvent.objects.latest("pk").action == "device_grant.denied"


def test_codes_expire_after_ten_minutes(client: Client, browser: Client) -> None:
    started = start(client)
    assert started["expires_in"] == 600
    with time_machine.travel(timezone.now() + timedelta(minutes=10, seconds=1)):
        assert decide(browser, started).status_code == 400
        assert ask(client, started)[1]["error"] == "expired_token"


def test_allowed_code_expires_too(client: Client, browser: Client) -> None:
    started = start(client)
    decide(browser, started)
    with time_machine.travel(timezone.now() + timedelta(minutes=10, seconds=1)):
        assert ask(client, started)[1]["error"] == "expired_token"


def test_asking_too_often_slows_down(client: Client) -> None:
    started = start(client)
    assert started["interval"] == 2
    assert [ask(client, started)[1]["error"] for _ in range(2)] == ["authorization_pending", "slow_down"]
    with time_machine.travel(timezone.now() + timedelta(seconds=4)):
        assert ask(client, started)[1]["error"] == "slow_down"  # the interval is seven seconds now
    with time_machine.travel(timezone.now() + timedelta(seconds=17)):
        assert ask(client, started)[1]["error"] == "authorization_pending"


def test_code_belongs_to_the_client_that_asked(client: Client, browser: Client) -> None:
    started = start(client)
    decide(browser, started)
    assert ask(client, started, client_id="other")[1]["error"] == "invalid_grant"
    assert ask(client, started)[0] == 200


def test_suspended_person_gives_no_token(client: Client, browser: Client, alice: User) -> None:
    started = start(client)
    decide(browser, started)
    User.objects.filter(pk=alice.pk).update(suspended_at=timezone.now())
    assert ask(client, started)[1]["error"] == "access_denied"


def test_full_quota_is_explained_and_the_code_stays(client: Client, browser: Client, settings: Any) -> None:
    settings.STRAKE_MAX_ACCESS_TOKENS = 0
    started = start(client)
    decide(browser, started)
    status, answer = ask(client, started)
    assert (status, answer["error"]) == (400, "access_denied")
    assert "STRAKE_MAX_ACCESS_TOKENS" in answer["error_description"]
    settings.STRAKE_MAX_ACCESS_TOKENS = 1
    assert ask(client, started)[0] == 200


MALFORMED: list[tuple[str, dict[str, Any]]] = [
    ("code", {}),
    ("code", {"client_id": ""}),
    ("code", {"client_id": "x" * 101}),
    ("code", {"client_id": ["a", "b"]}),
    ("token", {}),
    ("token", {"grant_type": GRANT_TYPE, "client_id": "x"}),
    ("token", {"grant_type": [GRANT_TYPE, GRANT_TYPE], "client_id": "x", "device_code": "x"}),
]


def test_malformed_requests_get_the_body_of_rfc_6749(client: Client) -> None:
    for path, form in MALFORMED:
        answer = client.post(f"/api/v1/device/{path}", form)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), form
        assert set(answer.json()) == {"error", "error_description"}
    as_json = client.post("/api/v1/device/code", json.dumps({"client_id": "x"}), content_type="application/json")
    assert as_json.json()["error"] == "invalid_request"


def test_other_grant_types_and_scopes_are_refused(client: Client) -> None:
    started = start(client)
    assert ask(client, started, grant_type="password")[1]["error"] == "unsupported_grant_type"
    answer = client.post("/api/v1/device/code", {"client_id": "x", "scope": "read everything"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")


# --- The page ------------------------------------------------------------------------------------------------------


def test_visitor_signs_in_and_comes_back_to_the_code(client: Client) -> None:
    answer = client.get(f"{PAGE}?user_code=BCDF-GHJK")
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/signin/?next=/device/%3Fuser_code%3DBCDF-GHJK"


def test_old_session_signs_in_again_and_comes_back(client: Client, browser: Client) -> None:
    """Allowing a program makes an access token, so it takes what creating one on the page takes."""
    started = start(client)
    with time_machine.travel(timezone.now() + timedelta(minutes=9)):
        answer = browser.get(f"{PAGE}?user_code={started['user_code']}")
        assert answer.status_code == 200
    session = browser.session
    session["signed_in_at"] = timezone.now().timestamp() - 3600
    session.save()
    answer = browser.get(f"{PAGE}?user_code={started['user_code']}")
    assert answer.headers["Location"].startswith("/signin/again/?next=%2Fdevice%2F%3Fuser_code%3D")
    decide(browser, started)
    assert ask(client, started)[1]["error"] == "authorization_pending"


def test_opening_the_page_allows_nothing(client: Client, browser: Client) -> None:
    started = start(client)
    browser.get(f"{PAGE}?user_code={started['user_code']}&decision=allow")
    browser.post(PAGE, {"user_code": started["user_code"]})
    assert ask(client, started)[1]["error"] == "authorization_pending"
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get())
    assert decide(strict, started).status_code == 403


def test_request_from_elsewhere_is_marked(client: Client, alice: User) -> None:
    started = start(client)
    elsewhere = Client(headers={"X-Strake-Client": "198.51.100.7"})
    elsewhere.force_login(alice)
    assert "another network address" in text(elsewhere.get(f"{PAGE}?user_code={started['user_code']}"))
    same_machine = Client(headers={"X-Strake-Client": "::1"})
    same_machine.force_login(alice)
    assert "another network address" not in text(same_machine.get(f"{PAGE}?user_code={started['user_code']}"))


def test_names_of_programs_are_escaped(browser: Client, client: Client) -> None:
    started = start(client, client_id="<b>\x1b[2J\u202e", device_name="<script>")
    page = browser.get(f"{PAGE}?user_code={started['user_code']}").content.decode()
    assert "<script>" not in page
    assert "&lt;b&gt;\ufffd[2J\ufffd on &lt;script&gt;" in page


# --- Guessing ------------------------------------------------------------------------------------------------------


def test_wrong_codes_are_limited_per_person(client: Client, browser: Client, bob: User) -> None:
    """RFC 8628, section 5.1. Right codes are refused too, and other people are not concerned."""
    started = start(client)
    path = f"{PAGE}?user_code={started['user_code']}"
    for _ in range(device_grants.WRONG_CODES_PER_PERSON.count):
        assert browser.get(f"{PAGE}?user_code=BCDF-GHJK").status_code == 400
    refused = browser.get(path)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "900")
    assert decide(browser, started).status_code == 429
    other = Client(headers=FROM_LOOPBACK)
    other.force_login(bob)
    assert other.get(path).status_code == 200


def test_wrong_codes_are_limited_per_network(monkeypatch: pytest.MonkeyPatch, bob: User, alice: User) -> None:
    monkeypatch.setattr(device_grants, "WRONG_CODES_PER_ADDRESS", throttle.Limit("device-code-address", 2, 900))
    for user in (alice, bob):
        with pytest.raises(NotFound):
            device_grants.find(actor=Person(user, "192.0.2.1"), user_code="BCDF-GHJK")
    with pytest.raises(TooManyRequests):
        device_grants.find(actor=Person(bob, "192.0.2.1"), user_code="BCDF-GHJK")
    with pytest.raises(NotFound):
        device_grants.find(actor=Person(bob, "192.0.2.2"), user_code="BCDF-GHJK")


def test_requests_for_codes_are_limited_per_network(client: Client) -> None:
    for _ in range(device_grants.REQUESTS_PER_ADDRESS.count):
        start(client)
    answer = client.post("/api/v1/device/code", {"client_id": "x"})
    assert (answer.status_code, answer.json()["error"]) == (429, "slow_down")
    assert int(answer.headers["Retry-After"]) > 0


def test_wrong_device_codes_are_limited_per_network(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "BAD_TOKENS_PER_ADDRESS", throttle.Limit("bad-token-address", 2, 300))
    wrong = {"device_code": "device_" + "0" * 49}
    assert [ask(client, wrong)[0] for _ in range(3)] == [400, 400, 429]


# --- The command ---------------------------------------------------------------------------------------------------


def test_operator_allows_a_program(client: Client, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    started = start(client)
    monkeypatch.setattr("sys.stdin", StringIO(started["user_code"] + "\n"))
    out = StringIO()
    call_command("allow_device", "--code-stdin", stdout=out)
    assert out.getvalue() == "strake-cli may act for alice@example.org.\n"
    event = AuditEvent.objects.get(action="device_grant.allowed")
    assert (event.actor_id, event.account_id) == (None, alice.pk)
    assert event.via.startswith("command allow_device")
    assert ask(client, started)[0] == 200
    monkeypatch.setattr("sys.stdin", StringIO(started["user_code"]))
    with pytest.raises(CommandError, match="no longer valid"):
        call_command("allow_device", "--code-stdin")


def test_person_allows_only_for_themselves(client: Client, alice: User, bob: User) -> None:
    started = start(client)
    with pytest.raises(NotFound):
        device_grants.allow(actor=Person(bob), user=alice, user_code=started["user_code"])
    assert DeviceGrant.objects.get().allowed_at is None
