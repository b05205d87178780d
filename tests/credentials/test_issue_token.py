"""`manage.py issue_token` sets every limit, and explains why a limit is invalid."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounts import tokens
from accounts.models import AuditEvent, User
from credentials.models import BEARER_TOKEN_PREFIX, BearerToken
from tests.support import factories


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("issue_token", *arguments, stdout=out)
    return out.getvalue().strip()


def test_token_is_printed_once_and_stored_as_digest(alice: User) -> None:
    endpoint = factories.make_endpoint(owner=alice).endpoint
    plaintext = run(endpoint.subdomain)
    assert tokens.is_well_formed(plaintext, BEARER_TOKEN_PREFIX)
    token = BearerToken.objects.get(digest=tokens.digest(plaintext))
    assert token.endpoint == endpoint
    assert (token.requests_per_minute, token.expires_at, token.allowed_paths, token.allowed_networks) == (
        None,
        None,
        [],
        [],
    )
    assert AuditEvent.objects.get(action="token.issued").subject_id == token.pk


def test_every_limit_can_be_set(alice: User) -> None:
    endpoint = factories.make_endpoint(owner=alice).endpoint
    limits = ["--requests-per-minute", "60", "--expires-in-days", "7", "--label", "CI"]
    paths = ["--allow-path", "post /v1/chat/*", "--allow-path", "/v1/models"]
    networks = ["--allow-network", "192.0.2.7/24", "--allow-network", "2001:db8::1"]
    made = json.loads(run(endpoint.subdomain, *limits, *paths, *networks, "--json"))
    token = BearerToken.objects.get(pk=made["token_id"])
    assert bytes(token.digest) == tokens.digest(made["token"])
    assert (token.label, token.requests_per_minute) == ("CI", 60)
    assert token.allowed_paths == ["POST /v1/chat/*", "* /v1/models"]
    assert token.allowed_networks == ["192.0.2.0/24", "2001:db8::1/128"]
    assert token.expires_at is not None
    assert abs(token.expires_at - timezone.now() - timedelta(days=7)) < timedelta(minutes=1)


def test_only_the_option_allows_minting(alice: User) -> None:
    endpoint = factories.make_endpoint(owner=alice).endpoint
    for arguments, allows in (([], False), (["--allow-minting"], True)):
        made = json.loads(run(endpoint.subdomain, *arguments, "--json"))
        assert BearerToken.objects.get(pk=made["token_id"]).allow_minting is allows


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--requests-per-minute", "0"], "from 1 to"),
        (["--requests-per-day", "0"], "from 1 to"),
        (["--concurrent-requests", "0"], "from 1 to"),
        (["--parent", "ctok_unknown"], "no such token"),
        (["--expires-in-days", "0"], "from 1 to"),
        (["--expires-in-days", "9999999"], "from 1 to"),
        (["--allow-path", "FETCH /v1"], "is not a method"),
        (["--allow-path", "v1/models"], "starts with /"),
        (["--allow-network", "everywhere"], "is not an address or network"),
    ],
)
def test_invalid_limit_creates_no_token(alice: User, arguments: list[str], says: str) -> None:
    endpoint = factories.make_endpoint(owner=alice).endpoint
    before = BearerToken.objects.count()
    with pytest.raises(CommandError, match=says):
        run(endpoint.subdomain, *arguments)
    assert BearerToken.objects.count() == before


def test_unknown_endpoint_is_refused(db: None) -> None:
    with pytest.raises(CommandError, match="no such endpoint"):
        run("abcdefghijkl")
