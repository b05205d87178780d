"""The API does what its OpenAPI document says, also for inputs nobody thought of: schemathesis tries to refute it."""

from __future__ import annotations

import random
from typing import Any

import pytest
import schemathesis
from django.core.wsgi import get_wsgi_application
from hypothesis import HealthCheck, settings
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import positive_data_acceptance

from accounts import access_tokens, limits
from accounts.audit import Actor
from accounts.models import User
from credentials import key_check
from tests import factories

# Real transactions: schemathesis calls the application like a server does, and that ends connections.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", get_wsgi_application(), base_url="http://localhost")


@pytest.fixture
def world(transactional_db: None, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An access token, an endpoint of its owner and one of somebody else; providers take every key."""
    monkeypatch.setattr(key_check, "check_key", lambda **_: None)
    monkeypatch.setattr(limits, "BAD_TOKENS_PER_ADDRESS", limits.Limit("bad-token-address", 10**9, 300))
    monkeypatch.setattr(limits, "BAD_TOKENS_PER_SITE", limits.Limit("bad-token-site", 10**9, 300))
    mine, his = factories.make_endpoint(owner=alice), factories.make_endpoint(owner=bob)
    token = access_tokens.create_access_token(actor=Actor(alice), user=alice, label="schemathesis").plaintext
    return {
        "headers": {"Authorization": f"Bearer {token}"},
        "subdomain": [mine.endpoint.subdomain, his.endpoint.subdomain, None],
        "token_id": [mine.token.pk, his.token.pk, None],
    }


@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_answers_conform_to_the_document(case: schemathesis.Case, world: dict[str, Any]) -> None:
    broken = case.meta.components if case.meta and case.meta.generation.mode.is_negative else {}
    if ParameterLocation.PATH not in broken or not broken[ParameterLocation.PATH].mode.is_negative:
        chosen = random.Random(str(case.path_parameters))
        for name in ("subdomain", "token_id"):
            if name in case.path_parameters and (real := chosen.choice(world[name])):
                case.path_parameters[name] = real
    if ParameterLocation.HEADER in broken and broken[ParameterLocation.HEADER].mode.is_negative:
        headers = {}
    else:
        headers = world["headers"]
    # What a destination or a limit may be depends on the provider and on other fields; JSON Schema cannot say it.
    case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])
