"""No control character gets into stored text, and none of any text reaches a terminal or a log."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys

import pytest
from django.apps import apps
from django.core.mail import EmailMessage
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, models, transaction
from django.test import Client

from accounts import access_tokens, device_grants
from accounts.actors import OPERATOR, Person
from accounts.addresses import normalise_email
from accounts.errors import InvalidEmail, InvalidLabel
from accounts.models import User
from accounts.plain_text import escape_unsafe, is_plain
from accounts.sign_in.mail import SignInMail, TerminalBackend
from credentials import services
from strake.logs import LineFormatter
from tests.support import factories
from tests.support.running import ROOT

UNSAFE = ["\x1b[2J", "\x07", "\x7f", "\x9b31m", "\u202egnp", "\u2066x", "\u200f"]


@pytest.mark.parametrize("text", UNSAFE)
def test_email_address_with_a_control_character_is_refused(text: str) -> None:
    for email in (f'"{text}"@example.org', f"{text}@example.org", f"a@{text}.org"):
        with pytest.raises(InvalidEmail):
            normalise_email(email)


@pytest.mark.django_db
@pytest.mark.parametrize("text", UNSAFE)
def test_label_with_a_control_character_is_refused(text: str, alice: User) -> None:
    endpoint = factories.make_endpoint(owner=alice).endpoint
    with pytest.raises(InvalidLabel):
        services.rename(actor=OPERATOR, subdomain=endpoint.subdomain, label=f"x{text}")
    with pytest.raises(InvalidLabel):
        services.issue_token(actor=OPERATOR, subdomain=endpoint.subdomain, label=f"x{text}")
    with pytest.raises(InvalidLabel):
        access_tokens.create(actor=OPERATOR, user=alice, label=f"x{text}")
    with pytest.raises(CommandError, match="control characters"):
        call_command("issue_token", endpoint.subdomain, "--label", f"x{text}", stdout=io.StringIO())


@pytest.mark.django_db
def test_forms_and_api_say_so(alice: User, client: Client) -> None:
    endpoint = factories.make_endpoint(owner=alice).endpoint
    client.force_login(alice)
    path = f"/endpoints/{endpoint.subdomain}"
    for form in (f"{path}/name/", f"{path}/tokens/", "/access-tokens/new/"):
        data = {"label": "x\u202ey", "days": "30", "scopes": "read"}
        response = client.post(form, data, follow=True)
        assert response.status_code == 400, form
        assert "control characters" in response.content.decode(), form
    token = access_tokens.create(actor=Person(alice), user=alice, label="x").plaintext
    api = Client(headers={"Authorization": f"Bearer {token}"})
    body = json.dumps({"label": "x\u202ey"})
    response = api.post(f"/api/v1{path}/tokens", body, content_type="application/json")
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_label")


@pytest.mark.django_db
def test_line_breaks_in_labels_become_spaces(alice: User) -> None:
    endpoint = factories.make_endpoint(owner=alice).endpoint
    assert services.rename(actor=OPERATOR, subdomain=endpoint.subdomain, label=" a\r\n\tb ").label == "a b"


@pytest.mark.django_db
def test_database_refuses_them_too(alice: User) -> None:
    """Whatever code writes: every column for text that people choose and others see."""
    factories.make_endpoint(owner=alice)
    device_grants.request(client="x", device="x")
    access_tokens.create(actor=OPERATOR, user=alice, label="x")
    client = Client()
    client.force_login(alice)
    found = {
        (model._meta.db_table, constraint.name.split(f"{model._meta.model_name}_")[1].removesuffix("_is_plain"))
        for model in apps.get_models()
        for constraint in model._meta.constraints
        if isinstance(constraint, models.CheckConstraint) and constraint.name.endswith("_is_plain")
    }
    assert {column for _, column in found} == {"email", "label", "browser", "client", "device"}
    for table, column in found:
        for text in UNSAFE:
            with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(f'UPDATE "{table}" SET "{column}" = %s', [f"x{text}"])


# --- Output --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", UNSAFE)
def test_escapes_are_readable(text: str) -> None:
    assert is_plain(escape_unsafe(text))
    assert escape_unsafe(f"a{text}b").encode().decode("unicode_escape") == f"a{text}b"


def test_ordinary_text_is_not_escaped() -> None:
    assert escape_unsafe("Zoë's “CI” · 東京 🚀 → x") == "Zoë's “CI” · 東京 🚀 → x"


def test_log_lines_are_escaped() -> None:
    record = logging.makeLogRecord({"msg": "kept %s", "args": ("a\x1b[2J\nb\u202e",), "levelname": "INFO", "name": "x"})
    line = LineFormatter().format(record)
    assert line.endswith("INFO x kept a\\x1b[2J | b\\u202e")


def test_terminal_mail_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    link = SignInMail(email="a\x1b]0;x@b.org", link="http://localhost/x", minutes=15, asked_from="", ip=None)
    TerminalBackend().send_messages([link, EmailMessage("s\x1b[2J", "one\ntwo\x9b", to=["a\u202e@b.org"])])
    shown = capsys.readouterr().err
    assert is_plain(shown.replace("\n", ""))
    assert "one\ntwo\\x9b" in shown
    assert "http://localhost/x" in shown


def test_configuration_mistake_is_escaped() -> None:
    """manage.py quotes what it was given."""
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={"STRAKE_HOME": "/nonexistent/\x1b[2J", "STRAKE_BIND": "\x1b[31mx"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert "\x1b" not in done.stderr
