"""Small edits that break one property each, and the tests that must notice.

    python -m tests.mutations [P1 P8 …]     apply each one to a copy, and run its tests

`test_catalogue.py` checks in every run that the edits still apply and that the tests exist. If it fails, find the code
that took the place of `before` and quote that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutation:
    """An edit that breaks a promise of SECURITY.md, or, if `promise` is empty, something that only `tests` check.

    `before` is plain text that occurs once in the file, and `after` replaces it. For a promise, `tests` are in addition
    to those that SECURITY.md names.
    """

    promise: str
    summary: str
    before: str
    after: str
    tests: tuple[str, ...] = ()

    def tests_in(self, folder: Path) -> list[str]:
        """Return the node ids of the tests that must fail, by the SECURITY.md of `folder`."""
        return [*(promised_tests(self.promise, folder) if self.promise else []), *self.tests]


def promised_tests(promise: str, folder: Path = ROOT) -> list[str]:
    """Return the node ids of the tests that SECURITY.md names for a promise."""
    (row,) = re.findall(rf"^\| {promise} \| .*\| (.+) \|$", (folder / "SECURITY.md").read_text(), re.MULTILINE)
    return re.findall(r"`(tests/[^`]+)`", row)


def promises(folder: Path = ROOT) -> list[str]:
    """Return the ids of all promises in SECURITY.md."""
    return re.findall(r"^\| (P\d+) \|", (folder / "SECURITY.md").read_text(), re.MULTILINE)


def all_mutations() -> Iterator[tuple[str, Mutation]]:
    """Yield every mutation with the path of its file."""
    for path, mutations in BY_FILE.items():
        for mutation in mutations:
            yield path, mutation


BY_FILE: dict[str, list[Mutation]] = {
    "accounts/transactions.py": [
        Mutation(
            "P17",
            "deleted rows stay in the write-ahead log",
            "        transaction.on_commit(_truncate_write_ahead_log)",
            "        pass",
        ),
        Mutation(
            "P17",
            "the write-ahead log is emptied only if nobody reads at that moment",
            "time.monotonic() + pause > deadline",
            "True",
        ),
    ],
    "accounts/database_cache.py": [
        Mutation(
            "P13",
            "two processes count the same event once",
            'F("number") + delta',
            "self.get(key, 0, version) + delta",
        ),
        Mutation(
            "P13",
            "limits live in the memory of one process",
            "CacheEntry.objects.filter(key_digest=self._digest(key, version))",
            "CacheEntry.objects.filter(key_digest=self._digest(key, id(DatabaseCache)))",
        ),
    ],
    "accounts/outbox.py": [
        Mutation(
            "",
            "two processes send the same email",
            "_due(lane).select_for_update(skip_locked=True)",
            "_due(lane)",
            tests=("tests/accounts/test_outbox.py",),
        ),
        Mutation(
            "",
            "the email of a process that dies is never sent",
            "due_at=_seconds_from_now(LEASE_SECONDS)",
            "due_at=_seconds_from_now(1e9)",
            tests=("tests/accounts/test_outbox.py",),
        ),
    ],
    "accounts/sign_in/magic_links.py": [
        Mutation(
            "P11",
            "a retried email leaves the earlier token valid",
            "        token_digest=tokens.digest(token),\n        created_at=now,",
            "        created_at=now,",
        ),
    ],
    "accounts/sessions/service.py": [
        Mutation(
            "",
            "a failing session store fails the sign-out",
            "    except SessionStoreUnavailable:\n",
            "    except ZeroDivisionError:\n",
            tests=("tests/accounts/sessions/test_sign_out_store_down.py",),
        ),
        Mutation(
            "P12",
            "signing out only drops the cookie",
            "    auth.logout(request)\n",
            "    request.session.modified = True\n",
        ),
    ],
    "accounts/querysets.py": [
        Mutation(
            "P11",
            "links can be used twice",
            "self.filter(used_at=None, expires_at__gt=timezone.now())",
            "self.filter(expires_at__gt=timezone.now())",
        ),
        Mutation(
            "P11",
            "links never expire",
            "self.filter(used_at=None, expires_at__gt=timezone.now())",
            "self.filter(used_at=None)",
        ),
    ],
    "accounts/sign_in/throttle.py": [
        Mutation(
            "P13",
            "sign-in requests are not limited",
            'Verdict(usage["should_limit"],',
            "Verdict(False,",
        ),
    ],
    "accounts/tokens.py": [
        Mutation(
            "P7",
            "the token is shown for good",
            '    return f"{prefix}{token[len(prefix) : len(prefix) + 4]}…"',
            "    return token",
        ),
        Mutation(
            "P9",
            "tokens are stored in plain text",
            "    return hashlib.sha256(token.encode()).digest()",
            "    return token.encode()",
        ),
        Mutation(
            "P11",
            "links are stored in plain text",
            "    return hashlib.sha256(token.encode()).digest()",
            "    return token.encode()",
        ),
    ],
    "accounts/users.py": [
        Mutation(
            "P17",
            "deleting an account keeps its sealed keys",
            "        secure_delete_on_commit()\n",
            "",
        ),
    ],
    "credentials/models.py": [
        Mutation(
            "P6",
            "the key can be read from the model",
            '        raise AttributeError("The secret of a credential cannot be read. Only the proxy opens it.")',
            '        return "sk-secret"',
        ),
        Mutation(
            "P16",
            "a form offers the ciphertext",
            "    ciphertext = models.BinaryField()",
            "    ciphertext = models.BinaryField(editable=True)",
        ),
    ],
    "strake/pages/operators/endpoints.py": [
        Mutation(
            "P6",
            "operators see the ciphertext",
            "    return [Row(endpoint, requests.get(endpoint.pk, 0)) for endpoint in endpoints]",
            "    for one in endpoints:\n"
            "        one.label = one.credential.sealed_key.ciphertext.hex()\n"
            "    return [Row(endpoint, requests.get(endpoint.pk, 0)) for endpoint in endpoints]",
        ),
    ],
    "strake/management/commands/serve.py": [
        Mutation(
            "P6",
            "the web half is not confined",
            "            serve.confine(settings.STRAKE_HOME)  # before it starts threads\n",
            "            pass\n",
        ),
    ],
    "strake/processes/serve.py": [
        Mutation(
            "P6",
            "the web half keeps the folder of the master keys",
            "    writable = [home.data, settings.STRAKE_WEB_SOCKET",
            "    writable = [home.vault, home.data, settings.STRAKE_WEB_SOCKET",
        ),
    ],
    "strake/processes/hardening.py": [
        Mutation(
            "P6",
            "the web half is given the master keys",
            '_FOREIGN_SECRETS = {"proxy": WEB_SECRETS, "web": PROXY_SECRETS}',
            '_FOREIGN_SECRETS = {"proxy": WEB_SECRETS, "web": ()}',
        ),
    ],
    "strake/processes/worker.py": [
        Mutation(
            "P6",
            "any user in the group may have keys wrapped",
            " not in _allowed_uids():\n            transport.abort()\n",
            " not in _allowed_uids():\n            pass\n",
        ),
    ],
    "credentials/querysets.py": [
        Mutation(
            "P6",
            "the list of endpoints loads the ciphertexts",
            '.prefetch_related("credential__sealed_key")',
            '.select_related("credential__sealed_key")',
        ),
        Mutation(
            "P6",
            "pages load the ciphertext with the id of its master key",
            'return super().get_queryset().only("credential", "master_key_id")',
            "return super().get_queryset()",
        ),
    ],
    "credentials/services/endpoints.py": [
        Mutation(
            "P5",
            "a service opens keys",
            "from credentials.delivery import Delivery, delivery_of\n",
            "from credentials.delivery import Delivery, delivery_of\n"
            "from proxy.unsealing import open_key  # noqa: F401\n",
        ),
    ],
    "credentials/services/bearer_tokens.py": [
        Mutation(
            "P7",
            "rotating keeps the old token",
            "                digest=tokens.digest(plaintext),\n"
            "                preview=tokens.preview(plaintext, BEARER_TOKEN_PREFIX),\n"
            "                last_used_at=None,",
            "                last_used_at=None,",
        ),
        Mutation(
            "P8",
            "rotating keeps the old token",
            "                digest=tokens.digest(plaintext),\n"
            "                preview=tokens.preview(plaintext, BEARER_TOKEN_PREFIX),\n"
            "                last_used_at=None,",
            "                last_used_at=None,",
        ),
        Mutation(
            "",
            "children outlive the rotation of their parent",
            """            actor, "token.rotated", token.endpoint, token, **endpoint_audit.change(before, token.preview)
        )
        _end_children(actor, token)
