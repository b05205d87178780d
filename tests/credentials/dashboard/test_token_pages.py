"""What people do with tokens that exist: find, edit, duplicate, change over, revoke many."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus

import pytest
from django.test import Client
from django.utils import timezone

from accounts import tokens
from accounts.models import User
from credentials.dashboard import panels
from credentials.dashboard.panels import EndpointUse, TokenUse
from credentials.models import BearerToken
from tests.support import factories
from tests.support.factories import Connected
from tests.support.pages import element, text, value


@pytest.fixture
def made(alice: User) -> Connected:
    return factories.make_endpoint(owner=alice, label="laptop")


def url(made: Connected, *parts: str) -> str:
    return "/".join(["/endpoints", made.endpoint.subdomain, *parts, ""])


def listed(client: Client, made: Connected, query: str = "") -> list[str]:
    """The previews in the list of tokens, in its order."""
    page = client.get(url(made) + query).content.decode()
    previews = BearerToken.objects.values_list("preview", flat=True)
    return sorted((preview for preview in previews if preview in page), key=page.index)


def test_tokens_are_searched_filtered_and_sorted(signed_in: Client, made: Connected) -> None:
    now = timezone.now()
    old = {"created_at": now - timedelta(days=90)}
    stale, _ = factories.make_token(endpoint=made.endpoint, label="attic", last_used_at=now - timedelta(31), **old)
    busy, _ = factories.make_token(endpoint=made.endpoint, label="build", last_used_at=now, **old)
    gone, _ = factories.make_token(endpoint=made.endpoint, label="gone", revoked_at=now, **old)
    first = made.token.preview
    assert set(listed(signed_in, made)) == {stale.preview, busy.preview, first}
    assert listed(signed_in, made, "?tokens=stale") == [stale.preview]
    assert listed(signed_in, made, "?tokens=ended") == [gone.preview]
    assert listed(signed_in, made, "?q=BUI") == [busy.preview]
    assert listed(signed_in, made, f"?q={stale.preview[:9]}") == [stale.preview]
    assert listed(signed_in, made, "?sort=label&tokens=all") == [stale.preview, busy.preview, first, gone.preview]
    assert listed(signed_in, made, "?sort=used") == [busy.preview, stale.preview, first]
    assert listed(signed_in, made, "?sort=nonsense&tokens=nonsense&page=9")[0] == first
    assert "No tokens match." in text(signed_in.get(url(made) + "?q=nothing"))
    page = text(signed_in.get(url(made)))
    assert page.count(" Stale ") == 2, "the filter, and one token"


def test_use_of_each_token_is_shown(signed_in: Client, made: Connected, monkeypatch: pytest.MonkeyPatch) -> None:
    factories.make_token(endpoint=made.endpoint, label="gone", revoked_at=timezone.now(), id="ctok_gone")
    use = EndpointUse({made.token.pk: TokenUse(day=12, week=345, refused=6), "ctok_gone": TokenUse(refused=3, tried=3)})
    monkeypatch.setattr(panels.facts, "use_of", lambda endpoint, tokens: use)
    page = text(signed_in.get(url(made) + "?tokens=all"))
    assert "12 345 6" in page
    assert "tried 3 times since" in page


def test_editing_keeps_the_secret_and_what_is_not_changed(signed_in: Client, made: Connected) -> None:
    expiry = timezone.now() + timedelta(days=3)
    BearerToken.objects.update(expires_at=expiry, allowed_paths=["GET /v1/models"], requests_per_minute=60)
    edit = url(made, "tokens", made.token.pk, "edit")
    form = signed_in.get(edit)
    assert value(form, "label") == "First token"
    assert element(form, "id_allowed_paths").strip() == "GET /v1/models"
    sent = {"label": "CI", "expires": "keep", "requests_per_minute": "60", "requests_per_day": "500"}
    page = signed_in.post(edit, {**sent, "allowed_paths": "/v1/models"}, follow=True)
    assert "Saved “CI”." in text(page)
    token = BearerToken.objects.get()
    assert (token.label, token.expires_at, token.allowed_paths) == ("CI", expiry, ["* /v1/models"])
    assert (token.requests_per_minute, token.requests_per_day) == (60, 500)
    assert bytes(token.digest) == tokens.digest(made.plaintext)
    signed_in.post(edit, {"label": "CI", "expires": ""})
    token.refresh_from_db()
    assert (token.expires_at, token.requests_per_minute, token.allowed_paths) == (None, None, [])


def test_mistakes_quote_their_line_and_survive_a_reload(signed_in: Client, made: Connected) -> None:
    edit = url(made, "tokens", made.token.pk, "edit")
    sent = {"label": "CI", "expires": "keep", "allowed_paths": "GET /v1/models\r\nBREW /coffee\r\nv1/models"}
    response = signed_in.post(edit, sent)
    assert response.status_code == HTTPStatus.SEE_OTHER, "a page that Back may show again is the response to a GET"
    for _ in range(2):
        page = signed_in.get(response.headers["Location"])
        assert page.status_code == HTTPStatus.BAD_REQUEST
        errors = element(page, "id_allowed_paths_error")
        assert "Line 2, “BREW /coffee”:" in errors
        assert "Line 3, “v1/models”:" in errors
        assert "Line 1" not in errors
        assert value(page, "label") == "CI"
    assert BearerToken.objects.get().label == "First token"


def test_kept_form_is_shown_to_its_person_only(signed_in: Client, client: Client, made: Connected, bob: User) -> None:
    sent = signed_in.post(url(made, "name"), {"label": ""})
    query = sent.headers["Location"].partition("?")[2]
    his = factories.make_endpoint(owner=bob)
    stranger = Client()
    stranger.force_login(bob)
    page = stranger.get(url(his, "name") + "?" + query)
    assert page.status_code == HTTPStatus.OK
    assert value(page, "label") == his.endpoint.label


def test_duplicate_starts_with_the_limits(signed_in: Client, made: Connected) -> None:
    BearerToken.objects.update(
        allowed_paths=["GET /v1/models"], concurrent_requests=2, expires_at=timezone.now() + timedelta(days=9)
    )
    form = signed_in.get(f"{url(made, 'tokens')}?from={made.token.pk}")
    assert value(form, "label") == "First token (copy)"
    assert value(form, "concurrent_requests") == "2"
    assert element(form, "id_allowed_paths").strip() == "GET /v1/models"
    assert value(form, "expires_on") == (timezone.now() + timedelta(days=8)).date().isoformat()
    assert value(signed_in.get(f"{url(made, 'tokens')}?from=ctok_of_somebody"), "label") == ""


def test_child_token_is_created_below_its_parent(signed_in: Client, made: Connected) -> None:
    form = {"submission": value(signed_in.get(url(made, "tokens")), "submission"), "label": "agent"}
    page = signed_in.post(url(made, "tokens"), {**form, "parent": made.token.pk})
    assert page.status_code == HTTPStatus.CREATED
    assert BearerToken.objects.get(label="agent").parent == made.token
    assert "Belongs to First token" in text(signed_in.get(url(made)))


def test_selected_tokens_are_revoked_after_a_question(signed_in: Client, made: Connected) -> None:
    one, _ = factories.make_token(endpoint=made.endpoint, label="one")
    two, _ = factories.make_token(endpoint=made.endpoint, label="two")
    address = url(made, "tokens", "revoke")
    asked = signed_in.get(address, {"token": [one.pk, two.pk]})
    assert "Revoke 2 tokens?" in text(asked)
    assert "“one”" in text(asked)
    assert not BearerToken.objects.exclude(revoked_at=None)
    page = signed_in.post(address, {"token": [one.pk, two.pk]}, follow=True)
    assert "Revoked 2 tokens." in text(page)
    assert [token.label for token in BearerToken.objects.filter(revoked_at=None)] == ["First token"]
    assert "Select the tokens to revoke first." in text(signed_in.get(address, follow=True))


def test_selection_with_a_foreign_token_revokes_nothing(signed_in: Client, made: Connected, bob: User) -> None:
    his = factories.make_endpoint(owner=bob).token
    sent = signed_in.post(url(made, "tokens", "revoke"), {"token": [made.token.pk, his.pk]})
    assert sent.status_code == HTTPStatus.NOT_FOUND
    assert not BearerToken.objects.exclude(revoked_at=None)


def test_revoking_all_tokens_needs_the_subdomain(signed_in: Client, made: Connected) -> None:
    factories.make_token(endpoint=made.endpoint, label="one")
    address = url(made, "tokens", "revoke-all")
    wrong = signed_in.post(address, {"confirmation": "laptop"}, follow=True)
    assert made.endpoint.subdomain in element(wrong, "id_confirmation_error")
    assert BearerToken.objects.live().count() == 2
    page = signed_in.post(address, {"confirmation": made.endpoint.subdomain}, follow=True)
    assert "Revoked 2 tokens." in text(page)
    assert "No token works for this endpoint." in text(page)


def test_tool_is_switched_without_a_gap(signed_in: Client, made: Connected) -> None:
    BearerToken.objects.update(allowed_paths=["GET /v1/models"], last_used_at=timezone.now())
    address = url(made, "tokens", made.token.pk, "change-over")
    form = signed_in.get(address)
    shown = signed_in.post(address, {"submission": value(form, "submission")})
    assert shown.status_code == HTTPStatus.CREATED
    assert "Both tokens work now." in text(shown)
    new = BearerToken.objects.exclude(pk=made.token.pk).get()
    assert bytes(new.digest) == tokens.digest(element(shown, "token"))
    assert (new.label, new.allowed_paths) == ("First token (new)", ["GET /v1/models"])
    assert BearerToken.objects.live().count() == 2

    assert "Nothing has used the new token yet." in text(signed_in.get(address))
    BearerToken.objects.filter(pk=new.pk).update(last_used_at=timezone.now())
    assert "Quiet" in text(signed_in.get(address))
    BearerToken.objects.filter(pk=made.token.pk).update(last_used_at=timezone.now())
    assert "The old token was used after the new one." in text(signed_in.get(address))

    done = signed_in.post(address, {"finish": "1"}, follow=True)
    assert "the old one is revoked" in text(done)
    assert [(token.pk, token.label) for token in BearerToken.objects.live()] == [(new.pk, "First token")]


def test_finishing_without_a_new_token_revokes_nothing(signed_in: Client, made: Connected) -> None:
    signed_in.post(url(made, "tokens", made.token.pk, "change-over"), {"finish": "1"})
    assert BearerToken.objects.live().count() == 1


def test_new_token_says_when_it_expires(signed_in: Client, made: Connected) -> None:
    form = {"submission": value(signed_in.get(url(made, "tokens")), "submission"), "expires": "7"}
    assert "It expires in 7 days ." in text(signed_in.post(url(made, "tokens"), form))
