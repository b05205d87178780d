"""The web origins of a token: how they are kept, which are refused, and every way of setting them."""

from __future__ import annotations

import json
import re
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from accounts.models import AuditEvent, User
from credentials import token_limits
from credentials.errors import InvalidLimit
from credentials.models import BearerToken
from tests.support import factories


@pytest.mark.parametrize(
    ("entry", "kept"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("  HTTPS://App.Example.COM/ ", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("https://app.example.com:8443", "https://app.example.com:8443"),
        ("https://münchen.example", "https://xn--mnchen-3ya.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://app.localhost", "http://app.localhost"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://[0::1]:5173", "http://[::1]:5173"),
    ],
)
def test_origin_is_kept_as_browsers_send_it(entry: str, kept: str) -> None:
    assert token_limits.clean(allowed_origins=[entry, "", entry]).allowed_origins == (kept,)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("*", "can't be allowed"),
        ("null", "can't be allowed"),
        ("app.example.com", "https://app.example.com"),
        ("https://*.example.com", "not the origin"),
        ("https://", "not the origin"),
        ("https://a b", "not the origin"),
        ("https://a,b.example", "not the origin"),
        ("https://user@app.example.com", "not the origin"),
        ("https://app.example.com:99999", "not the origin"),
        ("https://[::1", "not the origin"),
        ("chrome-extension://abcdef", "not the origin"),
        ("https://app.example.com/page", "has no path. Write https://app.example.com"),
        ("https://app.example.com?x", "has no path"),
        ("http://app.example.com", "https"),
        ("http://192.168.0.10:3000", "https"),
        ("http://localhost.example.com", "https"),
        ("http://localhost:8000", "Strake's own pages"),
    ],
)
def test_refused_entry_says_what_to_write(entry: str, says: str) -> None:
    with pytest.raises(InvalidLimit, match=re.escape(says)) as caught:
        token_limits.clean(allowed_origins=[entry])
    assert caught.value.field == "allowed_origins"


def test_origins_are_limited_in_number() -> None:
    entries = [f"https://{number}.example" for number in range(token_limits.MAX_ENTRIES + 1)]
    with pytest.raises(InvalidLimit, match="At most 50 web origins"):
        token_limits.clean(allowed_origins=entries)


def test_command_and_audit_trail_have_the_origins(alice: User) -> None:
    endpoint = factories.make_endpoint(owner=alice).endpoint
    out = StringIO()
    call_command("issue_token", endpoint.subdomain, "--allow-origin", "https://a.example/", "--json", stdout=out)
    token = BearerToken.objects.get(pk=json.loads(out.getvalue())["token_id"])
    assert token.allowed_origins == ["https://a.example"]
    assert AuditEvent.objects.get(action="token.issued", subject_id=token.pk).details == {
        "allowed_origins": ["https://a.example"]
    }
    with pytest.raises(CommandError, match="can't be allowed"):
        call_command("issue_token", endpoint.subdomain, "--allow-origin", "*")