""",
            """            actor, "token.rotated", token.endpoint, token, **endpoint_audit.change(before, token.preview)
        )
""",
            tests=("tests/credentials/test_token_families.py::test_children_end_with_their_parent",),
        ),
    ],
    "credentials/vault/envelope.py": [
        Mutation(
            "P2",
            "the wrapped data key is bound to nothing",
            'return _join(b"strake/data-key", format.to_bytes(2), credential_id.bytes, master_key_id.encode())',
            'return b""',
        ),
        Mutation(
            "P18",
            "the ciphertext is not bound to its credential",
            "            self.credential_id.bytes,\n",
            "",
        ),
        Mutation(
            "P18",
            "the ciphertext is not bound to its endpoint",
            "            self.endpoint_id.bytes,\n",
            "",
        ),
        Mutation(
            "P18",
            "the ciphertext is not bound to its owner",
            "            self.owner_id.bytes,\n",
            "",
        ),
        Mutation(
            "P18",
            "the ciphertext is not bound to its provider",
            "            self.provider.encode(),\n",
            "",
        ),
        Mutation(
            "P18",
            "the ciphertext is not bound to its destination",
            "            self.destination_url.encode(),\n",
            "",
        ),
        Mutation(
            "P18",
            "the ciphertext is not bound to its header",
            "            self.header_name.encode(),\n",
            "",
        ),
        Mutation(
            "P18",
            "the ciphertext is not bound to its template",
            "            self.header_template.encode(),\n",
            "",
        ),
    ],
    "credentials/vault/keyring.py": [
        Mutation(
            "P19",
            "a server keeps the keyring it started with",
            "    if _cached is not None and version in {_cached[0], _refused}:",
            "    if _cached is not None:",
        ),
    ],
    "credentials/vault/keyring_document.py": [
        Mutation(
            "P2",
            "the master key is in the code",
            "            return self._keys[key_id]\n",
            '            return self._keys[key_id] and b"m" * 32\n',
        ),
    ],
    "credentials/vault/master_keys.py": [
        Mutation(
            "P19",
            "a key that a server still uses is retired",
            "key_holders.wait_until(lambda process: process.primary_key_id != key_id, wait_seconds)",
            "[]",
        ),
        Mutation(
            "P19",
            "a key is promoted that a server lacks",
            "        key_holders.wait_for_key(key_id, ring, seconds=wait_seconds, no_server=no_server)\n",
            "        pass\n",
        ),
    ],
    "credentials/vault/key_holders.py": [
        Mutation(
            "P19",
            "rotation does not wait for servers without the new key",
            "process.key_ids.get(key_id) == ring.check_value(key_id).hex()",
            "True",
        ),
        Mutation(
            "P19",
            "an empty table of servers means that all are ready",
            "    if not no_server and not running():\n",
            "    if False:\n",
        ),
    ],
    "credentials/vault/rotation.py": [
        Mutation(
            "P19",
            "rotation keeps the old IV",
            "                    new.wrapped_dek_iv,\n",
            "                    row.wrapped_dek_iv,\n",
        ),
        Mutation(
            "P19",
            "rotation is not resumed",
            "        while _pending(ring).exclude(pk__in=outcome.stuck).exists():\n",
            "        while _pending(ring).count() == SealedKey.objects.count():\n",
        ),
    ],
    "credentials/vault/sealing.py": [
        Mutation(
            "P1",
            "all credentials share a data key",
            "data_key = bytearray(AESGCM.generate_key(256))",
            'data_key = bytearray(b"k" * 32)',
        ),
        Mutation(
            "P1",
            "all credentials share an IV",
            "    iv = os.urandom(IV_BYTES)\n    ciphertext",
            "    iv = bytes(IV_BYTES)\n    ciphertext",
        ),
        Mutation(
            "P1",
            "data keys have 128 bits",
            "AESGCM.generate_key(256)",
            "AESGCM.generate_key(128)",
        ),
        Mutation(
            "P3",
            "the last four characters are stored with the ciphertext",
            "    return Encrypted(data_key, ciphertext, iv)",
            "    return Encrypted(data_key, ciphertext + plaintext[-4:], iv)",
        ),
    ],
    "proxy/access/route.py": [
        Mutation(
            "P8",
            "revoked tokens are accepted",
            "            or row.revoked_at is not None\n",
            "",
        ),
        Mutation(
            "P20",
            "a child outlives its revoked parent",
            "            or row.parent_revoked_at is not None\n",
            "",
            tests=("tests/proxy/access/test_kept_routes.py::test_change_is_seen_by_the_next_request",),
        ),
        Mutation(
            "P20",
            "a child outlives its expired parent",
            "self.expires_at = earlier(row.expires_at, row.parent_expires_at)",
            "self.expires_at = row.expires_at",
        ),
    ],
    "proxy/access/token_state.py": [
        Mutation(
            "P20",
            "what is in flight with a child outlives the parent",
            "earlier(time_from(expires_at), time_from(parent_expires_at)),",
            "time_from(expires_at),",
        ),
    ],
    "proxy/access/route_versions.py": [
        Mutation(
            "",
            "a kept child is not read again when its parent changes",
            '    _Xmin("token__parent__allowed_paths"),\n',
            "",
            tests=("tests/proxy/access/test_kept_on_postgresql.py::test_next_look_up_sees_a_change_of_the_parent",),
        ),
    ],
    "proxy/access/budgets.py": [
        Mutation(
            "",
            "a child's requests do not count for its parent",
            "for token_id in (row.token_id, row.parent_id):",
            "for token_id in (row.token_id,):",
            tests=("tests/proxy/access/test_budgets.py::test_stored_requests_are_those_of_the_token_and_its_children",),
        ),
    ],
    "proxy/access/policy.py": [
        Mutation(
            "",
            "every token may mint credentials",
            "if limits.minting is not None and limits.minting.forbid(",
            "if False and limits.minting.forbid(",
            tests=("tests/proxy/access/test_minting.py::test_minting_is_refused_before_the_provider",),
        ),
    ],
    "proxy/access/minting.py": [
        Mutation(
            "P21",
            "an encoded path mints",
            "for decoded in decodings(path)",
            "for decoded in (path,)",
        ),
    ],
    "proxy/access/upload_capability.py": [
        Mutation(
            "P21",
            "an upload goes on after its token was rotated",
            "token_id.encode(), token_digest, seconds)",
            "token_id.encode(), seconds)",
        ),
    ],
    "proxy/access/sqlite_lookup.py": [
        Mutation(
            "P8",
            "each process caches the tokens it has seen",
            "if kept is not None and kept.version == version:",
            "if kept is not None:",
        ),
        Mutation(
            "",
            "routes outlive the connection that read them",
            "            self._kept.clear()",
            "           ",
            tests=("tests/proxy/access/test_kept_routes.py::test_new_connection_keeps_nothing",),
        ),
        Mutation(
            "",
            "a look-up is good for a second on SQLite",
            "        rows = await self._read(self._sql, (digest, subdomain))\n",
            "        import time\n"
            '        seen = self.__dict__.setdefault("seen", {})\n'
            "        until, rows = seen.get((digest, subdomain), (0.0, []))\n"
            "        if time.monotonic() > until:\n"
            "            rows = await self._read(self._sql, (digest, subdomain))\n"
            "            seen[digest, subdomain] = time.monotonic() + 1, rows\n",
            tests=("tests/proxy/access/test_revocation.py::test_nothing_is_accepted_after_access_ended[sqlite]",),
        ),
    ],
    "proxy/access/postgresql_lookup.py": [
        Mutation(
            "",
            "a look-up is good for a second on PostgreSQL",
            "        return await found\n",
            '        seen = self.__dict__.setdefault("seen", {})\n'
            "        until, route = seen.get((subdomain, digest), (0.0, None))\n"
            "        if monotonic() > until:\n"
            "            route = await found\n"
            "            seen[subdomain, digest] = monotonic() + 1, route\n"
            "        return route\n",
            tests=("tests/proxy/access/test_revocation.py::test_nothing_is_accepted_after_access_ended[postgresql]",),
        ),
        Mutation(
            "",
            "a request joins the look-up of another one",
            "        if self._next is None:\n            self._next = _Batch()\n",
            "        for batch in self._running:\n"
            "            if (subdomain, digest) in batch.waiting:\n"
            "                joined = asyncio.get_running_loop().create_future()\n"
            "                batch.waiting[subdomain, digest].append(joined)\n"
            "                return await joined\n"
            "        if self._next is None:\n            self._next = _Batch()\n",
            tests=("tests/proxy/access/test_revocation.py::test_nothing_is_accepted_after_access_ended[postgresql]",),
        ),
    ],
    "proxy/access/in_flight.py": [
        Mutation(
            "P20",
            "rotated tokens keep what is open",
            "        or state.digest != digest\n",
            "",
        ),
        Mutation(
            "P20",
            "suspended people keep what is open",
            "        or state.suspended_at is not None\n",
            "",
        ),
        Mutation("P20", "replaced keys keep what is open", "if state.iv != iv:", "if False:"),
        Mutation(
            "P20",
            "an outage of the store lets everything go on",
            "if is_over:\n                    self._end(",
            "if False:\n                    self._end(",
        ),
    ],
    "proxy/application.py": [
        Mutation(
            "P20",
            "nothing in flight is looked at again",
            "asyncio.create_task(self.in_flight.watch(self.lookup))",
            "asyncio.create_task(asyncio.sleep(0))",
        ),
    ],
    "proxy/access/browsers.py": [
        Mutation(
            "",
            "browsers load responses as parts of pages",
            "    if not is_fetch or by_dashboard:\n",
            "    if by_dashboard:\n",
            tests=("tests/proxy/access/test_browsers.py::test_parts_of_pages_are_refused",),
        ),
        Mutation(
            "",
            "pages of the dashboard fetch from endpoints",
            "    if not is_fetch or by_dashboard:\n",
            "    if not is_fetch:\n",
            tests=("tests/proxy/access/test_browsers.py::test_fetch_that_concerns_the_dashboard_is_refused",),
        ),
    ],
    "proxy/http/headers.py": [
        Mutation(
            "P4",
            "responses keep headers with the key",
            "    return _without_secret(passed, secret) if may_repeat else passed\n",
            "    return passed\n",
        ),
        Mutation(
            "",
            "responses keep headers with the key in base64",
            "        if len(value) >= encoded_length and _repeats_in_base64(",
            "        if False and _repeats_in_base64(",
            tests=("tests/proxy/upstream/test_hostile_upstream.py::test_header_with_the_key_in_base64_is_dropped",),
        ),
        Mutation(
            "",
            "browsers get every header on the dashboard's origin",
            "        dropped |= NOT_FOR_BROWSERS\n",
            "        pass\n",
            tests=("tests/proxy/access/test_browsers.py::test_browser_gets_listed_headers_on_the_dashboard",),
        ),
        Mutation(
            "",
            "other tokens reach the provider",
            "        passing = [pair for pair in passing if not tokens.contains(pair[1])]\n",
            "        pass\n",
            tests=("tests/proxy/access/test_tokens_stay_here.py::test_token_in_a_header_is_not_forwarded",),
        ),
    ],
    "proxy/http/names.py": [
        Mutation(
            "",
            "commands to the server in front pass",
            " or lower.startswith(_FOR_THE_HOP_IN_FRONT)",
            "",
            tests=("tests/proxy/upstream/test_hostile_upstream.py::test_origin_and_hop_headers_are_dropped",),
        ),
    ],
    "proxy/http/response_urls.py": [
        Mutation(
            "P21",
            "the id of an upload reaches the client",
            "and not any(part in value for part in ids)",
            "and ids is not None",
        ),
        Mutation(
            "P21",
            "a URL of another site leads through the endpoint",
            "if absolute is not None and _is_origin(absolute, site.origin):",
            "if absolute is not None:",
        ),
    ],
    "proxy/http/request.py": [
        Mutation(
            "P14",
            "bodies are written to a file",
            "        self.body_read = True\n        if self.kinds",
            '        __import__("tempfile").NamedTemporaryFile(delete=False).write(first * 9)\n'
            "        self.body_read = True\n        if self.kinds",
        ),
    ],
    "proxy/http/response.py": [
        Mutation(
            "P14",
            "responses are logged",
            "            chunk = body.take()\n",
            "            chunk = body.take()\n"
            '            __import__("logging").getLogger("proxy").warning("%s", chunk)\n',
        ),
    ],
    "proxy/views.py": [
        Mutation(
            "",
            "nominated headers reach the provider",
            "        nominated = headers.nominated_names(request.headers) if request.kinds & CONNECTION else ()\n",
            "        nominated = ()\n",
            tests=("tests/proxy/test_exactness.py::test_nominated_headers_are_not_forwarded",),
        ),
        Mutation(
            "",
            "URLs of the provider reach the client",
            "if request.upload is not None or response.kinds & HOLDS_URL:",
            "if request.upload is not None:",
            tests=("tests/proxy/http/test_response_urls.py::test_every_header_leads_back",),
        ),
        Mutation(
            "P4",
            "the opened key is logged",
            "    secret = _open(route, ring, derived)\n",
            "    secret = _open(route, ring, derived)\n"
            '    __import__("logging").getLogger("proxy").warning("opened %s", secret.decode())\n',
        ),
        Mutation(
            "P5",
            "the opened key outlives its request",
            "        wipe(self.secret)\n        wipe(self.key_header[1])\n",
            "        self.__class__.kept = (self.secret, self.key_header[1])\n",
        ),
        Mutation(
            "P5",
            "the memory of an opened key is not wiped",
            "        wipe(self.secret)\n        wipe(self.key_header[1])\n",
            "        pass\n",
        ),
        Mutation(
            "P15",
            "paths are logged",
            "    target = build_target(base_path, request.path, query)\n",
            "    target = build_target(base_path, request.path, query)\n"
            '    __import__("logging").getLogger("proxy").warning("%s", target)\n',
        ),
    ],
    "proxy/wrap_service.py": [
        Mutation(
            "P6",
            "the wrap service answers other paths",
            "    wrap = _WRAP_PATH.fullmatch(",
            "    wrap = _WRAP_PATH.search(",
        ),
    ],
    "proxy/upstream/tunnel.py": [
        Mutation(
            "P20",
            "WebSocket connections outlive their token",
            "        client, upstream = self._ends\n        if client.lost or",
            "        return\n        client, upstream = self._ends\n        if client.lost or",
        ),
        Mutation(
            "",
            "quiet WebSockets are closed",
            "        self._draining = False\n",
            "        self._draining = True\n",
            tests=("tests/proxy/server/test_websocket.py::test_quiet_connection_stays_open",),
        ),
    ],
    "strake/asgi.py": [
        Mutation(
            "",
            "a stopped server keeps its row",
            "        await asyncio.to_thread(heartbeat.stop)\n",
            "",
            tests=("tests/strake/test_heartbeat_row.py",),
        ),
    ],
    "strake/database_roles.py": [
        Mutation(
            "",
            "the web half's database role may read ciphertexts",
            'SELECT=("credential", "master_key_id"),',
            'SELECT=("credential", "master_key_id", "ciphertext"),',
            tests=("tests/strake/test_database_roles.py::test_web_role_cannot_read_a_sealed_key",),
        ),
        Mutation(
            "",
            "rights that everybody has are overlooked",
            "if excess := actual - expected:",
            "if False and (excess := actual - expected):",
            tests=("tests/strake/test_grant_roles.py::test_right_of_everybody_is_refused",),
        ),
    ],
    "strake/settings.py": [
        Mutation(
            "P10",
            "a backend accepts passwords",
            'AUTHENTICATION_BACKENDS = ["accounts.backends.LinkBackend"]',
            'AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]',
        ),
        Mutation(
            "P12",
            "the session cookie is sent over plain HTTP",
            "SESSION_COOKIE_SECURE = HTTPS",
            "SESSION_COOKIE_SECURE = False",
        ),
        Mutation(
            "P12",
            "another host of the domain may set cookies",
            'STRAKE_COOKIE = "__Host-strake-{}" if HTTPS',
            'STRAKE_COOKIE = "strake-{}" if HTTPS',
        ),
        Mutation(
            "P12",
            "scripts may read the session cookie",
            "SESSION_COOKIE_HTTPONLY = True",
            "SESSION_COOKIE_HTTPONLY = False",
        ),
        Mutation(
            "P17",
            "deleted rows stay in the database file",
            "PRAGMA secure_delete=ON;",
            "PRAGMA secure_delete=OFF;",
        ),
    ],
    "proxy/upstream/pool.py": [
        Mutation("P22", "endpoints share connections", "= (origin, credential_id)", "= (origin,)"),
    ],
    "credentials/shares.py": [
        Mutation(
            "P23",
            "one owner takes every place",
            "if self._taken >= self._total or self._taken_by.get(owner, 0) >= self._per_owner:",
            "if self._taken >= self._total:",
        ),
    ],
    "credentials/outbound.py": [
        Mutation(
            "P23",
            "every thread of the web half may wait for destinations",
            "        if taken >= places:",
            "        if taken >= 2 * places:",
        ),
    ],
    "proxy/request_log/fair_queue.py": [
        Mutation(
            "P23",
            "a full request log drops the records of others",
            "endpoint = self._ranking.longest()",
            "endpoint = next(iter(self._queues))",
        ),
    ],
    "proxy/access/auth_throttle.py": [
        Mutation(
            "P23",
            "refused tokens are looked up again and again",
            "token is not None and token.blocked_until:",
            "token is None and token.blocked_until:",
        ),
    ],
    "accounts/quotas.py": [
        Mutation("P23", "quotas are not kept", "if held.count() >= quota:", "if False:"),
    ],
    "accounts/verify_audit.py": [
        Mutation("P24", "a changed event is not found", 'if content != event["content_hash"]:', "if False:"),
        Mutation("P24", "a changed link is not found", 'if link != event["hash"]:', "if False:"),
        Mutation(
            "P24",
            "a missing event is not found",
            "if type(found) is not int or found != number:",
            "if type(found) is not int:",
        ),
        Mutation(
            "P24",
            "an event that does not continue the one before it is not found",
            'if event["previous_hash"] != self._last_hash:',
            "if False:",
        ),
        Mutation("P24", "a tail that was cut off is not found", "if checkpoint.size > self._last:", "if False:"),
        Mutation(
            "P24",
            "a chain that was computed anew is not found",
            "if found is not None and found != checkpoint.hash:",
            "if False:",
        ),
        Mutation("P24", "a file without a checkpoint passes", "        if not self._checkpoints:", "        if False:"),
        Mutation("P24", "a checkpoint of earlier events is enough", "if self.signed <= self._since:", "if False:"),
    ],
    "accounts/audit_chain.py": [
        Mutation(
            "P24", "a forged checkpoint passes", 'if not verify(signature[4:], found["text"].encode()):', "if False:"
        ),
    ],
    "accounts/audit_models.py": [
        Mutation(
            "P24",
            "a crash leaves an event without its link",
            "with transaction.atomic():  # holds",
            "if True:  # holds",
        ),
    ],
    "accounts/migrations/0009_audit_links.py": [
        Mutation(
            "P24",
            "two servers write the same link",
            "PERFORM pg_advisory_xact_lock(hashtext('accounts_auditlink'));",
            "",
        ),
        Mutation(
            "P24",
            "the chain is locked before foreign keys are checked",
            "FOR EACH ROW EXECUTE FUNCTION accounts_auditevent_last();",
            "FOR EACH ROW EXECUTE FUNCTION accounts_auditevent_chain();",
        ),
    ],
    "accounts/migrations/0010_audit_refuses_unreadable.py": [
        Mutation("P24", "one event ends all verification", "NEW.ip <> host(NEW.ip)::inet", "false"),
    ],
    "proxy/audit_checkpoints.py": [
        Mutation("P24", "the signer trusts a copy", '.order_by("-size", "-id").first()', '.order_by("-id").first()'),
        Mutation("P24", "the signer signs a chain computed anew", "if stored != checkpoint.hash:", "if False:"),
    ],
}
