"""A confined process reaches only the files that it was given, and no process outside.

Probes are child processes. Most run twice: unconfined, to see that every attempt works, and confined.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from strake.processes import landlock
from tests.support.certificates import Authority
from tests.support.running import ROOT, as_ordinary_user

ABI = landlock._abi()
needs_landlock = pytest.mark.skipif(ABI == 0, reason="this system has no Landlock")
DISKS = [path for path in Path("/dev").iterdir() if path.is_block_device()]


# A probe calls `confine`, and then `attempt` once for every thing that it tries.
PRELUDE = """
import ctypes, errno, json, os, signal, socket, stat, subprocess, sys, threading
from pathlib import Path
from strake.processes import landlock

results = {}
libc = ctypes.CDLL(None, use_errno=True)
inside, outside = Path("inside").absolute(), Path("outside").absolute()

def confine(*more):
    readable = [*landlock.code_paths(), inside / "readable", inside / "readable.txt", outside / "missing", *more]
    writable = [*landlock.DEVICES, inside / "writable", inside / "writable.txt"]
    if sys.argv[1] == "confined":
        assert landlock.restrict(readable=readable, writable=writable) is True

def attempt(name, action, *arguments, **named):
    try:
        action(*arguments, **named)
        results[name] = "works"
    except OSError as error:
        results[name] = errno.errorcode[error.errno]

def checked(function, *arguments):
    if function(*arguments) == -1:
        raise OSError(ctypes.get_errno(), function.__name__)
"""


def start(
    folder: Path,
    code: str,
    *,
    confined: bool = True,
    arguments: Sequence[str] = (),
    project: Path = ROOT,
    preexec_fn: Callable[[], None] | None = None,
    **variables: str,
) -> subprocess.Popen[str]:
    """Start Python with the prelude and `code` in `folder`, which gets files to read, to write and to leave alone."""
    for name in ("inside/readable", "inside/writable/a", "inside/writable/b", "outside"):
        (folder / name).mkdir(parents=True)
        for file in ("file", "to_move", "to_link", "to_remove"):
            (folder / name / file).write_text("content")
    for name in ("readable.txt", "writable.txt"):
        (folder / "inside" / name).write_text("content")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(project),
        "TMPDIR": str(folder / "inside" / "writable"),
    }
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, "confined" if confined else "free", *arguments],
        cwd=folder,
        env=environment | variables,  # without those that start coverage, which could not write its file
        preexec_fn=preexec_fn,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def probe(folder: Path, code: str, *, confined: bool = True, **options: Any) -> dict[str, Any]:
    """Run a probe to its end. Returns the outcome of each attempt."""
    with start(folder, f"{code}\nprint(json.dumps(results))", confined=confined, **options) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    results: dict[str, Any] = json.loads(output)
    return results


def await_ready(process: subprocess.Popen[str]) -> None:
    """Wait until a probe prints "ready"."""
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n", process.stderr.read()


def assert_outcomes(folder: Path, code: str, expected: dict[str, str], **options: Any) -> None:
    """Every attempt works unconfined, and has its expected outcome confined."""
    assert probe(folder / "free", code, confined=False, **options) == dict.fromkeys(expected, "works")
    assert probe(folder / "confined", code, **options) == expected


def since(abi: int, refusal: str) -> str:
    """The outcome of an attempt that Landlock refuses from this version of its interface on."""
    return refusal if abi <= ABI else "works"


# --- Files ---------------------------------------------------------------------------------------------------------


@needs_landlock
def test_files_outside_are_out_of_reach(tmp_path: Path) -> None:
    code = """
confine()
(inside / "writable" / "link").symlink_to(outside / "file")
attempt("read", (outside / "file").read_text)
attempt("read through a link", (inside / "writable" / "link").read_text)
attempt("list", os.listdir, outside)
attempt("write", (outside / "file").write_text, "changed")
attempt("truncate", os.truncate, outside / "file", 0)
attempt("create", (outside / "new").write_text, "new")
attempt("remove", os.unlink, outside / "to_remove")
attempt("move in", os.rename, outside / "to_move", inside / "writable" / "moved")
attempt("link in", os.link, outside / "to_link", inside / "writable" / "linked")
"""
    expected = dict.fromkeys(("read", "read through a link", "list", "write", "create", "remove", "move in"), "EACCES")
    # A link would give the file the rights of its new folder.
    assert_outcomes(tmp_path, code, expected | {"truncate": since(3, "EACCES"), "link in": "EXDEV"})


@needs_landlock
def test_readable_files_are_read_only(tmp_path: Path) -> None:
    code = """
