"""Mutations of `proxy/`."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

BY_FILE: dict[str, list[Mutation]] = {
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
    "proxy/upstream/pool.py": [
        Mutation("P22", "endpoints share connections", "= (origin, credential_id)", "= (origin,)"),
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
    "proxy/audit_checkpoints.py": [
        Mutation("P24", "the signer trusts a copy", '.order_by("-size", "-id").first()', '.order_by("-id").first()'),
        Mutation("P24", "the signer signs a chain computed anew", "if stored != checkpoint.hash:", "if False:"),
    ],
}
