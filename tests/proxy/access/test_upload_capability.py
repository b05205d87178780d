"""An upload URL of a provider becomes one of the endpoint, which ends with the token that the upload began with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.management import call_command
from django.utils import timezone

from accounts import tokens
from accounts.models import User
from proxy.access.upload_capability import LIFETIME, MAX_PER_TOKEN, PATH_PREFIX, PREFIX
from proxy.models import UploadCapability
from tests.support import factories
from tests.support.gemini import START, Gemini
from tests.support.raw import ask
from tests.support.running import KEY, Endpoint, Strake
from tests.support.upstream import Upstream, eventually, fixed

BYTES = bytes(range(256)) * 64
COMMANDS = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}


@pytest.fixture
def gemini(upstream: Upstream) -> Gemini:
    return Gemini(upstream, KEY)


@pytest.fixture
def endpoint(strake: Strake, upstream: Upstream) -> Endpoint:
    return strake.connect(upstream.url, header_name="x-goog-api-key", header_template="{{secret}}")


def start(endpoint: Endpoint, size: int = len(BYTES)) -> httpx.Response:
    headers = {
        "x-goog-api-key": endpoint.token,
        "X-Goog-Upload-Protocol": "resumable",
        "X-Goog-Upload-Command": "start",
        "X-Goog-Upload-Header-Content-Length": str(size),
        "X-Goog-Upload-Header-Content-Type": "text/plain",
    }
    return httpx.post(endpoint.url + START, headers=headers, json={"file": {}})


def upload_path(endpoint: Endpoint) -> str:
    """Start an upload. Returns the path of its URL."""
    response = start(endpoint)
    assert response.status_code == 200, response.text
    return httpx.URL(response.headers["x-goog-upload-url"]).path


def upload(strake: Strake, path: str, **headers: str) -> httpx.Response:
    return httpx.post(strake.url + path, headers={**COMMANDS, **headers}, content=BYTES)


def test_upload_leads_back_through_the_endpoint(
    strake: Strake, endpoint: Endpoint, gemini: Gemini, upstream: Upstream
) -> None:
    started = start(endpoint)
    url = started.headers["x-goog-upload-url"]
    assert url == started.headers["x-goog-upload-control-url"]
    assert url.startswith(f"http://localhost:{strake.port}{endpoint.path}{PATH_PREFIX.decode()}{PREFIX}")
    (upload_id,) = gemini.sessions
    assert upload_id not in str(started.headers)
    assert upstream.url not in str(started.headers)

    response = upload(strake, httpx.URL(url).path)
    assert (response.status_code, response.json()["file"]["state"]) == (200, "ACTIVE")
    assert response.headers["x-goog-upload-status"] == "final"
    assert upload_id not in str(response.headers)
    sent = upstream.last
    assert sent.target.decode() == gemini.url_of(upload_id).removeprefix(upstream.url)
    assert sent.body == BYTES
    assert sent.all("host") == [upstream.url.removeprefix("http://").encode()]
    assert gemini.sessions[upload_id].chunks == [(0, len(BYTES), hashlib.sha256(BYTES).hexdigest())]


def test_no_credential_travels_with_the_bytes(
    strake: Strake, endpoint: Endpoint, gemini: Gemini, upstream: Upstream
) -> None:
    path = upload_path(endpoint)
    secret = path.rpartition("/")[2]
    extra = {"x-goog-api-key": endpoint.token, "Authorization": f"Bearer {endpoint.token}", "X-Own": secret}
    assert upload(strake, path, **extra).status_code == 200
    head = upstream.last.raw_head.decode()
    assert not any(part in head for part in (KEY, endpoint.token, secret))
    assert upstream.last.all("x-goog-api-key") == upstream.last.all("authorization") == []


def test_upload_in_chunks_keeps_its_url(strake: Strake, endpoint: Endpoint, gemini: Gemini) -> None:
    path = upload_path(endpoint)
    half = len(BYTES) // 2
    for offset, command, status in ((0, "upload", "active"), (half, "upload, finalize", "final")):
        headers = {"X-Goog-Upload-Command": command, "X-Goog-Upload-Offset": str(offset)}
        response = httpx.post(strake.url + path, headers=headers, content=BYTES[offset : offset + half])
        assert (response.status_code, response.headers["x-goog-upload-status"]) == (200, status)


def test_finished_upload_is_forgotten(strake: Strake, endpoint: Endpoint, gemini: Gemini) -> None:
    path = upload_path(endpoint)
    assert upload(strake, path).status_code == 200
    assert upload(strake, path).status_code == 401


@pytest.mark.parametrize("ending", ["revoke", "rotate", "expire", "pause", "delete"])
def test_upload_ends_with_its_token(
    strake: Strake, endpoint: Endpoint, gemini: Gemini, upstream: Upstream, ending: str
) -> None:
    path = upload_path(endpoint)
    before = len(upstream.exchanges)
    if ending == "expire":
        code = "from credentials.models import *; from django.utils import timezone; from datetime import timedelta; "
        code += "past = timezone.now() - timedelta(seconds=1); "
        code += "BearerToken.objects.filter(pk=sys.argv[1]).update(created_at=past - timedelta(1), expires_at=past)"
        strake.python(code, endpoint.token_id)
    elif ending in {"pause", "delete"}:
        strake.call(ending, subdomain=endpoint.subdomain)
    else:
        strake.call(ending, token_id=endpoint.token_id)
    response = upload(strake, path)
    expected = {"pause": (403, "endpoint_paused")}.get(ending, (401, "invalid_token"))
    assert (response.status_code, response.headers["x-strake-error"]) == expected
    assert len(upstream.exchanges) == before


def test_wrong_secrets_get_the_answer_of_unknown_tokens(
    strake: Strake, endpoint: Endpoint, gemini: Gemini, upstream: Upstream
) -> None:
    other = strake.connect(upstream.url)
    path = upload_path(endpoint)
    unknown = PATH_PREFIX.decode() + tokens.mint(PREFIX)
    reference = httpx.post(f"{endpoint.url}/v1/x", headers={"Authorization": f"Bearer {tokens.mint('strk_')}"})
    for wrong in (
        endpoint.path + unknown,
        path[:-1] + ("a" if path[-1] != "a" else "b"),
        path + "/x",
        endpoint.path + PATH_PREFIX.decode(),
        endpoint.path + "/_strake/other",
        path.replace(endpoint.subdomain, other.subdomain),
    ):
        response = upload(strake, wrong, **endpoint.bearer)
        assert (response.status_code, response.headers["x-strake-error"]) == (401, "invalid_token")
        assert response.json() == reference.json()
    assert upload(strake, path).status_code == 200


def test_limits_of_the_token_apply(strake: Strake, endpoint: Endpoint, gemini: Gemini) -> None:
    limited = strake.issue(endpoint, requests_per_minute=1, allowed_paths=[f"POST {START}"])
    path = upload_path(limited)
    response = upload(strake, path)
    assert (response.status_code, response.headers["x-strake-error"]) == (429, "rate_limited")


def test_path_limit_counts_where_the_upload_begins(strake: Strake, endpoint: Endpoint, gemini: Gemini) -> None:
    path = upload_path(strake.issue(endpoint, allowed_paths=[f"POST {START}"]))
    assert upload(strake, path).status_code == 200


def test_uploads_are_recorded_as_requests_of_the_token(strake: Strake, endpoint: Endpoint, gemini: Gemini) -> None:
    path = upload_path(endpoint)
    upload(strake, path)

    def statuses() -> list[int]:
        return [record["status"] for record in strake.call("records", subdomain=endpoint.subdomain)["records"]]

    eventually(lambda: statuses() == [200, 200])


def test_upload_urls_of_other_sites_are_dropped(endpoint: Endpoint, upstream: Upstream) -> None:
    elsewhere = "https://upload.example.com/x?upload_id=0123456789abcdef"
    headers = [("X-Goog-Upload-URL", elsewhere), ("Location", elsewhere), ("X-Goog-Upload-Status", "active")]
    upstream.on(START, fixed(200, headers))
    response = start(endpoint)
    assert "x-goog-upload-url" not in response.headers
    assert "location" not in response.headers
    assert response.headers["x-goog-upload-status"] == "active"


def test_location_of_a_resumable_upload_is_one_too(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    target = "/upload/storage/v1/b/a/o?uploadType=resumable&upload_id=0123456789abcdef0123"
    upstream.on(START, fixed(200, [("Location", upstream.url + target)]))
    path = httpx.URL(start(endpoint).headers["location"]).path
    assert PATH_PREFIX.decode() in path
    response = httpx.put(strake.url + path, content=BYTES)
    assert response.status_code == 200
    assert (upstream.last.method, upstream.last.target.decode()) == ("PUT", target)


def test_database_reveals_no_upload_url(strake: Strake, endpoint: Endpoint, gemini: Gemini) -> None:
    path = upload_path(endpoint)
    (upload_id,) = gemini.sessions
    found = [file.read_bytes() for file in Path(strake.home).rglob("*") if file.is_file()]
    for secret in (upload_id, path.rpartition("/")[2]):
        assert not any(secret.encode() in data for data in found)
        assert secret not in strake.log()


def test_handshake_at_an_upload_url_opens_nothing(strake: Strake, endpoint: Endpoint, gemini: Gemini) -> None:
    path = upload_path(endpoint)
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    raw = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{upgrade}{key}\r\n"
    assert ask(strake.address, raw.encode()).status == 426


@pytest.mark.postgres
def test_upload_works_with_the_roles_of_postgresql(
    run_strake: Callable[..., Strake], migrated_url: str, upstream: Upstream, gemini: Gemini
) -> None:
    running = run_strake(DATABASE_URL=migrated_url, WEB_CONCURRENCY="2")
    endpoint = running.connect(upstream.url, header_name="x-goog-api-key", header_template="{{secret}}")
    path = upload_path(endpoint)
    assert upload(running, path).status_code == 200
    path = upload_path(endpoint)
    running.revoke(endpoint)
    assert upload(running, path).status_code == 401


# --- Rows ------------------------------------------------------------------------------------------------------------


def row(token: Any, expires_in: timedelta) -> UploadCapability:
    secret = tokens.mint(PREFIX)
    return UploadCapability.objects.create(
        digest=tokens.digest(secret),
        token=token,
        sealed_url=b"x",
        iv=bytes(12),
        expires_at=timezone.now() + expires_in,
    )


def test_prune_removes_expired_uploads(alice: User, capsys: pytest.CaptureFixture[str]) -> None:
    token = factories.make_endpoint(owner=alice).token
    row(token, timedelta(seconds=-1))
    live = row(token, LIFETIME)
    call_command("prune")
    assert "1 upload URLs removed" in " ".join(capsys.readouterr().out.split())
    assert [bytes(found.digest) for found in UploadCapability.objects.all()] == [live.digest]


def test_endpoint_takes_its_uploads_along(alice: User) -> None:
    made = factories.make_endpoint(owner=alice)
    row(made.token, LIFETIME)
    made.endpoint.delete()
    assert not UploadCapability.objects.exists()


def test_a_token_has_a_limited_number_of_uploads(strake: Strake, endpoint: Endpoint, gemini: Gemini) -> None:
    first = upload_path(endpoint)
    code = (
        "from proxy.models import *; from datetime import *; from django.utils import timezone\n"
        "from credentials.models import BearerToken\n"
        "token = BearerToken.objects.get(pk=sys.argv[1])\n"
        "later = timezone.now() + timedelta(hours=1)\n"
        "UploadCapability.objects.bulk_create(UploadCapability(digest=n.to_bytes(32), token=token, sealed_url=b'x', "
        "iv=bytes(12), created_at=timezone.now(), expires_at=later) for n in range(int(sys.argv[2])))"
    )
    strake.python(code, endpoint.token_id, str(MAX_PER_TOKEN))
    last = upload_path(endpoint)
    assert upload(strake, first).status_code == 401
    assert upload(strake, last).status_code == 200
