"""Keys that were sealed before a migration still open after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.running import Strake

# Sealed with the code of today, and stored in the columns of that time.
SEAL = """
from django.db import connection, transaction
from django.utils import timezone
from accounts.models import User
from credentials import vault
from credentials.models import Credential, Endpoint
from credentials.vault.provider_key import ProviderKey
owner = User.objects.create(email="alice@example.org")
for number in range(3):
    endpoint = Endpoint.objects.create(owner=owner, label="old", provider="custom")
    row = Credential(endpoint=endpoint, destination_url="https://api.example.com", header_name="A",
                     header_template="{{secret}}")
    with transaction.atomic():
        sealed = vault.seal(ProviderKey(f"sk-old-{number}"), row.binding()).register()
    native = connection.features.has_native_uuid_field
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO credentials_credential (id, endpoint_id, destination_url, header_name, header_template, "
            "sealed_at, format, master_key_id, wrapped_dek, wrapped_dek_iv, ciphertext, iv) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [*(key if native else key.hex for key in (row.id, endpoint.id)), row.destination_url, row.header_name,
             row.header_template, timezone.now(), sealed.format, sealed.wrap.master_key_id, sealed.wrap.wrapped_dek,
             sealed.wrap.wrapped_dek_iv, sealed.ciphertext, sealed.iv],
        )
"""
OPEN = """
from credentials.models import Credential
from credentials.vault import keyring
from proxy.unsealing import open_key
for row in Credential.objects.select_related("endpoint", "sealed_key"):
    print(open_key(row.sealed(), row.binding(), keyring.current()).decode())
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def strake(request: pytest.FixtureRequest, tmp_path: Path) -> Strake:
    """A Strake that is not running, with no database yet."""
    url = {"DATABASE_URL": request.getfixturevalue("postgres_url")} if request.param == "postgresql" else {}
    return Strake(tmp_path / "home", url)


def test_sealed_keys_move_to_their_own_table(strake: Strake) -> None:
    strake.manage("migrate", "-v0", "accounts", check=True)
    strake.manage("migrate", "-v0", "credentials", "0004", check=True)
    strake.python(SEAL)
    strake.manage("migrate", "-v0", check=True)
    assert sorted(strake.python(OPEN).split()) == ["sk-old-0", "sk-old-1", "sk-old-2"]
    assert strake.manage("verify_vault", check=True).stdout == "3 sealed keys: all open.\n"
    back = strake.manage("migrate", "-v0", "credentials", "0004")
    assert back.returncode
    assert "IrreversibleError" in back.stderr
    assert strake.manage("verify_vault", check=True).stdout == "3 sealed keys: all open.\n"
