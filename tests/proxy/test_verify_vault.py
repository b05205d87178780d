"""`manage.py verify_vault` lists the records that do not open, shows no key, and fails if there are any."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from pytest_django import Settings

from accounts.models import User
from credentials.models import Credential, Endpoint, SealedKey
from tests.support import factories
from tests.support.factories import Connected
from tests.support.vault import OTHER_MASTER_KEY, document

KEY = "sk-canary-5f1e8c2a9d7b4036"


@pytest.fixture
def rows(alice: User) -> list[Connected]:
    return [factories.make_endpoint(owner=alice, key=KEY) for _ in range(3)]


def test_empty_vault_passes(db: None, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("verify_vault")
    assert capsys.readouterr().out == "0 sealed keys: all open.\n"


def test_sound_vault_prints_only_its_size(rows: list[Connected], capsys: pytest.CaptureFixture[str]) -> None:
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
    ids=["ciphertext", "iv", "empty-iv", "wrapped_dek", "wrapped_dek_iv", "format", "url", "header", "template"],
)
def test_damaged_row_is_listed_and_others_are_checked(
    rows: list[Connected], capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    model = Credential if change.keys() & {"destination_url", "header_name", "header_template"} else SealedKey
    model._default_manager.filter(pk=rows[1].credential.pk).update(**change)
    with pytest.raises(CommandError, match="1 of 3 sealed keys do not open"):
        call_command("verify_vault")
    shown = capsys.readouterr().out
    assert shown.startswith(f"{rows[1].endpoint.subdomain} (alice@example.org): does not open")
    assert shown.count("\n") == 1
    assert KEY not in shown


@pytest.mark.parametrize(
    "column", ["ciphertext", "iv", "wrapped_dek", "wrapped_dek_iv", "master_key_id", "header_name"]
)
def test_row_with_value_of_other_type_is_listed(
    rows: list[Connected], capsys: pytest.CaptureFixture[str], column: str
) -> None:
    value = b"\xff" if column in {"master_key_id", "header_name"} else "text"
    with connection.cursor() as cursor:
        table, key = ("credential", "id") if column == "header_name" else ("sealedkey", "credential_id")
        cursor.execute(
            f"UPDATE credentials_{table} SET {column} = %s WHERE {key} = %s", [value, rows[1].credential.pk.hex]
        )
    with pytest.raises(CommandError, match="1 of 3 sealed keys do not open"):
        call_command("verify_vault")
    assert rows[1].endpoint.subdomain in capsys.readouterr().out


def test_missing_sealed_key_is_listed(rows: list[Connected], capsys: pytest.CaptureFixture[str]) -> None:
    SealedKey.objects.filter(pk=rows[1].credential.pk).delete()
    with pytest.raises(CommandError, match="1 of 3 sealed keys do not open"):
        call_command("verify_vault")
    assert capsys.readouterr().out == f"{rows[1].endpoint.subdomain} (alice@example.org): has no sealed key.\n"


def test_endpoint_with_changed_owner_is_listed(
    rows: list[Connected], bob: User, capsys: pytest.CaptureFixture[str]
) -> None:
    Endpoint.objects.filter(pk=rows[2].endpoint.pk).update(owner=bob)
    with pytest.raises(CommandError):
        call_command("verify_vault")
    assert f"{rows[2].endpoint.subdomain} (bob@example.org)" in capsys.readouterr().out


def test_rows_of_missing_master_key_are_listed(
    rows: list[Connected], capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    settings.STRAKE_MASTER_KEYS = document("b", b=OTHER_MASTER_KEY)
    with pytest.raises(CommandError, match="3 of 3"):
        call_command("verify_vault")
    assert capsys.readouterr().out.count(f"needs the master key {rows[0].credential.sealed_key.master_key_id!r}") == 3