confine()
attempt("read", (inside / "readable" / "file").read_text)
attempt("read a single file", (inside / "readable.txt").read_text)
attempt("list", os.listdir, inside / "readable")
attempt("execute", subprocess.run, ["/bin/sh", "-c", "cat readable.txt"], cwd=inside, check=True, capture_output=True)
attempt("write", (inside / "readable" / "file").write_text, "changed")
attempt("write a single file", (inside / "readable.txt").write_text, "changed")
attempt("create", (inside / "readable" / "new").write_text, "new")
attempt("make a folder", (inside / "readable" / "folder").mkdir)
attempt("remove", (inside / "readable" / "to_remove").unlink)
attempt("change the code", Path(landlock.__file__).open, "r+")
"""
    allowed = dict.fromkeys(("read", "read a single file", "list", "execute"), "works")
    refused = ("write", "write a single file", "create", "make a folder", "remove", "change the code")
    assert_outcomes(tmp_path, code, allowed | dict.fromkeys(refused, "EACCES"))


@needs_landlock
def test_writable_files_can_be_changed(tmp_path: Path) -> None:
    code = """
confine()
writable = inside / "writable"
attempt("create", (writable / "new").write_text, "new")
attempt("write a single file", (inside / "writable.txt").write_text, "changed")
attempt("truncate", os.truncate, writable / "new", 0)
attempt("remove", (writable / "new").unlink)
attempt("make a folder", (writable / "folder").mkdir)
attempt("remove a folder", (writable / "folder").rmdir)
attempt("move to another folder", os.rename, writable / "a" / "file", writable / "b" / "moved")
attempt("make a link", (writable / "link").symlink_to, "a")
attempt("make a pipe", os.mkfifo, writable / "pipe")
attempt("listen on a socket", lambda: (os.chdir(writable), socket.socket(socket.AF_UNIX).bind("s")))
attempt("discard", Path("/dev/null").write_text, "nothing")
"""
    made = ("create", "make a folder", "make a link", "make a pipe", "listen on a socket")
    changed = ("write a single file", "truncate", "remove", "remove a folder", "discard")
    # The first version has no right to move files to another folder.
    moved = {"move to another folder": "works" if ABI >= 2 else "EXDEV"}
    assert_outcomes(tmp_path, code, dict.fromkeys((*made, *changed), "works") | moved)


@needs_landlock
@pytest.mark.skipif(os.geteuid() != 0 or not DISKS, reason="only root can open disks")
def test_root_cannot_reach_disks_or_memory(tmp_path: Path) -> None:
    code = """
disk = next(path for path in Path("/dev").iterdir() if path.is_block_device())
confine()
attempt("read a disk", lambda: disk.open("rb").close())
attempt("make a disk", os.mknod, inside / "writable" / "disk", stat.S_IFBLK | 0o600, disk.stat().st_rdev)
attempt("make a device", os.mknod, inside / "writable" / "device", stat.S_IFCHR | 0o600, os.makedev(1, 1))
"""
    devices = dict.fromkeys(("read a disk", "make a disk", "make a device"), "EACCES")
    assert_outcomes(tmp_path, code, devices)


# --- Children and threads ------------------------------------------------------------------------------------------


@needs_landlock
def test_children_and_later_threads_are_confined(tmp_path: Path) -> None:
    code = """
def fork():
    child = os.fork()
    if child == 0:
        try:
            (outside / "file").read_text()
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    if status := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise OSError(status, "fork")

def execute():
    read = "import sys; print('started', flush=True); open(sys.argv[1]).read()"
    done = subprocess.run([sys.executable, "-c", read, outside / "file"], capture_output=True, text=True)
    results["started"] = done.stdout.strip()
    if done.returncode:
        raise OSError(errno.EACCES if "PermissionError" in done.stderr else errno.EIO, "execute")

confine()
thread = threading.Thread(target=attempt, args=("thread", (outside / "file").read_text))
thread.start()
thread.join()
attempt("fork", fork)
attempt("execute", execute)
assert results.pop("started", "") == "started"
"""
    assert_outcomes(tmp_path, code, dict.fromkeys(("thread", "fork", "execute"), "EACCES"))


@needs_landlock
def test_process_with_other_threads_is_refused(tmp_path: Path) -> None:
    code = """
def confine_beside_a_thread():
    try:
        confine()
    except RuntimeError as error:
        raise OSError(errno.EBUSY, str(error))

stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
attempt("confine", confine_beside_a_thread)
stop.set()
thread.join()
attempt("read", (outside / "file").read_text)
"""
    assert_outcomes(tmp_path, code, {"confine": "EBUSY", "read": "works"})


# --- Other processes -----------------------------------------------------------------------------------------------


OTHER_PROCESS = """
def seize(pid):
    checked(libc.ptrace, 0x4206, pid, None, None)  # PTRACE_SEIZE
    checked(libc.ptrace, 0x4207, pid, None, None)  # PTRACE_INTERRUPT
    os.waitpid(pid, 0)
    checked(libc.ptrace, 17, pid, None, None)  # PTRACE_DETACH

secret = ctypes.create_string_buffer(b"content")  # at the same address in the parent and in the child

def read_memory(pid):
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(ctypes.addressof(secret))
        assert memory.read(7) == b"content"

class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

def copy_memory(pid):
    copy, one = ctypes.create_string_buffer(8), ctypes.c_ulong(1)
    to, source = Vector(ctypes.addressof(copy), 7), Vector(ctypes.addressof(secret), 7)
    checked(libc.process_vm_readv, pid, ctypes.byref(to), one, ctypes.byref(source), one, ctypes.c_ulong(0))
    assert copy.value == b"content"

libc.prctl(0x59616D61, ctypes.c_ulong(-1))  # PR_SET_PTRACER, for kernels where Yama protects parents
reader, writer = os.pipe()
parent = os.getpid()
child = os.fork()
if child == 0:
    confine(*map(Path, sys.argv[2:]))
    attempt("its own environ", Path("/proc/self/environ").read_bytes)
    for name in ("environ", "maps", "auxv"):
        attempt(name, Path(f"/proc/{parent}/{name}").read_bytes)
    for name in ("exe", "cwd", "root", "fd/0"):
        attempt(name, os.readlink, f"/proc/{parent}/{name}")
    attempt("mem", read_memory, parent)
    attempt("process_vm_readv", copy_memory, parent)
    attempt("ptrace", seize, parent)
    attempt("signal", os.kill, parent, 0)
    os.write(writer, json.dumps(results).encode())
    os._exit(0)
os.close(writer)
with os.fdopen(reader) as pipe:
    results = json.load(pipe)
assert os.waitpid(child, 0) == (child, 0)
"""

REFUSED = (
    dict.fromkeys(("environ", "maps", "auxv", "exe", "cwd", "root", "fd/0", "mem"), "EACCES")
    | dict.fromkeys(("process_vm_readv", "ptrace"), "EPERM")
    | {"signal": since(6, "EPERM")}
)


@needs_landlock
def test_processes_outside_are_out_of_reach(tmp_path: Path) -> None:
    assert_outcomes(tmp_path, OTHER_PROCESS, REFUSED | {"its own environ": "EACCES"})


@needs_landlock
def test_other_processes_are_out_of_reach_without_the_rule_for_proc(tmp_path: Path) -> None:
    """Landlock restricts ptrace by itself. For root it is not enough: CAP_PERFMON opens `environ` and `maps`."""
    options = {"arguments": ("/proc",), "preexec_fn": as_ordinary_user}
    assert_outcomes(tmp_path, OTHER_PROCESS, REFUSED | {"its own environ": "works"}, **options)


@needs_landlock
def test_signals_pass_from_outside_and_within(tmp_path: Path) -> None:
    code = """
confine()
child = os.fork()
if child == 0:
    signal.pause()
os.kill(child, signal.SIGTERM)
assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready", flush=True)
signal.pause()
"""
    with start(tmp_path, code) as process:
        await_ready(process)
        process.terminate()
        assert process.wait(90) == 7


@needs_landlock
def test_proc_is_not_readable(tmp_path: Path) -> None:
    """It shows the command lines of all processes, and root the memory of the machine."""
    code = """
confine()
attempt("cmdline", Path(f"/proc/{os.getppid()}/cmdline").read_bytes)
attempt("list", os.listdir, "/proc")
"""
    assert_outcomes(tmp_path, code, {"cmdline": "EACCES", "list": "EACCES"})


# --- Sockets -------------------------------------------------------------------------------------------------------


@needs_landlock
def test_abstract_sockets_outside_are_out_of_reach(tmp_path: Path) -> None:
    """Landlock does not restrict connections to a socket with a path, nor TCP."""
    code = """
