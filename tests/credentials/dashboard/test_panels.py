"""Panels of higher apps on the pages of endpoints."""

from __future__ import annotations

import pytest
from django.db.models.functions import Length
from django.test import Client

from accounts.models import User
from credentials.dashboard import panels
from credentials.dashboard.panels import Column
from tests.support import factories
from tests.support.pages import text


def test_pages_work_without_panels(signed_in: Client, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = factories.make_endpoint(owner=alice, label="laptop").endpoint
    monkeypatch.setattr(panels, "panels", {})
    monkeypatch.setattr(panels, "columns", [])
    page = text(signed_in.get(f"/endpoints/{endpoint.subdomain}/"))
    assert "Recent requests" not in page
    assert "First token" in page
    assert "Requests, 24 h" not in text(signed_in.get("/endpoints/"))


def test_each_row_shows_its_own_figure(signed_in: Client, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in ("laptop", "tower"):
        factories.make_endpoint(owner=alice, label=label)
    column = Column(
        "length",
        "Length",
        lambda endpoints: [f"{len(endpoint.label)} letters" for endpoint in endpoints],
        lambda: Length("label"),
    )
    monkeypatch.setattr(panels, "columns", [column])
    page = text(signed_in.get("/endpoints/?sort=label"))
    assert page.index("Length") < page.index("laptop") < page.index("6 letters") < page.index("tower")
    assert page.index("tower") < page.index("5 letters")
    for sort, first, second in (("length", "laptop", "tower"), ("-length", "tower", "laptop")):
        page = text(signed_in.get(f"/endpoints/?sort={sort}"))
        assert page.index(first) < page.index(second), sort
