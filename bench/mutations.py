"""Break each promise, one at a time, and see its tests fail.

    python -m bench.mutations [P1 P8 …]

Works on a copy of the repository, so nothing here is changed. For each promise of SECURITY.md it makes one or more
small edits to the code and runs the tests named there for it, which must pass before and fail after. Exit code 1 if a
mutation survived, or no longer applies because the code it edits has changed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (".git", ".venv", ".strake", "__pycache__", ".*_cache", ".hypothesis", "screenshots", "static-root")


class Mutation(NamedTuple):
    """In `file`, `old` becomes `new`; then a test of `promise` must fail. Both are plain text, `old` stands once."""

    promise: str
    what: str
    file: str
    old: str
    new: str


class Survived(Exception):
    """No test noticed a mutation."""


MUTATIONS = [
    Mutation(
        "P1",
        "one data key for all credentials",
        "credentials/sealing.py",
        "data_key = AESGCM.generate_key(256)",
        'data_key = b"k" * 32',
    ),
    Mutation(
        "P1",
        "one IV for all credentials",
        "credentials/sealing.py",
        "    iv = os.urandom(IV_BYTES)\n    ciphertext",
        "    iv = bytes(IV_BYTES)\n    ciphertext",
    ),
    Mutation(
        "P1",
        "128-bit data keys",
        "credentials/sealing.py",
        "data_key = AESGCM.generate_key(256)",
        "data_key = AESGCM.generate_key(128)",
    ),
    Mutation(
        "P2",
        "the wrap is bound to nothing",
        "credentials/envelope.py",
        'return _join(b"strake/data-key", format.to_bytes(2), credential_id.bytes, master_key_id.encode())',
        'return b""',
    ),
    Mutation(
        "P2",
        "the master key stands in the code",
        "credentials/keyring.py",
        "            return self._keys[key_id]\n",
        '            return self._keys[key_id] and b"m" * 32\n',
    ),
    Mutation(
        "P3",
        "the last four characters beside the ciphertext",
        "credentials/sealing.py",
        "    return SealedKey(FORMAT, wrap, ciphertext, iv)",
        "    return SealedKey(FORMAT, wrap, ciphertext + plaintext[-4:], iv)",
    ),
    Mutation(
        "P4",
        "the opened key is logged",
        "proxy/views.py",
        "    # Joined and not replaced:",
        '    __import__("logging").getLogger("proxy").warning("opened %s", secret.decode())\n'
        "    # Joined and not replaced:",
    ),
    Mutation(
        "P4",
        "answers keep headers with the key",
        "proxy/headers.py",
        "        and secret not in pair[1]\n",
        "",
    ),
    Mutation(
        "P5",
        "the opened key outlives its request",
        "proxy/views.py",
        "        wipe(self.secret)\n        wipe(self.key_header[1])\n",
        "        self.__class__.kept = (self.secret, self.key_header[1])\n",
    ),
    Mutation(
        "P5",
        "the memory of an opened key is left as it is",
        "proxy/views.py",
        "        wipe(self.secret)\n        wipe(self.key_header[1])\n",
        "        pass\n",
    ),
    Mutation(
        "P5",
        "a service opens keys",
        "credentials/services.py",
        "from credentials.providers import Provider\n",
        "from credentials.providers import Provider\nfrom proxy.unsealing import open_key  # noqa: F401\n",
    ),
    Mutation(
        "P6",
        "the secret can be read",
        "credentials/models.py",
        '        raise AttributeError("The secret of a credential cannot be read. Only the proxy opens it.")',
        '        return "sk-secret"',
    ),
    Mutation(
        "P6",
        "operators see the sealed record",
        "credentials/admin.py",
        '        "header_template",\n        "format",\n',
        '        "header_template",\n        "ciphertext",\n        "format",\n',
    ),
    Mutation(
        "P7",
        "the token is shown for ever",
        "accounts/tokens.py",
        '    return f"{prefix}{token[len(prefix) : len(prefix) + 4]}…"',
        "    return token",
    ),
    Mutation(
        "P7",
        "rotating keeps the old token",
        "credentials/services.py",
        "            digest=tokens.digest(plaintext),\n"
        "            preview=tokens.preview(plaintext, BEARER_TOKEN_PREFIX),\n"
        "            last_used_at=None,",
        "            last_used_at=None,",
    ),
    Mutation(
        "P8",
        "rotating keeps the old token",
        "credentials/services.py",
        "            digest=tokens.digest(plaintext),\n"
        "            preview=tokens.preview(plaintext, BEARER_TOKEN_PREFIX),\n"
        "            last_used_at=None,",
        "            last_used_at=None,",
    ),
    Mutation(
        "P8",
        "each process remembers the tokens it has seen",
        "proxy/lookup.py",
        "row = self._open().execute(self._sql, (digest, subdomain)).fetchone()",
        'row = self.__dict__.setdefault("seen", {}).setdefault('
        "digest, self._open().execute(self._sql, (digest, subdomain)).fetchone())",
    ),
    Mutation(
        "P8",
        "revoked tokens pass",
        "proxy/limits.py",
        "route.token_id is None or route.revoked_at is not None",
        "route.token_id is None",
    ),
    Mutation(
        "P9",
        "tokens are stored as they are",
        "accounts/tokens.py",
        "    return hashlib.sha256(token.encode()).digest()",
        "    return token.encode()",
    ),
    Mutation(
        "P10",
        "a backend that knows passwords",
        "strake/settings.py",
        'AUTHENTICATION_BACKENDS = ["accounts.backends.LinkBackend"]',
        'AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]',
    ),
    Mutation(
        "P11",
        "links can be used twice",
        "accounts/links.py",
        "SignInLink.objects.filter(used_at=None, expires_at__gt=now)",
        "SignInLink.objects.filter(expires_at__gt=now)",
    ),
    Mutation(
        "P11",
        "links never expire",
        "accounts/links.py",
        "SignInLink.objects.filter(used_at=None, expires_at__gt=now)",
        "SignInLink.objects.filter(used_at=None)",
    ),
    Mutation(
        "P11",
        "links are stored as they are",
        "accounts/tokens.py",
        "    return hashlib.sha256(token.encode()).digest()",
        "    return token.encode()",
    ),
    Mutation(
        "P12",
        "signing out forgets the cookie only",
        "accounts/sessions.py",
        "    auth.logout(request)\n",
        "    request.session.modified = True\n",
    ),
    Mutation(
        "P12",
        "the session cookie goes over plain http",
        "strake/settings.py",
        "SESSION_COOKIE_SECURE = HTTPS",
        "SESSION_COOKIE_SECURE = False",
    ),
    Mutation(
        "P12",
        "scripts may read the session cookie",
        "strake/settings.py",
        "SESSION_COOKIE_HTTPONLY = True",
        "SESSION_COOKIE_HTTPONLY = False",
    ),
    Mutation(
        "P13",
        "nobody ever asks too often",
        "accounts/limits.py",
        'Verdict(usage["should_limit"],',
        "Verdict(False,",
    ),
    Mutation(
        "P14",
        "bodies are written to a file",
        "proxy/request.py",
        '        first: bytes = message.get("body", b"")\n',
        '        first: bytes = message.get("body", b"")\n'
        '        __import__("tempfile").NamedTemporaryFile(delete=False).write(first * 9)\n',
    ),
    Mutation(
        "P14",
        "answers are logged",
        "proxy/relay.py",
        "            chunk = await body.read()\n",
        "            chunk = await body.read()\n"
        '            __import__("logging").getLogger("proxy").warning("%s", chunk)\n',
    ),
    Mutation(
        "P15",
        "paths are logged",
        "proxy/views.py",
        "    target = paths.target(base_path, request.path, query)\n",
        "    target = paths.target(base_path, request.path, query)\n"
        '    __import__("logging").getLogger("proxy").warning("%s", target)\n',
    ),
    Mutation(
        "P16",
        "a form offers the sealed record",
        "credentials/models.py",
        "    ciphertext = models.BinaryField()",
        "    ciphertext = models.BinaryField(editable=True)",
    ),
    Mutation(
        "P17",
        "deleted rows stay in the file",
        "strake/settings.py",
        "PRAGMA secure_delete=ON;",
        "PRAGMA secure_delete=OFF;",
    ),
    Mutation(
        "P17",
        "deleted rows stay in the write-ahead log",
        "accounts/erasure.py",
        "        transaction.on_commit(_empty_write_ahead_log)",
        "        pass",
    ),
    Mutation(
        "P17",
        "an account's sealed keys stay when it goes",
        "accounts/users.py",
        "        erase_deleted()\n",
        "",
    ),
    *(
        Mutation("P18", f"the seal is not bound to {what}", "credentials/envelope.py", f"            {line}\n", "")
        for what, line in [
            ("its credential", "self.credential_id.bytes,"),
            ("its endpoint", "self.endpoint_id.bytes,"),
            ("its owner", "self.owner_id.bytes,"),
            ("its provider", "self.provider.encode(),"),
            ("its destination", "self.destination_url.encode(),"),
            ("its header", "self.header_name.encode(),"),
            ("its template", "self.header_template.encode(),"),
        ]
    ),
    Mutation(
        "P19",
        "a rotation keeps the old IV",
        "credentials/rotation.py",
        "                    new.wrapped_dek_iv,\n",
        "                    row.wrapped_dek_iv,\n",
    ),
    Mutation(
        "P19",
        "a server keeps the keyring it started with",
        "credentials/keyring.py",
        "    if _cached is not None and version in {_cached[0], _refused}:",
        "    if _cached is not None:",
    ),
    Mutation(
        "P19",
        "a rotation does not wait for servers that lack the new key",
        "credentials/rotation.py",
        "process.key_ids.get(ring.primary_id) == check_value",
        "True",
    ),
    Mutation(
        "P19",
        "a key that a server still seals under is retired",
        "credentials/master_keys.py",
        "        rotation.wait_for_processes(lambda process: process.primary_key_id != key_id, wait_seconds)\n",
        "        pass\n",
    ),
    Mutation(
        "P19",
        "a rotation is not resumed",
        "credentials/rotation.py",
        "        while _pending(ring).exclude(pk__in=outcome.stuck).exists():\n",
        "        while _pending(ring).count() == Credential.objects.count():\n",
    ),
]


def tests_of(promise: str, folder: Path) -> list[str]:
    """The tests that SECURITY.md, as it is in `folder`, names for a promise."""
    (row,) = re.findall(rf"^\| {promise} \| .*\| (.+) \|$", (folder / "SECURITY.md").read_text(), re.MULTILINE)
    return re.findall(r"`(tests/[^`]+)`", row)


def noticed_by(mutation: Mutation, folder: Path) -> str:
    """The test that failed on the mutation. Raises `Survived` with what is wrong where none did."""
    path = folder / mutation.file
    original = path.read_text()
    if original.count(mutation.old) != 1:
        raise Survived(f"no longer applies: its text stands {original.count(mutation.old)} times in {mutation.file}")
    path.write_text(original.replace(mutation.old, mutation.new))
    try:
        result = run(tests_of(mutation.promise, folder), folder)
    finally:
        path.write_text(original)
    if result.returncode == 0:
        raise Survived("its tests still pass")
    # Code that cannot even be imported fails every test and proves nothing.
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::\S+)", result.stdout, re.MULTILINE)
    if failed is None:
        raise Survived(f"no test failed, but pytest ended with {result.returncode}: {result.stdout[-300:]}")
    return failed[1]


def run(tests: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run these tests in `folder`, up to the first that fails."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "STRAKE_REQUIRE_SERVICES": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def main(promises: list[str]) -> int:
    chosen = [mutation for mutation in MUTATIONS if not promises or mutation.promise in promises]
    missing = {f"P{number}" for number in range(1, 20)} - {mutation.promise for mutation in MUTATIONS}
    failed = [f"{promise} has no mutation" for promise in sorted(missing)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "strake"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for promise in sorted({mutation.promise for mutation in chosen}):
            before = run(tests_of(promise, folder), folder)
            if before.returncode:
                raise SystemExit(
                    f"{promise}: its tests fail already, so a mutation would prove nothing.\n{before.stdout}"
                )
        for mutation in chosen:
            try:
                verdict = f"noticed by {noticed_by(mutation, folder)}"
            except Survived as survived:
                verdict = f"SURVIVED: {survived}"
                failed.append(f"{mutation.promise} {mutation.what}: {survived}")
            print(f"{mutation.promise:4} {mutation.what}: {verdict}", flush=True)
    print("\n".join(failed) or f"{len(chosen)} mutations, each noticed.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
