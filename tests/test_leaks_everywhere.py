"""Use the whole product, provoke every failure, and then search everything that Strake wrote or sent for secrets."""

from __future__ import annotations

import base64
import email
import json
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import redis

from tests.accounts.smtp import SmtpServer
from tests.support.canaries import Canary, leaks
from tests.support.running import Endpoint, Strake
from tests.support.services import free_port
from tests.support.token_server import (
    CLIENT_ID,
    CLIENT_SECRET,
    ENTRA_PARAMETERS,
    TENANT,
    TokenServer,
    key_body,
    key_file,
)
from tests.support.upstream import Upstream, eventually, fixed, raw, silence, sse

pytestmark = [pytest.mark.redis, pytest.mark.slow]


ENTRA_FIELDS = {"kind": "azure_entra", "tenant": TENANT, "client_id": CLIENT_ID}


def secret(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(16)}"


class Transcript:
    """Every HTTP response. Those that may show a new secret once are taken out."""

    def __init__(self) -> None:
        self.responses: list[tuple[str, bytes]] = []

    def record(self, response: httpx.Response) -> None:
        response.read()
        head = "\n".join(f"{name}: {value}" for name, value in response.headers.multi_items())
        text = f"{response.status_code}\n{head}\n\n".encode() + response.content
        self.responses.append((f"{response.request.method} {response.request.url.path}", text))

    def drop_last(self) -> None:
        """Drop the last response, which shows a new secret as it should."""
        self.responses.pop()


class Story:
    """One Strake, a person who uses it, its operator, and every secret that they use."""

    def __init__(self, strake: Strake, upstream: Upstream, smtp: SmtpServer) -> None:
        self.strake, self.upstream, self.smtp = strake, upstream, smtp
        self.transcript = Transcript()
        self.canaries: dict[str, str] = {}
        self.outputs: list[tuple[str, str]] = []
        self.browser = httpx.Client(
            base_url=strake.url, timeout=60, event_hooks={"response": [self.transcript.record]}, follow_redirects=False
        )

    def manage(self, *arguments: str, stdin: str = "") -> str:
        done = self.strake.manage(*arguments, stdin=stdin)
        self.outputs.append((" ".join(arguments[:1]), done.stdout + done.stderr))
        return done.stdout

    def post(self, path: str, data: dict[str, str], *, at: str = "") -> httpx.Response:
        """Submit a form of the page `at`, by default of the same path, as a browser does."""
        page = self.browser.get(at or path)
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        assert token, f"{at or path} has no form"
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text))
        return self.browser.post(path, data={**hidden, **data, "csrfmiddlewaretoken": token[1]})

    def call(self, endpoint: Endpoint, path: str, method: str = "GET", content: bytes | None = None) -> None:
        hooks = {"response": [self.transcript.record]}
        with suppress(httpx.HTTPError), httpx.Client(timeout=30, event_hooks=hooks) as client:
            client.request(method, endpoint.url + path, headers=endpoint.bearer, content=content)


def sign_in(story: Story) -> None:
    story.post("/signin/", {"email": "alice@example.org"})
    eventually(lambda: story.smtp.messages)
    mail = story.smtp.messages[-1].replace("=\n", "").replace("=\r\n", "").replace("=3D", "=")
    link = re.search(r"(/signin/link/(link_[0-9A-Za-z]{49})/)", mail)
    assert link, "the email has no link"
    story.canaries["a link token"] = link[2]
    story.browser.get(link[1][:-4] + "xxxx/")  # mangled
    story.browser.get(link[1])
    response = story.post("/signin/confirm/", {})
    assert response.status_code == 303
    story.canaries["a session key"] = story.browser.cookies[story.strake.session_cookie]
    story.browser.get(link[1])  # used