os.chdir(outside)
names = {"path": "s", "abstract": f"\\0strake-{os.getpid()}"}
servers = {name: socket.socket(socket.AF_UNIX) for name in names} | {"TCP": socket.create_server(("127.0.0.1", 0))}
for name, address in names.items():
    servers[name].bind(address)
    servers[name].listen()
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    confine()
    for name, server in servers.items():
        attempt(name, socket.socket(server.family).connect, server.getsockname())
    os.write(writer, json.dumps(results).encode())
    os._exit(0)
os.close(writer)
with os.fdopen(reader) as pipe:
    results = json.load(pipe)
assert os.waitpid(child, 0) == (child, 0)
"""
    assert_outcomes(tmp_path, code, {"path": "works", "abstract": since(6, "EPERM"), "TCP": "works"})


# --- Other kernels -------------------------------------------------------------------------------------------------


def test_rights_follow_the_version_of_the_interface() -> None:
    """From the table "Previous limitations" of the kernel's documentation of Landlock."""
    rights = [landlock._rights(abi) for abi in range(1, 9)]
    assert rights == [0x1FFF, 0x3FFF, 0x7FFF, 0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF]
    assert [landlock._scopes(abi) for abi in range(1, 9)] == [0, 0, 0, 0, 0, 3, 3, 3]


@needs_landlock
@pytest.mark.parametrize("abi", range(1, min(ABI, 6) + 1))
def test_older_interface_restricts_what_it_can(tmp_path: Path, abi: int) -> None:
    code = f"""
landlock._abi = lambda: {abi}
confine()
attempt("read outside", (outside / "file").read_text)
attempt("read", (inside / "readable" / "file").read_text)
attempt("write", (inside / "writable" / "file").write_text, "changed")
attempt("truncate outside", os.truncate, outside / "file", 0)
attempt("move", os.rename, inside / "writable" / "a" / "file", inside / "writable" / "b" / "moved")
attempt("signal", os.kill, os.getppid(), 0)
"""
    assert probe(tmp_path, code) == {
        "read outside": "EACCES",
        "read": "works",
        "write": "works",
        "truncate outside": "works" if abi < 3 else "EACCES",
        "move": "EXDEV" if abi < 2 else "works",
        "signal": "works" if abi < 6 else "EPERM",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is a part of Linux")
@pytest.mark.parametrize(
    ("refusal", "answer"),
    [
        ("ENOSYS", "False"),  # Linux before 5.13
        ("EOPNOTSUPP", "False"),  # disabled at boot
        ("EPERM", "False"),  # older container runtimes
        ("EIO", "EIO"),
    ],
)
def test_missing_support_is_told(tmp_path: Path, refusal: str, answer: str) -> None:
    code = f"""
import struct

# A seccomp filter: landlock_create_ruleset fails, every other system call is allowed.
refuse = 0x00050000 | errno.{refusal}
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, refuse), (0x06, 0, 0, 0x7FFF0000)]
program = b"".join(struct.pack("HBBI", *step) for step in steps)

class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]

checked(libc.prctl, 38, *map(ctypes.c_ulong, (1, 0, 0, 0)))
checked(libc.prctl, 22, 2, ctypes.byref(Filter(len(steps), program)), 0, 0)
try:
    results["answer"] = str(landlock.restrict(readable=[], writable=[]))
except OSError as error:
    results["answer"] = errno.errorcode[error.errno]
attempt("read", (outside / "file").read_text)
"""
    assert probe(tmp_path, code) == {"answer": answer, "read": "works"}


def test_other_systems_have_no_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert landlock.restrict(readable=[], writable=[]) is False


# --- Strake --------------------------------------------------------------------------------------------------------


def copy_of_the_project(folder: Path) -> Path:
    """Copy the code to a folder that also holds a data folder, as on a developer's machine."""
    for name in ("accounts", "credentials", "proxy", "strake", "templates"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "manage.py", folder)
    (folder / ".strake" / "vault").mkdir(parents=True)
    (folder / ".strake" / "vault" / "master-keys.json").write_text("content")
    return folder


DJANGO = """
os.environ["STRAKE_HOME"] = str(inside / "writable" / "home")
os.environ["DJANGO_SETTINGS_MODULE"] = "strake.settings"
from credentials.vault import keyring
from strake.data_dir import DataDir
from strake.env import Environment
DataDir.configured(Environment()).prepare(keyring.new_document)
"""


@needs_landlock
def test_django_runs_and_the_vault_is_out_of_reach(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "project")
    code = f"""
vault = Path({str(project)!r}, ".strake", "vault")
{DJANGO}
confine()
import ssl
import django
from django.conf import settings
from django.core.management import call_command
from django.template.loader import render_to_string

django.setup()
from strake import urls
results["project"] = str(settings.ROOT)
results["page"] = "<html" in render_to_string("bare.html")
results["roots"] = len(ssl.create_default_context().get_ca_certs())
results["processors"] = os.cpu_count()
attempt("migrate", call_command, "migrate", verbosity=0)
attempt("resolve", socket.getaddrinfo, "localhost", 80)
attempt("read the keyring", (vault / "master-keys.json").read_text)
attempt("list the vault", os.listdir, vault)
attempt("list the project", os.listdir, settings.ROOT)
"""
    free = probe(tmp_path / "free", code, confined=False, project=project)
    confined = probe(tmp_path / "confined", code, project=project)
    refused = ("read the keyring", "list the vault", "list the project")
    assert free["page"] is True
    assert free["roots"] > 0
    assert {free[name] for name in (*refused, "migrate", "resolve")} == {"works"}
    assert confined == free | dict.fromkeys(refused, "EACCES")


def test_no_path_holds_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with a virtual environment in the project's own folder, nor with that folder on the import path."""
    monkeypatch.setattr(sys, "prefix", str(ROOT))
    monkeypatch.setattr(sys, "path", ["", "/", str(ROOT), str(ROOT.parent), str(ROOT / "strake" / ".."), *sys.path])
    paths = [path.resolve() for path in landlock.code_paths()]
    assert ROOT / "lib" in paths
    assert not [path for path in paths if ROOT.is_relative_to(path)]


def test_folder_of_a_linked_resolver_file_is_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "resolv.conf").symlink_to("run/stub.conf")
    monkeypatch.setattr(landlock, "_RESOLVER", tmp_path / "resolv.conf")
    assert tmp_path / "run" in landlock.code_paths()


