"""The `secret` of a credential can be assigned, but not read, printed, copied, dumped or edited."""

from __future__ import annotations

import ast
import base64
import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from django.conf import settings
from django.core import serializers
from django.core.exceptions import FieldDoesNotExist, FieldError
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.forms.models import fields_for_model, model_to_dict, modelform_factory
from django.utils import timezone

from accounts.models import User
from credentials.errors import CannotOpen, InvalidKey, RetiredMasterKey
from credentials.models import BearerToken, Credential, Endpoint, SealedKey
from credentials.vault import keyring, unwrapping
from credentials.vault.models import MasterKeyCheck
from credentials.vault.provider_key import ProviderKey
from proxy.unsealing import open_key
from tests.support import factories

KEY = "sk-canary-5f1e8c2a9d7b4036"


@pytest.fixture
def credential(alice: User) -> Credential:
    return factories.make_endpoint(owner=alice, key=KEY).credential


def spellings(key: str) -> list[str]:
    raw = key.encode()
    return [key, key[::-1], raw.hex(), base64.b64encode(raw).decode().rstrip("="), key[:8], key[-8:]]


def assert_blind(text: str) -> None:
    for spelling in spellings(KEY):
        assert spelling not in text


def test_reading_the_secret_raises(credential: Credential) -> None:
    for owner in (credential, Credential, Credential.objects.get()):
        with pytest.raises(AttributeError, match="cannot be read"):
            _ = owner.secret
        assert not hasattr(owner, "secret")


def test_secret_is_no_constructor_argument_or_column(credential: Credential) -> None:
    arguments: dict[str, Any] = {"secret": KEY}
    with pytest.raises(TypeError):
        Credential(**arguments)
    for query in (
        lambda: Credential.objects.filter(**arguments),
        lambda: Credential.objects.values(*arguments),
        lambda: Credential.objects.only(*arguments).get(),
    ):
        with pytest.raises((FieldError, FieldDoesNotExist)):
            query()


def test_no_representation_shows_the_key(credential: Credential) -> None:
    for shown in (
        repr(credential),
        str(credential),
        f"{credential!r} {credential}",
        repr(credential.__dict__),
        repr(vars(credential)),
        repr(pickle.dumps(credential)),
        repr(model_to_dict(credential)),
        repr(Credential.objects.values().get()),
        repr(SealedKey.objects.whole().get().__dict__),
        repr(SealedKey.objects.values_list()),
        repr(credential.sealed()),
        repr(asdict(credential.sealed())),
        repr(credential.binding()),
        serializers.serialize("json", [credential]),
        serializers.serialize("xml", [credential]),
    ):
        assert_blind(shown)


