"""`manage.py verify_vault` names what does not open, shows nothing of what does, and says so in its exit code."""

from __future__ import annotations

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from credentials.models import Credential, Endpoint
from tests import factories
from tests.credentials.vault import OTHER_MASTER_KEY, document

KEY = "sk-canary-5f1e8c2a9d7b4036"


@pytest.fixture
def rows(alice) -> list[factories.Connected]:
    return [factories.make_endpoint(owner=alice, key=KEY) for _ in range(3)]


def test_an_empty_vault_is_sound(db, capsys):
    call_command("verify_vault")
    assert capsys.readouterr().out == "0 sealed keys: all open.\n"


def test_a_sound_vault_shows_nothing_but_its_size(rows, capsys):
    call_command("verify_vault")
    shown = capsys.readouterr()
    assert shown.out == "3 sealed keys: all open.\n"
    assert shown.err == ""


@pytest.mark.parametrize(
    "change",
    [
        {"ciphertext": b"x" * 42},
        {"iv": b"x" * 12},
        {"iv": b""},
        {"wrapped_dek": b"x" * 48},
        {"wrapped_dek_iv": b"x" * 13},
        {"format": 2},
        {"destination_url": "https://evil.example"},
        {"header_name": "X-Other"},
        {"header_template": "{{secret}}"},
    ],
    ids=lambda change: next(iter(change)) + str(len(str(next(iter(change.values()))))),
)
def test_one_bad_row_is_named_and_the_others_are_still_checked(rows, capsys, change):
    Credential.objects.filter(pk=rows[1].credential.pk).update(**change)
    with pytest.raises(CommandError, match="1 of 3 sealed keys do not open"):
        call_command("verify_vault")
    shown = capsys.readouterr().out
    assert shown.startswith(f"{rows[1].endpoint.subdomain} (alice@example.org): does not open")
    assert shown.count("\n") == 1
    assert KEY not in shown


@pytest.mark.parametrize(
    "column", ["ciphertext", "iv", "wrapped_dek", "wrapped_dek_iv", "master_key_id", "header_name"]
)
def test_a_row_with_a_value_of_another_type_is_named_and_does_not_stop_the_others(rows, capsys, column):
    value = b"\xff" if column in {"master_key_id", "header_name"} else "text"
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE credentials_credential SET {column} = %s WHERE id = %s", [value, rows[1].credential.pk.hex]
        )
    with pytest.raises(CommandError, match="1 of 3 sealed keys do not open"):
        call_command("verify_vault")
    assert rows[1].endpoint.subdomain in capsys.readouterr().out


def test_an_endpoint_given_to_somebody_else_by_sql_is_named(rows, bob, capsys):
    Endpoint.objects.filter(pk=rows[2].endpoint.pk).update(owner=bob)
    with pytest.raises(CommandError):
        call_command("verify_vault")
    assert f"{rows[2].endpoint.subdomain} (bob@example.org)" in capsys.readouterr().out


def test_rows_of_a_missing_master_key_are_named_with_the_id(rows, capsys, settings):
    settings.STRAKE_MASTER_KEYS = document("b", b=OTHER_MASTER_KEY)
    with pytest.raises(CommandError, match="3 of 3"):
        call_command("verify_vault")
    assert capsys.readouterr().out.count(f"needs the master key {rows[0].credential.master_key_id!r}") == 3
