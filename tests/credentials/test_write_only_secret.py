"""The `secret` of a credential can be assigned and by no way read, printed, copied, dumped or edited."""

from __future__ import annotations

import base64
import json
import pickle
from dataclasses import asdict

import pytest
from django.contrib import admin
from django.core import serializers
from django.core.exceptions import FieldDoesNotExist, FieldError
from django.core.management import call_command
from django.db import connection
from django.forms.models import fields_for_model, model_to_dict, modelform_factory

from credentials import keyring, sealing
from credentials.models import BearerToken, Credential, Endpoint, MasterKeyCheck
from proxy.unsealing import open_key
from tests import factories

KEY = "sk-canary-5f1e8c2a9d7b4036"


@pytest.fixture
def credential(alice) -> Credential:
    return factories.make_endpoint(owner=alice, key=KEY).credential


def spellings(key: str) -> list[str]:
    raw = key.encode()
    return [key, key[::-1], raw.hex(), base64.b64encode(raw).decode().rstrip("="), key[:8], key[-8:]]


def assert_blind(text: str) -> None:
    for spelling in spellings(KEY):
        assert spelling not in text


def test_reading_the_secret_raises(credential):
    for read in (lambda: credential.secret, lambda: Credential.secret, lambda: getattr(credential, "secret")):  # noqa: B009
        with pytest.raises(AttributeError, match="cannot be read"):
            read()
    assert not hasattr(credential, "secret")
    assert not hasattr(Credential.objects.get(), "secret")


def test_the_secret_cannot_be_given_to_the_constructor_or_asked_of_the_database(credential):
    with pytest.raises(TypeError):
        Credential(secret=KEY)
    for query in (
        lambda: Credential.objects.filter(secret=KEY),
        lambda: Credential.objects.values("secret"),
        lambda: Credential.objects.only("secret").get(),
    ):
        with pytest.raises((FieldError, FieldDoesNotExist)):
            query()


def test_no_way_to_show_a_credential_shows_the_key(credential):
    for shown in (
        repr(credential),
        str(credential),
        f"{credential!r} {credential}",
        repr(credential.__dict__),
        repr(vars(credential)),
        repr(pickle.dumps(credential)),
        repr(model_to_dict(credential)),
        repr(Credential.objects.values().get()),
        repr(Credential.objects.values_list()),
        repr(credential.sealed()),
        repr(asdict(credential.sealed())),
        repr(credential.binding()),
        serializers.serialize("json", [credential]),
        serializers.serialize("xml", [credential]),
    ):
        assert_blind(shown)


def test_dumpdata_shows_only_ciphertext(credential, capsys):
    call_command("dumpdata", "--all")
    dumped = capsys.readouterr().out
    rows = [row for row in json.loads(dumped) if row["model"] == "credentials.credential"]
    assert len(rows) == 1
    assert "secret" not in rows[0]["fields"]
    assert_blind(dumped)


def test_no_form_offers_anything_sealed(db):
    assert not {"secret", "wrapped_dek", "wrapped_dek_iv", "ciphertext", "iv", "format", "master_key_id"} & set(
        fields_for_model(Credential)
    )
    form = modelform_factory(Credential, fields="__all__")()
    assert "secret" not in form.fields
    assert "ciphertext" not in form.as_p()


def test_the_admin_shows_and_takes_nothing_sealed():
    registered = admin.site._registry.get(Credential)
    if registered is None:
        return  # not in the admin at all: nothing to show
    shown = [*registered.get_fields(None), *registered.get_list_display(None), *registered.get_readonly_fields(None)]
    assert not {"secret", "wrapped_dek", "wrapped_dek_iv", "ciphertext", "iv"} & set(map(str, shown))


def test_the_row_holds_ciphertext_two_ivs_the_wrapped_key_and_the_master_key_id(credential):
    columns = {field.column for field in Credential._meta.concrete_fields}
    assert columns == {
        "id",
        "endpoint_id",
        "destination_url",
        "header_name",
        "header_template",
        "format",
        "master_key_id",
        "wrapped_dek",
        "wrapped_dek_iv",
        "ciphertext",
        "iv",
        "sealed_at",
    }
    with connection.cursor() as cursor:
        for model in (Credential, Endpoint, BearerToken, MasterKeyCheck):
            cursor.execute(f"SELECT * FROM {model._meta.db_table}")
            for row in cursor.fetchall():
                for value in row:
                    raw = bytes(value) if isinstance(value, (bytes, memoryview)) else str(value).encode()
                    # No hint, no last four characters, no fingerprint.
                    assert not any(part.encode() in raw for part in (KEY[3:9], KEY[-4:], KEY[-6:]))


def test_a_new_value_means_a_new_data_key_and_new_ivs(credential):
    ring = keyring.current()
    before = credential.sealed()
    credential.secret = KEY
    after = credential.sealed()
    assert before.iv != after.iv
    assert before.wrap.wrapped_dek_iv != after.wrap.wrapped_dek_iv
    assert sealing.unwrap(before.wrap, 1, credential.pk, ring) != sealing.unwrap(after.wrap, 1, credential.pk, ring)


def test_what_was_saved_opens_for_the_proxy(credential):
    stored = Credential.objects.select_related("endpoint").get()
    assert open_key(stored.sealed(), stored.binding(), keyring.current()) == KEY.encode()