def test_dumpdata_shows_only_ciphertext(credential: Credential, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("dumpdata", "--all")
    dumped = capsys.readouterr().out
    rows = [row for row in json.loads(dumped) if row["model"] in {"credentials.credential", "credentials.sealedkey"}]
    assert len(rows) == 2
    assert not any("secret" in row["fields"] for row in rows)
    assert_blind(dumped)


def test_no_form_offers_sealed_fields(db: None) -> None:
    assert "secret" not in fields_for_model(Credential)
    assert "secret" not in modelform_factory(Credential, fields="__all__")().fields
    assert fields_for_model(SealedKey) == {}
    assert modelform_factory(SealedKey, fields="__all__")().as_p() == ""


def test_row_holds_only_the_sealed_record(credential: Credential) -> None:
    columns = {model: {field.column for field in model._meta.concrete_fields} for model in (Credential, SealedKey)}
    assert columns == {
        Credential: {
            *("id", "endpoint_id", "destination_url", "header_name", "header_template", "sealed_at"),
            *("kind", "places", "parameters"),
        },
        SealedKey: {"credential_id", "format", "master_key_id", "wrapped_dek", "wrapped_dek_iv", "ciphertext", "iv"},
    }
    with connection.cursor() as cursor:
        for model in (Credential, SealedKey, Endpoint, BearerToken, MasterKeyCheck):
            cursor.execute(f"SELECT * FROM {model._meta.db_table}")
            for row in cursor.fetchall():
                for value in row:
                    raw = bytes(value) if isinstance(value, (bytes, memoryview)) else str(value).encode()
                    # No hint, no last four characters, no fingerprint.
                    assert not any(part.encode() in raw for part in (KEY[3:9], KEY[-4:], KEY[-6:]))


def test_new_value_gets_new_data_key_and_ivs(credential: Credential) -> None:
    ring = keyring.current()
    before = credential.sealed()
    credential.secret = KEY
    credential.save()
    after = credential.sealed()
    assert before.iv != after.iv
    assert before.wrap.wrapped_dek_iv != after.wrap.wrapped_dek_iv
    old, new = (unwrapping.unwrap(sealed.wrap, 1, credential.pk, ring) for sealed in (before, after))
    assert old != new


def test_saved_key_opens_for_the_proxy(credential: Credential) -> None:
    stored = Credential.objects.select_related("endpoint").get()
    assert open_key(stored.sealed(), stored.binding(), keyring.current()) == KEY.encode()


# --- A key that is assigned but not saved --------------------------------------------------------------------------

STAGED = "sk-staged-3c9d0e7b5a1f4862"


@pytest.fixture
def staged(credential: Credential) -> Credential:
    """A stored credential with a new key that `save` has not sealed yet."""
    credential.secret = STAGED
    return credential


def opened(credential: Credential) -> str:
    """The key behind the stored row."""
    stored = Credential.objects.select_related("endpoint").get(pk=credential.pk)
    return open_key(stored.sealed(), stored.binding(), keyring.current()).decode()


def holds_staged_key(credential: Credential) -> bool:
    return any(isinstance(value, ProviderKey) for value in vars(credential).values())


def test_assignment_seals_nothing_before_save(staged: Credential) -> None:
    assert staged.sealed() == Credential.objects.get().sealed()
    assert opened(staged) == KEY


def test_assignment_refuses_an_invalid_key(credential: Credential) -> None:
    with pytest.raises(InvalidKey):
        credential.secret = "sk-one\nx-injected: 1"
    assert not holds_staged_key(credential)


def test_staged_key_cannot_be_read(staged: Credential) -> None:
    with pytest.raises(AttributeError, match="cannot be read"):
        _ = staged.secret


def test_no_representation_shows_a_staged_key(staged: Credential) -> None:
    for shown in (
        repr(staged),
        str(staged),
        repr(vars(staged)),
        repr(staged.__reduce__()),
        repr(pickle.dumps(staged)),
        repr(model_to_dict(staged)),
        serializers.serialize("json", [staged]),
    ):
        assert STAGED not in shown


@pytest.mark.parametrize(
    "spread",
    [lambda row: pickle.loads(pickle.dumps(row)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_copies_do_not_hold_the_staged_key(staged: Credential, spread: Callable[[Credential], Credential]) -> None:
    assert holds_staged_key(staged)
    assert not holds_staged_key(spread(staged))


def test_save_seals_the_staged_key_and_drops_it(staged: Credential) -> None:
    staged.save()
    assert not holds_staged_key(staged)
    assert opened(staged) == STAGED


@pytest.mark.parametrize("update_fields", [["header_name"], []])
def test_save_that_seals_writes_every_column(staged: Credential, update_fields: list[str]) -> None:
    """The seal is bound to the other columns, so a row with only some of them would not open."""
    staged.destination_url = "https://other.example.com"
    staged.save(update_fields=update_fields)
    assert Credential.objects.get().destination_url == "https://other.example.com"
    assert opened(staged) == STAGED


def test_save_without_assignment_seals_nothing(credential: Credential) -> None:
    before = (Credential.objects.values().get(), SealedKey.objects.values().get())
    credential.save()
    assert (Credential.objects.values().get(), SealedKey.objects.values().get()) == before


def test_row_without_a_key_cannot_be_saved(alice: User) -> None:
    endpoint = Endpoint.objects.create(owner=alice, label="empty", provider="custom")
    with pytest.raises(IntegrityError), transaction.atomic():
        Credential(endpoint=endpoint, destination_url="https://api.example.com").save()


def test_missing_sealed_key_is_replaced(staged: Credential) -> None:
    SealedKey.objects.all().delete()
    assert Credential.objects.get().needs_key_again
    with pytest.raises(CannotOpen):
        Credential.objects.get().sealed()
    staged.save()
    assert not Credential.objects.get().needs_key_again
    assert opened(staged) == STAGED


def test_deleted_row_is_not_created_again(staged: Credential) -> None:
    Credential.objects.all().delete()
    with pytest.raises(Credential.DoesNotExist):
        staged.save()
    assert not Credential.objects.exists()


def test_refused_seal_leaves_the_row_unchanged(staged: Credential) -> None:
    before = (Credential.objects.values().get(), SealedKey.objects.values().get())
    MasterKeyCheck.objects.update(retired_at=timezone.now())
    with pytest.raises(RetiredMasterKey):
        staged.save()
    assert (Credential.objects.values().get(), SealedKey.objects.values().get()) == before
    MasterKeyCheck.objects.update(retired_at=None)
    staged.save()
    assert opened(staged) == STAGED


def test_failed_save_registers_no_master_key(staged: Credential, monkeypatch: pytest.MonkeyPatch) -> None:
    MasterKeyCheck.objects.all().delete()

    def fail(*args: object, **kwargs: object) -> None:
        raise IntegrityError

    monkeypatch.setattr(Credential, "save_base", fail)
    with pytest.raises(IntegrityError):
        staged.save()
    assert not MasterKeyCheck.objects.exists()


def test_only_vault_seal_encrypts_keys() -> None:
    """`vault.seal` also registers the master key, so nothing else may encrypt a provider key."""
    callers: dict[str, set[str]] = {"encrypt_key": set(), "seal": set(), "confirm": set()}
    for package in ("accounts", "credentials", "proxy", "strake"):
        for path in sorted((settings.ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in callers:
                    callers[node.func.attr].add(str(path.relative_to(settings.ROOT)))
    assert callers == {
        "encrypt_key": {"credentials/vault/__init__.py"},
        # An access token of a cloud is sealed without registering its master key, since it can be bought again.
        "seal": {"credentials/models.py", "credentials/services/endpoints.py", "proxy/upstream/renewals.py"},
        "confirm": {"credentials/vault/__init__.py", "credentials/vault/rotation.py"},
    }
