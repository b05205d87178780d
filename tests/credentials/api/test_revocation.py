"""Whoever holds a token may end it, without signing in (RFC 7009), and scanners know what a token looks like."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.test import Client

from accounts import access_tokens, tokens
from accounts.actors import Person
from accounts.audit_log import actor_label
from accounts.models import AccessToken, AuditEvent, User
from accounts.sign_in import throttle
from credentials import services
from credentials.models import BearerToken
from tests.support import factories

PATH = "/api/v1/tokens/revoke"
JSON, FORM = "application/json", "application/x-www-form-urlencoded"


def revoke(body: Any, content_type: str = FORM, *, address: str = "192.0.2.7") -> int:
    return Client(headers={"X-Strake-Client": address}).post(PATH, body, content_type=content_type).status_code


@pytest.mark.parametrize(("content_type", "body"), [(FORM, "token_type_hint=x&token={}"), (JSON, '{{"token": "{}"}}')])
def test_holder_ends_a_bearer_token_and_its_children(alice: User, content_type: str, body: str) -> None:
    made = factories.make_endpoint(owner=alice)
    actor = Person(alice)
    subdomain = made.endpoint.subdomain
    child = services.issue_token(actor=actor, subdomain=subdomain, parent_id=made.token.pk).token
    other = services.issue_token(actor=actor, subdomain=subdomain).token
    assert revoke(body.format(made.plaintext), content_type) == 200
    assert set(BearerToken.objects.live().values_list("pk", flat=True)) == {other.pk}
    events = AuditEvent.objects.filter(action="token.revoked")
    assert {event.subject_id for event in events} == {made.token.pk, child.pk}
    assert {(event.account, event.actor, event.ip, actor_label(event)) for event in events} == {
        (alice, None, "192.0.2.7", "holder of the token")
    }


def test_holder_ends_an_access_token(alice: User) -> None:
    made = access_tokens.create(actor=Person(alice), user=alice, label="script")
    assert revoke(f"token={made.plaintext}") == 200
    assert not AccessToken.objects.live().exists()
    event = AuditEvent.objects.get(action="access_token.revoked")
    assert (actor_label(event), event.ip) == ("holder of the token", "192.0.2.7")


def test_unknown_and_ended_tokens_are_answered_alike(alice: User) -> None:
    made = factories.make_endpoint(owner=alice)
    assert revoke(f"token={made.plaintext}") == 200
    events = AuditEvent.objects.count()
    for token in (made.plaintext, tokens.mint("strk_"), tokens.mint("pat_"), tokens.mint("link_"), "x" * 5000):
        assert revoke(f"token={token}") == 200
    assert AuditEvent.objects.count() == events


@pytest.mark.parametrize(
    ("body", "content_type"),
    [("", FORM), ("tokens=x", FORM), ("{", JSON), ("[]", JSON), ('{"token": 5}', JSON), ('{"token": " "}', JSON)],
)
def test_request_without_a_token_is_malformed(db: None, body: str, content_type: str) -> None:
    assert revoke(body, content_type) == 400


def test_guesses_are_throttled_and_no_token_that_works(alice: User) -> None:
    made = factories.make_endpoint(owner=alice)
    statuses = [revoke("token=x") for _ in range(throttle.BAD_TOKENS_PER_ADDRESS.count + 1)]
    assert statuses == [200] * throttle.BAD_TOKENS_PER_ADDRESS.count + [429]
    assert revoke("token=x", address="192.0.2.8") == 200
    assert revoke(f"token={made.plaintext}") == 200
    assert not BearerToken.objects.live().exists()


# --- What scanners are told ----------------------------------------------------------------------------------------

FOLDER = settings.ROOT / "contrib" / "secret-scanning"


def patterns() -> list[tuple[str, Any]]:
    """The patterns of gitleaks and of GitHub, each with the prefix of its tokens. The token is the first group.

    Compiled by RE2, whose syntax is that of Go and of gitleaks. GitHub's Hyperscan has no look-around either.
    """
    re2 = pytest.importorskip("re2", reason="`make` installs it")
    found = []
    for rule in tomllib.loads((FOLDER / "gitleaks.toml").read_text())["rules"]:
        assert set(rule) == {"id", "description", "regex", "secretGroup", "entropy", "keywords"}
        (prefix,) = rule["keywords"]
        found.append((prefix, rule["regex"]))
    for pattern in yaml.safe_load((FOLDER / "github.yml").read_text()):
        before, after = pattern["before_secret"], pattern["after_secret"]
        prefix = pattern["test_string"].partition("_")[0] + "_"
        assert re.fullmatch(pattern["secret_format"], pattern["test_string"])
        found.append((prefix, f"(?:{before})({pattern['secret_format']})(?:{after})"))
    return [(prefix, re2.compile(pattern)) for prefix, pattern in found]


def test_scanners_match_every_token_and_nothing_else() -> None:
    for prefix, pattern in patterns():
        token = tokens.mint(prefix)
        for text in (token, f'api_key = "{token}"', f"Bearer {token}\n", f"https://x/?key={token}&a=b"):
            assert [match.group(1) for match in pattern.finditer(text)] == [token]
        others = (tokens.mint("link_"), f"{token}0", token[:-1], f"x{token}", token.upper(), f"{prefix}{'_' * 49}")
        assert not [text for text in others if pattern.search(text)]
    assert {prefix for prefix, _ in patterns()} == {"strk_", "pat_"}