@needs_landlock
def test_trusted_roots_elsewhere_are_readable(tmp_path: Path) -> None:
    code = """
confine()
import ssl
results["roots"] = len(ssl.create_default_context().get_ca_certs())
"""
    authority = Authority(tmp_path / "authority")
    assert probe(tmp_path / "probe", code, SSL_CERT_FILE=str(authority.path)) == {"roots": 1}


@needs_landlock
@pytest.mark.postgres
def test_postgresql_can_be_used(tmp_path: Path, postgres_url: str) -> None:
    code = """
confine()
import psycopg
with psycopg.connect(os.environ["DATABASE_URL"], sslmode="require") as connection:
    results["one"] = connection.execute("SELECT 1").fetchone()
    results["encrypted"] = connection.pgconn.ssl_in_use
"""
    assert probe(tmp_path, code, DATABASE_URL=postgres_url) == {"one": [1], "encrypted": True}


GUNICORN = f"""
{DJANGO}
confine()
import django
from django.core.wsgi import get_wsgi_application
from gunicorn.app.base import BaseApplication

class Web(BaseApplication):
    def load_config(self):
        options = {{"bind": "unix:w.sock", "worker_class": "gthread", "threads": 2, "preload_app": True}}
        for name, value in (options | {{"control_socket_disable": True}}).items():
            self.cfg.set(name, value)

    def load(self):
        return get_wsgi_application()

os.chdir(inside / "writable")
print("ready", flush=True)
Web().run()
"""


def get(path: Path, target: str) -> int:
    """Request a page from a Unix socket, once it accepts. Returns the status."""
    with closing(http.client.HTTPConnection("localhost")) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        deadline = time.monotonic() + 90
        while connection.sock.connect_ex(os.path.relpath(path)):
            assert time.monotonic() < deadline, "it does not accept"
            time.sleep(0.05)
        connection.request("GET", target)
        return connection.getresponse().status


def worker_of(pid: int, *, other_than: int = 0) -> int:
    """Return the only child of a process, once it has one."""
    deadline = time.monotonic() + 90
    while True:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if len(children) == 1 and int(children[0]) != other_than:
            return int(children[0])
        assert time.monotonic() < deadline, "it has no worker"
        time.sleep(0.05)


@needs_landlock
def test_gunicorn_serves_and_replaces_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is limited to some 100 bytes
    web = tmp_path / "inside" / "writable" / "w.sock"
    with start(tmp_path, GUNICORN) as process:
        try:
            await_ready(process)
            assert get(web, "/security/") == 200
            assert get(web, "/static/strake/css/strake.css") == 200
            worker = worker_of(process.pid)
            os.kill(worker, signal.SIGKILL)
            assert worker_of(process.pid, other_than=worker)
            assert get(web, "/security/") == 200
        finally:
            process.terminate()
        assert process.wait(90) == 0
        assert not web.exists()