def connect_in_the_browser(story: Story) -> Endpoint:
    key = story.canaries["the provider key"] = secret("sk-canary-")
    response = story.post(
        "/endpoints/connect/custom/",
        {"api_key": key, "destination_url": story.upstream.url, "unchecked": "on", "label": "Story"},
    )
    assert response.status_code == 201, response.status_code
    token = re.search(r"strk_[0-9A-Za-z]{49}", response.text)
    subdomain = re.search(r"/p/([a-z0-9]{12})", response.text)
    assert token
    assert subdomain
    story.canaries["a bearer token"] = token[0]
    story.transcript.drop_last()
    return Endpoint(f"{story.strake.url}/p/{subdomain[1]}", subdomain[1], token[0], "")


def paste_bad_keys(story: Story, endpoint: Endpoint) -> None:
    bad = story.canaries["a pasted key"] = secret("sk-pasted-")
    for invalid in (f"{bad}\nX-Injected: 1", f"{bad} {bad}", f"{bad}\u200b", bad * 300, f"\x00{bad}"):
        for path in ("/endpoints/connect/custom/", f"/endpoints/{endpoint.subdomain}/key/"):
            story.post(path, {"api_key": invalid, "destination_url": story.upstream.url})
    for address in ("http://10.0.0.1", "https://169.254.169.254/", "not a url", "https://user:password@x.example"):
        story.post("/endpoints/connect/custom/", {"api_key": bad, "destination_url": address})
    story.manage("connect", "--email=a@example.org", "--provider=custom", "--key-stdin", stdin=f"{bad}\nx")
    story.manage(
        "connect", "--email=a@example.org", "--provider=openai", "--key-stdin", stdin=bad
    )  # no network in tests


def use_the_api(story: Story) -> None:
    token = story.canaries["an access token"] = story.strake.manage(
        "create_access_token", "--email", "alice@example.org", "--label", "script", check=True
    ).stdout.split()[-1]
    key = story.canaries["a key given to the API"] = secret("sk-api-")
    hooks = {"response": [story.transcript.record]}
    with httpx.Client(
        base_url=story.strake.url, headers={"Authorization": f"Bearer {token}"}, event_hooks=hooks
    ) as api:
        made = api.post(
            "/api/v1/endpoints",
            json={"provider": "custom", "api_key": key, "destination_url": story.upstream.url, "unchecked": True},
        )
        assert made.status_code == 201
        story.canaries["a bearer token of the API"] = made.json()["token"]["plaintext"]
        story.transcript.drop_last()
        subdomain = made.json()["endpoint"]["subdomain"]
        for path in ("/api/v1/endpoints", f"/api/v1/endpoints/{subdomain}", "/api/v1/me", "/api/v1/nothing"):
            api.get(path)
        api.post("/api/v1/endpoints", content=b"{" + key.encode())
        api.post("/api/v1/endpoints", json={"provider": 1, "api_key": [key]})
        api.post(f"/api/v1/endpoints/{subdomain}/credential/rotate", json={"api_key": f"{key}\r\n{key}"})
        api.get("/api/v1/me", headers={"Authorization": f"Bearer {token[:-1]}x"})
        api.delete(f"/api/v1/endpoints/{subdomain}")


