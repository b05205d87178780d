"""What operators see: everything, but no secret; and nothing that can be changed by a click."""

from __future__ import annotations

import tomllib
from http import HTTPStatus
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.contrib import admin
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts import access_tokens
from accounts.audit import Actor
from accounts.models import User
from accounts.operators import ReadOnly
from credentials.models import Credential, Endpoint
from proxy.models import RequestRecord
from tests import factories
from tests.factories import Connected
from tests.pages import text
from tests.populate import populate

OURS = sorted(
    (model for model in admin.site._registry if model._meta.app_label in {"accounts", "credentials", "proxy"}),
    key=lambda model: model._meta.label,
)


@pytest.fixture
def operator(db: None) -> Client:
    client = Client()
    client.force_login(factories.make_user("operator@example.org", is_staff=True))
    return client


@pytest.fixture
def made(alice: User) -> Connected:
    made = factories.make_endpoint(owner=alice, label="laptop")
    RequestRecord.objects.create(
        endpoint=made.endpoint, token=made.token, status=200, latency_ms=5, at=made.token.created_at
    )
    return made


def test_the_models_operators_need_are_there() -> None:
    names = {model._meta.object_name for model in OURS}
    assert names >= {"User", "Endpoint", "Credential", "BearerToken", "AuditEvent", "RequestRecord"}


@pytest.mark.parametrize("model", OURS, ids=lambda model: model._meta.object_name)
def test_lists_and_rows_open_and_nothing_can_be_changed(
    operator: Client, made: Connected, model: type[models.Model]
) -> None:
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    assert operator.get(reverse(f"{name}_changelist"), {"q": "laptop"}).status_code == HTTPStatus.OK
    assert operator.get(reverse(f"{name}_add")).status_code == HTTPStatus.FORBIDDEN
    row = model._default_manager.first()
    if row is None:
        return
    url = reverse(f"{name}_change", args=[row.pk])
    page = operator.get(url)
    assert page.status_code == HTTPStatus.OK
    assert b'name="_save"' not in page.content
    assert operator.post(url, {"label": "mine"}).status_code == HTTPStatus.FORBIDDEN
    assert operator.post(reverse(f"{name}_delete", args=[row.pk])).status_code == HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("model", OURS, ids=lambda model: model._meta.object_name)
def test_no_page_holds_a_digest_or_a_sealed_value(model: type[models.Model]) -> None:
    shown = {*admin.site._registry[model].fields, *admin.site._registry[model].list_display}
    assert shown, "without `fields` the admin shows every field"
    sealed = {field.name for field in model._meta.get_fields() if isinstance(field, models.BinaryField)}
    assert not shown & (sealed | {"secret", "session_epoch"})


def test_the_limit_of_an_endpoint_is_shown(operator: Client, made: Connected) -> None:
    Endpoint.objects.update(max_streams=4321)
    page = operator.get(reverse("admin:credentials_endpoint_change", args=[made.endpoint.pk]))
    assert "Max streams: 4321" in text(page)


def test_there_is_no_password_to_change_and_nothing_of_other_packages(operator: Client) -> None:
    index = text(operator.get("/admin/"))
    assert "Strake records" in index
    assert "assword" not in index
    assert operator.get("/admin/password_change/").status_code == HTTPStatus.NOT_FOUND
    assert operator.get("/admin/auth/group/add/").status_code == HTTPStatus.NOT_FOUND
    assert all(isinstance(shown, ReadOnly) for shown in admin.site._registry.values())


def test_no_list_costs_more_queries_with_more_rows(operator: Client) -> None:
    viewer = User.objects.get(is_staff=True)
    lists = [reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist") for model in OURS]
    lists += ["/audit/?everybody=on", "/access-tokens/", "/settings/", "/admin/health/"]

    def more(people: int) -> None:
        for _ in range(people):
            person = factories.make_user()
            populate(person, endpoints=2, tokens_first=2, records=5)
            for of in (person, viewer):
                access_tokens.create_access_token(actor=Actor(of), user=of, label="CI")

    def costs() -> dict[str, int]:
        found = {}
        for path in lists:
            with CaptureQueriesContext(connection) as queries:
                assert operator.get(path).status_code == HTTPStatus.OK
            found[path] = len(queries)
        return found

    more(1)
    few = costs()
    more(12)
    assert costs() == few
    assert max(few.values()) <= 14


def test_the_health_page_says_that_all_is_well(operator: Client, made: Connected) -> None:
    page = operator.get("/admin/health/")
    assert page.status_code == HTTPStatus.OK
    assert "All is well" in text(page)
    assert "Database fine answers in" in text(page)


def test_the_health_page_names_a_master_key_that_is_missing(operator: Client, made: Connected) -> None:
    Credential.objects.update(master_key_id="lost")
    assert "Something needs you" in text(operator.get("/admin/health/"))
    assert "lost (1 endpoints)" in text(operator.get("/admin/health/"))


def test_the_health_page_survives_a_cache_that_is_down(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: object, **__: object) -> None:
        raise ConnectionError("redis://:password@10.0.0.1")

    monkeypatch.setattr("strake.health.cache.set", down)
    page = text(operator.get("/admin/health/"))
    assert "Cache look does not answer (ConnectionError)" in page
    assert "password" not in page


def test_the_health_page_tells_how_far_the_journal_is_behind(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    late = SimpleNamespace(waiting=1204, lag_seconds=75.04)
    monkeypatch.setattr("proxy.journal._running", late)
    page = text(operator.get("/admin/health/"))
    assert "Something needs you" in page
    assert "Request records waiting in this process look 1,204, 75.0 s behind" in page


def test_the_version_shown_is_the_one_released(operator: Client) -> None:
    released = tomllib.loads((settings.ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"Strake {released}" in text(operator.get("/admin/health/"))


def test_people_who_are_no_operators_do_not_get_in(client: Client, charlie: User) -> None:
    assert client.get("/admin/health/").status_code == HTTPStatus.FOUND
    client.force_login(charlie)
    assert client.get("/admin/health/", follow=True).status_code == HTTPStatus.FORBIDDEN
