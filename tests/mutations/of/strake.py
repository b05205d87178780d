"""Mutations of `strake/`."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

BY_FILE: dict[str, list[Mutation]] = {
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
            "if (found := actual[role] - expected[role])}",
            "if (found := actual[role] - expected[role]) and False}",
            tests=("tests/strake/test_grant_roles.py::test_right_of_everybody_is_refused",),
        ),
        Mutation(
            "",
            "grant_roles leaves functions that run as the owner to everybody",
            "        close_functions(quoted_schema),\n",
            "",
            tests=("tests/strake/backups/test_drill.py::test_dump_without_rights_gets_them_from_grant_roles",),
        ),
    ],
    "strake/backups/postgresql.py": [
        Mutation(
            "",
            "a restore opens functions that run as the owner to everybody",
            '    yield f"{database_roles.close_functions(schema).as_string()};"\n',
            "",
            tests=("tests/strake/backups/test_drill.py::test_both_halves_start_after_a_restore",),
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
}
