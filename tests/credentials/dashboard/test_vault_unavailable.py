"""Pages and the API while the vault can't be reached: nothing is saved, and what was typed stays, except the key."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from django.test import Client
from pytest_django import Settings

from accounts import access_tokens
from accounts.actors import Person
from accounts.models import User
from credentials.models import Credential, Endpoint, SealedKey
from credentials.vault import wrapper
from tests.support import factories
from tests.support.factories import Connected
from tests.support.pages import text, value
from tests.support.upstream import Upstream

KEY = "sk-live-0123456789abcdefghij"
MESSAGE = "The vault can't be reached. Nothing was saved."
NOTICE = "Strake can't reach the vault, so this page can't tell whether a key still works."


@pytest.fixture
def made(alice: User) -> Connected:
    """An endpoint that was connected while the vault could be reached."""
    return factories.make_endpoint(owner=alice, provider="custom", label="laptop")


@pytest.fixture
def vault_is_down(made: Connected, settings: Settings, tmp_path: Path) -> Iterator[None]:
    settings.STRAKE_KEY_WRAPPER = "credentials.vault.socket_wrapper.SocketKeyWrapper"
    settings.STRAKE_WRAP_SOCKET = tmp_path / "wrap.sock"
    wrapper._load.cache_clear()
    yield
    wrapper._load.cache_clear()


def rows() -> list[object]:
    return [list(model.objects.order_by("pk").values()) for model in (Endpoint, Credential, SealedKey)]


def test_connecting_saves_nothing_and_keeps_the_draft(
    vault_is_down: None, signed_in: Client, provider: Upstream, settings: Settings
) -> None:
    before, page = rows(), "/endpoints/connect/demo/"
    data = {"submission": value(signed_in.get(page), "submission"), "api_key": KEY, "label": "new laptop"}
    refused = signed_in.post(page, data)
    assert refused.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert MESSAGE in text(refused)
    assert value(refused, "label") == "new laptop"
    assert value(refused, "api_key") == ""
    assert KEY not in refused.content.decode()
    assert rows() == before
    # The same form can be sent again.
    settings.STRAKE_KEY_WRAPPER = "credentials.vault.local_wrapper.LocalKeyWrapper"
    assert signed_in.post(page, data).status_code == HTTPStatus.CREATED


@pytest.mark.parametrize("action", ["key", "destination"])
def test_replacing_saves_nothing(
    vault_is_down: None, signed_in: Client, made: Connected, provider: Upstream, action: str
) -> None:
    Credential.objects.update(destination_url=provider.url)
    before = rows()
    data = {"api_key": KEY, "destination_url": provider.url + "/v2"}
    refused = signed_in.post(f"/endpoints/{made.endpoint.subdomain}/{action}/", data)
    assert refused.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert MESSAGE in text(refused)
    assert KEY not in refused.content.decode()
    assert rows() == before


def test_api_saves_nothing(vault_is_down: None, alice: User, made: Connected, provider: Upstream) -> None:
    token = access_tokens.create(actor=Person(alice), user=alice, label="script").plaintext
    script = Client(headers={"authorization": f"Bearer {token}"})
    Credential.objects.update(destination_url=provider.url)
    before = rows()
    for path, body in (
        ("/api/v1/endpoints", {"provider": "demo", "api_key": KEY}),
        (f"/api/v1/endpoints/{made.endpoint.subdomain}/credential/rotate", {"api_key": KEY}),
    ):
        refused = script.post(path, body, content_type="application/json")
        assert refused.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        assert refused.json()["error"]["code"] == "vault_unavailable"
        assert refused.json()["error"]["message"].startswith(MESSAGE)
    assert rows() == before
    [listed] = script.get("/api/v1/endpoints").json()["endpoints"]
    assert listed["needs_key_again"] is False


def test_pages_say_that_the_state_is_unknown(vault_is_down: None, signed_in: Client, made: Connected) -> None:
    page = f"/endpoints/{made.endpoint.subdomain}/"
    for shown in (signed_in.get("/endpoints/"), signed_in.get(page)):
        assert NOTICE in text(shown)
        assert "needs its key again" not in text(shown).lower()
    SealedKey.objects.all().delete()  # This is known without the vault.
    assert "This endpoint needs its key again." in text(signed_in.get(page))


def test_pages_are_silent_about_a_vault_that_answers(signed_in: Client, made: Connected) -> None:
    for page in ("/endpoints/", f"/endpoints/{made.endpoint.subdomain}/"):
        assert "can't reach the vault" not in text(signed_in.get(page))
