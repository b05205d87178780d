"""The admin: read-only, complete, and without secrets."""

from __future__ import annotations

from http import HTTPStatus

import pytest
import time_machine
from django.contrib import admin
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts import access_tokens
from accounts.actors import Person
from accounts.admin_site import ReadOnly
from accounts.models import User
from credentials.models import Endpoint
from proxy.models import RefusalCount, RequestRecord
from tests.support import factories
from tests.support.factories import Connected
from tests.support.pages import text
from tests.support.populate import populate

admin.autodiscover()  # as strake/page_urls.py does
OWN_MODELS = sorted(
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
    # Without a token: several, in one minute.
    at = made.token.created_at
    RefusalCount.objects.create(
        endpoint=made.endpoint, token_id="", minute=at, code="rate_limited", count=9, last_at=at
    )
    return made


def test_admin_registers_all_models_operators_need() -> None:
    names = {model._meta.object_name for model in OWN_MODELS}
    assert names >= {"User", "Endpoint", "Credential", "BearerToken", "AuditEvent", "RequestRecord", "RefusalCount"}


@pytest.mark.parametrize("model", OWN_MODELS, ids=lambda model: model._meta.object_name)
def test_admin_shows_every_model_read_only(operator: Client, made: Connected, model: type[models.Model]) -> None:
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


@pytest.mark.parametrize("model", OWN_MODELS, ids=lambda model: model._meta.object_name)
def test_admin_shows_no_digest_or_ciphertext(model: type[models.Model]) -> None:
    shown = admin.site._registry[model]
    assert shown.fields, "without `fields` the admin shows all fields"
    sealed = {field.name for field in model._meta.get_fields() if isinstance(field, models.BinaryField)}
    assert not {*shown.fields, *shown.list_display} & (sealed | {"secret", "session_epoch"})


def test_admin_shows_the_limit_of_an_endpoint(operator: Client, made: Connected) -> None:
    Endpoint.objects.update(max_streams=4321)
    page = operator.get(reverse("admin:credentials_endpoint_change", args=[made.endpoint.pk]))
    assert "Max streams: 4321" in text(page)


def test_admin_has_no_passwords_and_no_foreign_models(operator: Client) -> None:
    index = text(operator.get("/admin/"))
    assert "Strake records" in index
    assert "assword" not in index
    assert operator.get("/admin/password_change/").status_code == HTTPStatus.NOT_FOUND
    assert operator.get("/admin/auth/group/add/").status_code == HTTPStatus.NOT_FOUND
    assert all(isinstance(shown, ReadOnly) for shown in admin.site._registry.values())


def test_query_count_does_not_grow_with_rows(operator: Client) -> None:
    viewer = User.objects.get(is_staff=True)
    lists = [reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist") for model in OWN_MODELS]
    lists += ["/audit/?everybody=on", "/access-tokens/", "/settings/", "/admin/health/"]

    def add(people: int) -> None:
        for _ in range(people):
            person = factories.make_user()
            populate(person, endpoints=2, tokens_first=2, records=5)
            for owner in (person, viewer):
                access_tokens.create(actor=Person(owner), user=owner, label="CI")

    def query_counts() -> dict[str, int]:
        found = {}
        for path in lists:
            with CaptureQueriesContext(connection) as queries:
                assert operator.get(path).status_code == HTTPStatus.OK
            found[path] = len(queries)
        return found

    with time_machine.travel(timezone.now(), tick=False):  # what happens once a minute happens in no request
        add(1)
        query_counts()  # the first reading of each page is recorded
        few = query_counts()
        add(12)
        assert query_counts() == few
    assert max(few.values()) <= 15