def cause_every_upstream_failure(story: Story, endpoint: Endpoint, other: dict[str, Endpoint]) -> None:
    key, upstream = story.canaries["the provider key"], story.upstream
    upstream.default = fixed(200, body=b"{}")
    upstream.on("/stream", sse([b"data: x\n\n"] * 5))
    upstream.on("/reset", raw(then="reset"))
    upstream.on("/nonsense", raw(b"\x00\xff not HTTP\r\n\r\n"))
    upstream.on("/cut", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf", then="reset"))
    upstream.on("/smuggle", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}"))
    upstream.on("/500", fixed(500, [("X-Failed-With", f"Bearer {key}")], b"{}"))
    upstream.on("/401", fixed(401, [("WWW-Authenticate", key)], b"{}"))
    upstream.on("/302", fixed(302, [("Location", f"https://x.example/?key={key}")], b""))
    upstream.on("/silence", silence)
    for path in ("/ok", "/stream", "/reset", "/nonsense", "/cut", "/smuggle", "/500", "/401", "/302", "/silence"):
        story.call(endpoint, path)
        story.call(endpoint, path, "POST", content=b"x" * 200_000)
    for path in ("/a//b", "/%2e%2e/x", "/a\\b", f"/?key={endpoint.token}", f"/ok?key={endpoint.token}&x=1"):
        story.call(endpoint, path)
    for headers in (
        {"Authorization": f"Bearer {endpoint.token[:-1]}x"},
        {"Authorization": f"Bearer {endpoint.token}", "X-Api-Key": other["refused"].token},
        {"Authorization": "Basic abc"},
        {},
    ):
        with httpx.Client(event_hooks={"response": [story.transcript.record]}) as client:
            client.get(f"{endpoint.url}/ok", headers=headers)
    for broken in other.values():
        story.call(broken, "/v1/models")
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    for path in ("/ok", "/reset", "/401", "/nonsense"):
        for target in (endpoint, other["untrusted"]):
            with suppress(httpx.HTTPError), httpx.Client(event_hooks={"response": [story.transcript.record]}) as client:
                handshake = {**upgrade, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **target.bearer}
                client.get(target.url + path, headers=handshake)


def use_a_cloud(story: Story, token_server: TokenServer) -> None:
    """An Entra ID application and a service account: connected, renewed, refused by the cloud and by the provider."""
    story.canaries |= {
        "a client secret": CLIENT_SECRET,
        "a client secret in a form": quote(CLIENT_SECRET, safe=""),
        "a private key": key_body()[400:480],
    }
    azure = {"destination_url": story.upstream.url, "api_key": CLIENT_SECRET, **ENTRA_FIELDS}
    google = {"destination_url": "https://aiplatform.googleapis.com", "kind": "google_service_account"}
    for path, data in (
        ("/endpoints/connect/azure-openai/", azure | {"tenant": "common"}),
        ("/endpoints/connect/azure-openai/", azure | {"kind": "static"}),
        ("/endpoints/connect/vertex/", google | {"api_key": key_file(token_uri="https://x.example")}),
        ("/endpoints/connect/vertex/", google | {"api_key": key_file().replace("\n", "")[:-9]}),
    ):
        assert story.post(path, data).status_code == 400
    token_server.failure = (401, "invalid_client")
    assert story.post("/endpoints/connect/azure-openai/", azure).status_code == 400
    token_server.failure = None
    made = story.post("/endpoints/connect/azure-openai/", azure)
    assert made.status_code == 201
    story.transcript.drop_last()
    subdomain, token = re.search(r"/p/([a-z0-9]{12})", made.text), re.search(r"strk_[0-9A-Za-z]{49}", made.text)
    assert subdomain
    assert token
    endpoint = Endpoint(f"{story.strake.url}/p/{subdomain[1]}", subdomain[1], token[0], "")
    story.call(endpoint, "/ok")
    story.upstream.on("/echo-token", fixed(401, [("X-Echo", f"Bearer {token_server.given[-1]}")]))
    story.call(endpoint, "/echo-token")
    story.call(endpoint, "/ok")
    for failure in ((401, "invalid_client"), (500, "x")):
        token_server.failure = failure
        broken = story.strake.make(
            "azure-openai", story.upstream.url, key=CLIENT_SECRET, kind="azure_entra", parameters=ENTRA_PARAMETERS
        )
        story.call(broken, "/ok")
    story.browser.get(f"/endpoints/{endpoint.subdomain}/")
    assert len(token_server.given) >= 3
    for number, given in enumerate(token_server.given):
        story.canaries[f"access token {number} of a cloud"] = given


def rotate_and_delete(story: Story, endpoint: Endpoint) -> None:
    page = f"/endpoints/{endpoint.subdomain}/"
    (token_id,) = set(re.findall(r"ctok_\w{16}", story.browser.get(page).text))
    rotated = story.post(f"{page}tokens/{token_id}/rotate/", {}, at=page)
    token = re.search(r"strk_[0-9A-Za-z]{49}", rotated.text)
    assert token, rotated.status_code
    story.canaries["a rotated token"] = token[0]
    story.transcript.drop_last()
    story.post(f"{page}tokens/{token_id}/revoke/", {}, at=page)
    story.call(Endpoint(endpoint.url, endpoint.subdomain, token[0], token_id), "/ok")
    story.post(f"{page}key/", {"api_key": story.canaries["a pasted key"], "unchecked": "on"})
    story.post(f"{page}delete/", {"confirmation": endpoint.subdomain})


def break_the_store(story: Story) -> None:
    """Make Strake fail while it handles a key: tables are missing, and the database refuses a row."""
    for table in ("accounts_auditevent", "credentials_credential", "credentials_masterkeycheck"):
        with changed_database(story.strake, rename(table, f"{table}_missing"), rename(f"{table}_missing", table)):
            assert connect_with_a_pasted_key(story) == 503
    refuse = "CREATE TRIGGER refuse BEFORE INSERT ON credentials_credential BEGIN SELECT RAISE(ABORT, 'refused'); END"
    with changed_database(story.strake, refuse, "DROP TRIGGER refuse"):
        assert connect_with_a_pasted_key(story) == 500


def connect_with_a_pasted_key(story: Story) -> int:
    page = story.browser.get("/endpoints/connect/custom/")
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    data = {
        "api_key": story.canaries["a pasted key"],
        "destination_url": story.upstream.url,
        "unchecked": "on",
        "csrfmiddlewaretoken": token[1] if token else "",
    }
    return story.browser.post("/endpoints/connect/custom/", data=data).status_code


def rename(table: str, name: str) -> str:
    return f"ALTER TABLE {table} RENAME TO {name}"


@contextmanager
def changed_database(strake: Strake, change: str, undo: str) -> Iterator[None]:
    def execute(statement: str) -> None:
        with closing(sqlite3.connect(strake.home / "data/strake.sqlite3", timeout=60)) as database:
            database.execute("PRAGMA legacy_alter_table=ON")
            database.execute(statement)

    execute(change)
    try:
        yield
    finally:
        execute(undo)


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    server = SmtpServer()
    server.start()
    yield server
    server.listener.close()


def test_no_output_of_strake_contains_a_secret(
    tmp_path: Path,
    upstream: Upstream,
    tls_upstream: tuple[Upstream, Path],
    smtp: SmtpServer,
    redis_url: str,
    token_server: TokenServer,
) -> None:
    untrusted, _ = tls_upstream
    (tmp_path / "tmp").mkdir()
    strake = Strake(
        tmp_path / "strake",
        {
            "DJANGO_SETTINGS_MODULE": "tests.support.debug_settings",
            "REDIS_URL": redis_url,
            "EMAIL_URL": f"smtp://127.0.0.1:{smtp.port}",
            "STRAKE_IDLE_SECONDS": "1",
            "TEST_TOKEN_SERVER": token_server.url,
            "TMPDIR": str(tmp_path / "tmp"),
        },
    )
    with strake:
        story = Story(strake, upstream, smtp)
        with story.browser:
            sign_in(story)
            endpoint = connect_in_the_browser(story)
            use_the_api(story)
            key = story.canaries["the provider key"]
            https_url = upstream.url.replace("http://", "https://")
            other = {
                "refused": strake.connect(f"http://127.0.0.1:{free_port()}", key=key),
                "no TLS": strake.connect(https_url, key=key),
                "untrusted": strake.connect(untrusted.url, key=key),
                "no such name": strake.connect("https://nothing.invalid", key=key),
            }
            cause_every_upstream_failure(story, endpoint, other)
            paste_bad_keys(story, endpoint)
            use_a_cloud(story, token_server)
            break_the_store(story)
            for page in ("/endpoints/", f"/endpoints/{endpoint.subdomain}/", "/activity/", "/settings/", "/nothing/"):
                story.browser.get(page)
            for command in (
                "verify_vault",
                "create_master_key",
                "rotate_master_key",
                "diffsettings",
                "check",
                "dumpdata",
            ):
                story.manage(command)
            rotate_and_delete(story, endpoint)
            story.post("/signout/", {}, at="/endpoints/")
        time.sleep(1)  # the request log is written every half second
        stores = dict(redis_contents(redis_url))
        master_keys = json.loads((strake.home / "vault/master-keys.json").read_text())["keys"].values()
        wal = (strake.home / "data/strake.sqlite3-wal").read_bytes()

    assert upstream.exchanges, "the provider received requests"
    canaries = [Canary(name, value.encode()) for name, value in story.canaries.items()]
    for number, text in enumerate(master_keys):
        canaries += [
            Canary(f"master key {number}", base64.b64decode(text)),
            Canary(f"master key {number}", text.encode()),
        ]
    canaries.append(Canary("the secret key", (strake.home / "data/secret-key").read_bytes().strip()))
    written = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert "strake/data/strake.sqlite3" in written
    assert len(written["strake.log"]) > 10_000, "DEBUG logging is off"
    places = {
        **{
            f"file {name}": data
            for name, data in written.items()
            if not name.endswith(("master-keys.json", "secret-key"))
        },
        "the write-ahead log": wal,
        **{f"Redis {name}": data for name, data in stores.items()},
        **{
            f"response {number} to {request}": data for number, (request, data) in enumerate(story.transcript.responses)
        },
        **{f"output of {command}": text.encode() for command, text in story.outputs},
    }
    assert stores, "Redis holds no sessions and limits"
    assert found_in(places, canaries, allowed=ALLOWED) == []
    mails = [text_of_mail(message) for message in smtp.messages]
    reports = [mail for mail in mails if b"To: operator@example.org" in mail]
    assert any(b"<pre>IntegrityError" in report for report in reports), "no error report with HTML was sent"
    for mail in mails:
        allowed = set() if mail in reports else {"a link token"}
        assert {leak.split(" (")[0] for leak in leaks(canaries, mail)} <= allowed


def text_of_mail(message: str) -> bytes:
    """Return an email and its decoded parts, since quoted-printable and base64 break lines."""
    parts = email.message_from_string(message).walk()
    return "\n".join([message, *(str(part.get_payload(decode=True)) for part in parts)]).encode()


# These belong into the person's cookie and into the page that a link opens.
ALLOWED = [
    (r"response \d+ to (GET|POST) /", "a session key", b"set-cookie: strake-session-"),
    (r"response \d+ to GET /signin/link/", "a link token", b"set-cookie: "),
    (r"response \d+ to GET /signin/confirm/", "a link token", b'<input type="hidden" name="token"'),
]


def found_in(places: dict[str, bytes], canaries: list[Canary], allowed: list[tuple[str, str, bytes]]) -> list[str]:
    return [
        f"{leak} in {place}"
        for place, data in places.items()
        for leak in leaks(canaries, data)
        if not any(
            re.match(pattern, place) and leak.startswith(name) and text in data for pattern, name, text in allowed
        )
    ]


def redis_contents(url: str) -> Iterator[tuple[str, bytes]]:
    """Yield every key of a Redis server with its value."""
    with redis.Redis.from_url(url) as connection:
        for key in connection.scan_iter():
            read = {
                b"string": connection.get,
                b"hash": connection.hgetall,
                b"set": connection.smembers,
                b"list": lambda name: connection.lrange(name, 0, -1),
                b"zset": lambda name: connection.zrange(name, 0, -1, withscores=True),
            }[connection.type(key)]
            value = read(key)
            yield key.decode("latin-1"), key + b" " + (value if isinstance(value, bytes) else repr(value).encode())
