"""What somebody tries who runs code in the web half, as a child of the tests.

`python -m tests.support.attempts PIDS KEYRING SUBDOMAIN [confine]` has the web half's user and environment. It prints,
as JSON, for each attempt what it yielded, or None and what refused it. `confine` takes the rest of the file system from
this process first, as the web half does with itself.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

PTRACE_ATTACH = 16
PIDFD_OPEN, PIDFD_GETFD = 434, 438
OTHER_CALLS = [
    ("POST", "/unwrap/1/{id}"), ("POST", "/rewrap/1/{id}"), ("POST", "/open/1/{id}"), ("GET", "/keys/2026-11-a"),
    ("POST", "/keys"), ("GET", "/wrap/1/{id}"), ("PUT", "/wrap/1/{id}"), ("DELETE", "/wrap/1/{id}"),
    ("POST", "/wrap/1/{id}/unwrap"), ("POST", "/wrap/../unwrap/1/{id}"), ("GET", "/"), ("GET", "/master-keys.json"),
    ("GET", "/signin/"), ("GET", "/p/{subdomain}/v1/models"), ("GET", "/livez"),
]  # fmt: skip

Attempt = tuple[str, Callable[[], Any]]


def _system_call(number: int, *arguments: Any) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _read(path: str | Path) -> str:
    with open(path, "rb") as file:
        file.read(1)
    return "read"


def _attach(pid: int) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(PTRACE_ATTACH, pid, None, None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "attached"


class _Span(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def _read_other_memory(pid: int) -> str:
    """process_vm_readv(2) of one byte. Whether the address is mapped is asked after the permission."""
    buffer = ctypes.create_string_buffer(1)
    here, there = _Span(ctypes.addressof(buffer), 1), _Span(0x400000, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    if ctypes.get_errno() == 1:
        raise PermissionError(1, "Operation not permitted")
    return "readable"


def _take_descriptor(pid: int) -> str:
    return f"descriptor {_system_call(PIDFD_GETFD, _system_call(PIDFD_OPEN, pid, 0), 0, 0)}"


def _signal(pid: int) -> str:
    os.kill(pid, 0)
    return "may be signalled"


def _append(path: Path) -> str:
    with path.open("ab"):
        return "writable"


def processes(pids: list[int]) -> Iterator[Attempt]:
    """Look into other processes, or act on them."""
    for index, pid in enumerate(pids):
        who = f"process {index}"
        yield f"{who}: environment", partial(_read, f"/proc/{pid}/environ")
        yield f"{who}: memory", partial(_read, f"/proc/{pid}/mem")
        yield f"{who}: memory map", partial(_read, f"/proc/{pid}/maps")
        yield f"{who}: process_vm_readv", partial(_read_other_memory, pid)
        yield f"{who}: ptrace", partial(_attach, pid)
        yield f"{who}: pidfd_getfd", partial(_take_descriptor, pid)
        yield f"{who}: signal", partial(_signal, pid)


def files(keyring_file: Path) -> Iterator[Attempt]:
    root = Path(__file__).resolve().parents[2]
    yield "keyring file", partial(_read, keyring_file)
    yield "keyring folder", partial(os.listdir, keyring_file.parent)
    yield "keyring file, to write", partial(_append, keyring_file)
    for name in ("manage.py", "proxy/unsealing.py", "strake/settings.py"):
        yield f"code: {name}", partial(_append, root / name)


def openers(keyring_file: Path, subdomain: str) -> Iterator[Attempt]:
    """Strake's own code, told where the keyring is."""
    from django.conf import settings

    settings.STRAKE_MASTER_KEYS_FILE = str(keyring_file)

    def keyring() -> str:
        from credentials.vault import keyring

        return repr(keyring.reload())

    def opener() -> str:
        from credentials.models import Endpoint
        from credentials.vault import keyring
        from proxy.unsealing import open_key

        credential = Endpoint.objects.get(subdomain=subdomain).credential
        return repr(open_key(credential.sealed(), credential.binding(), keyring.current()))

    def unwrapper() -> str:
        from credentials.models import Endpoint
        from credentials.vault import keyring, unwrapping

        credential = Endpoint.objects.get(subdomain=subdomain).credential
        sealed = credential.sealed()
        return repr(unwrapping.unwrap(sealed.wrap, sealed.format, credential.pk, keyring.current()))

    def verify() -> str:
        from django.core.management import call_command

        call_command("verify_vault", stdout=io.StringIO(), stderr=io.StringIO())
        return "verified"

    yield "keyring.reload()", keyring
    yield "open_key()", opener
    yield "unwrap()", unwrapper
    yield "verify_vault", verify


def wrap_socket(subdomain: str) -> Iterator[Attempt]:
    """Everything but the two calls."""
    import httpx
    from django.conf import settings

    from credentials.models import Credential

    credential = Credential.objects.get(endpoint__subdomain=subdomain)
    headers = {"strake-wrap-protocol": "1", "host": "localhost"}

    def call(method: str, path: str, body: bytes) -> str:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(settings.STRAKE_WRAP_SOCKET))) as client:
            response = client.request(method, f"http://localhost{path}", headers=headers, content=body)
        if response.is_success:
            return f"{response.status_code} {response.text}"
        raise PermissionError(f"HTTP {response.status_code}")

    for method, path in OTHER_CALLS:
        target = path.format(id=credential.pk.hex, subdomain=subdomain)
        yield f"wrap.sock: {method} {path}", partial(call, method, target, bytes(48))
    for length in (0, 31, 33, 48, 4096):
        target = f"/wrap/1/{credential.pk.hex}"
        yield f"wrap.sock: {length} bytes", partial(call, "POST", target, bytes(length))


def sealed_keys() -> Iterator[Attempt]:
    from django.db import connection

    def query(sql: str) -> str:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return f"{len(cursor.fetchall())} rows"

    columns = ("ciphertext", "iv", "wrapped_dek", "wrapped_dek_iv", "*")
    for column in columns:
        yield f"SQL: {column}", partial(query, f"SELECT {column} FROM credentials_sealedkey")


def main() -> None:
    pids, keyring_file, subdomain = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    import django

    django.setup()
    from django.conf import settings

    if "confine" in sys.argv[4:]:
        from strake.processes import serve

        serve.confine(settings.STRAKE_HOME)
    found: dict[str, list[str | None]] = {}
    attempts = [
        *processes(pids), *files(keyring_file), *openers(keyring_file, subdomain), *wrap_socket(subdomain),
        *sealed_keys(),
    ]  # fmt: skip
    for name, attempt in attempts:
        try:
            found[name] = [str(attempt()), ""]
        except BaseException as error:  # noqa: BLE001
            found[name] = [None, f"{type(error).__name__}: {error}".partition("\n")[0][:100]]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
