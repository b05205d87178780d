"""The API conforms to its OpenAPI document. schemathesis generates requests that try to disprove it.

`make check` tries a few of each operation. `make schema EXAMPLES=500` tries more.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
import schemathesis
from django.core.wsgi import get_wsgi_application
from django.test import Client
from hypothesis import HealthCheck, settings
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import positive_data_acceptance

from accounts import access_tokens
from accounts.actors import Person
from accounts.models import AccessToken, BrowserSession, User
from accounts.sign_in import throttle
from credentials import key_check
from tests.support import factories

EXAMPLES = int(os.environ.get("EXAMPLES", "2"))
# Real transactions, because schemathesis calls the WSGI application, which closes database connections.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", get_wsgi_application(), base_url="http://localhost")


@pytest.fixture
def world(transactional_db: None, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An access token, an endpoint of its owner and one of another person. Every provider key is accepted."""
    monkeypatch.setattr(key_check, "check_key", lambda **_: None)
    monkeypatch.setattr("django.conf.settings.STRAKE_CHECKS_PER_MINUTE", 10**6)
    monkeypatch.setattr(throttle, "BAD_TOKENS_PER_ADDRESS", throttle.Limit("bad-token-address", 10**9, 300))
    monkeypatch.setattr(throttle, "BAD_TOKENS_PER_SITE", throttle.Limit("bad-token-site", 10**9, 300))
    mine, his = factories.make_endpoint(owner=alice), factories.make_endpoint(owner=bob)
    Client().force_login(alice)
    token = access_tokens.create(actor=Person(alice), user=alice, label="schemathesis")
    return {
        "headers": {"Authorization": f"Bearer {token.plaintext}"},
        "subdomain": [mine.endpoint.subdomain, his.endpoint.subdomain, None],
        "token_id": [mine.token.pk, his.token.pk, None],
        "session_id": [BrowserSession.objects.get().pk, None],
        "access_token_id": [token.token.pk, None],
    }


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_responses_conform_to_the_document(case: schemathesis.Case[Any], world: dict[str, Any]) -> None:
    AccessToken.objects.update(revoked_at=None)  # an example before may have revoked it
    broken = case.meta.components if case.meta and case.meta.generation.mode.is_negative else {}
    if ParameterLocation.PATH not in broken or not broken[ParameterLocation.PATH].mode.is_negative:
        chosen = random.Random(str(case.path_parameters))
        for name in ("subdomain", "token_id", "session_id", "access_token_id"):
            if name in case.path_parameters and (real := chosen.choice(world[name])):
                case.path_parameters[name] = real
    if ParameterLocation.HEADER in broken and broken[ParameterLocation.HEADER].mode.is_negative:
        headers = {}
    else:
        headers = world["headers"]
    # Valid destinations and limits depend on the provider and on other fields, which JSON Schema cannot express.
    case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])
