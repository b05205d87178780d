"""The folder of the sockets between the two halves, and who may connect to them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pwd
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from strake.processes.runtime import Half, Runtime, allowed_uids, located, peer_uid

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

NOBODY = 65534
HALVES: list[Half] = ["proxy", "web"]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


# --- The folder ----------------------------------------------------------------------------------------------------


def test_constructing_touches_nothing(tmp_path: Path) -> None:
    made = Runtime(tmp_path / "run")
    assert made.web_socket == tmp_path / "run" / "web" / "web.sock"
    assert made.proxy_socket == tmp_path / "run" / "proxy" / "proxy.sock"
    assert made.wrap_socket == tmp_path / "run" / "proxy" / "wrap.sock"
    assert made.socket_mode == 0o600
    assert not made.folder.exists()


@pytest.mark.parametrize("umask", [0o077, 0])
def test_private_folder_is_created(tmp_path: Path, umask: int) -> None:
    made = Runtime(tmp_path / "deep" / "run")
    before = os.umask(umask)
    try:
        for half in (*HALVES, *HALVES):
            made.prepare(half)
    finally:
        os.umask(before)
    assert {mode(path) for path in (made.folder, *made.folder.iterdir())} == {0o700}
    assert sorted(path.name for path in made.folder.iterdir()) == HALVES
    assert made.socket_mode == 0o600


def test_private_folder_inherits_setgid(tmp_path: Path) -> None:
    """On Linux, new folders inherit the bit from their parent."""
    tmp_path.chmod(0o2700)
    made = Runtime(tmp_path / "run")
    made.prepare("web")
    assert made.socket_mode == 0o600


def shared(folder: Path) -> Runtime:
    """Create the folders as systemd-tmpfiles does, with this process as the owner of both halves."""
    for path in (folder, folder / "web", folder / "proxy"):
        path.mkdir()
        os.chown(path, -1, os.getegid())
        path.chmod(0o2750)
    return Runtime(folder)


def test_shared_folder_is_used_as_it_is(tmp_path: Path) -> None:
    made = shared(tmp_path / "run")
    for half in HALVES:
        made.prepare(half)
    assert {mode(path) for path in (made.folder, *made.folder.iterdir())} == {0o2750}
    assert made.socket_mode == 0o660


def remove(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def replace_by_a_link(folder: Path) -> None:
    remove(folder)
    folder.symlink_to("elsewhere")


def replace_by_a_file(folder: Path) -> None:
    remove(folder)
    folder.touch(0o700)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [(".", 0o2755), (".", 0o2770), (".", 0o750), (".", 0o2710), ("web", 0o2755), ("web", 0o750), ("web", 0o2700)],
)
def test_shared_folder_with_another_mode_is_refused(tmp_path: Path, path: str, wrong: int) -> None:
    made = shared(tmp_path / "run")
    (made.folder / path).chmod(wrong)
    with pytest.raises(ImproperlyConfigured, match=r"d .*/run/web 2750 WEB-USER GROUP"):
        made.prepare("web")
    assert mode(made.folder / path) == wrong, "nothing that somebody else made is changed"


@pytest.mark.parametrize("path", [".", "web"])
@pytest.mark.parametrize("damage", [replace_by_a_link, replace_by_a_file])
def test_shared_folder_that_is_none_is_refused(tmp_path: Path, path: str, damage: Callable[[Path], None]) -> None:
    made = shared(tmp_path / "run")
    damage(made.folder / path if path != "." else made.folder)
    with pytest.raises(ImproperlyConfigured, match="STRAKE_RUNTIME is"):
        made.prepare("web")


def test_shared_folder_without_that_of_the_half_is_refused(tmp_path: Path) -> None:
    made = shared(tmp_path / "run")
    remove(made.folder / "web")
    with pytest.raises(ImproperlyConfigured, match=r"d .*/run/web 2750 WEB-USER GROUP"):
        made.prepare("web")
    assert not (made.folder / "web").exists()


@only_root
@pytest.mark.parametrize(
    ("path", "user", "group"),
    [(".", NOBODY, 0), ("web", NOBODY, 0), ("web", 0, NOBODY)],
)
def test_shared_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, user: int, group: int
) -> None:
    made = shared(tmp_path / "run")
    os.chown(made.folder / path, user, group)
    (made.folder / path).chmod(0o2750)
    monkeypatch.setattr(os, "getgroups", lambda: [0, NOBODY])
    with pytest.raises(ImproperlyConfigured, match="with a group that has both users"):
        made.prepare("web")


@only_root
def test_shared_folder_with_another_group_is_refused(tmp_path: Path) -> None:
    made = shared(tmp_path / "run")
    for path in (made.folder, made.folder / "web"):
        os.chown(path, -1, NOBODY)
        path.chmod(0o2750)
    with pytest.raises(ImproperlyConfigured, match="with a group that has both users"):
        made.prepare("web")


@pytest.mark.parametrize(("path", "wrong"), [(".", 0o755), (".", 0o710), (".", 0o600), ("web", 0o755), ("web", 0o500)])
def test_private_folder_with_another_mode_is_refused(tmp_path: Path, path: str, wrong: int) -> None:
    made = Runtime(tmp_path / "run")
    made.prepare("web")
    (made.folder / path).chmod(wrong)
    with pytest.raises(ImproperlyConfigured, match="choose a folder that does not exist yet"):
        made.prepare("web")
    assert mode(made.folder / path) == wrong, "nothing that somebody else made is changed"


@pytest.mark.parametrize("path", [".", "web"])
def test_link_to_a_private_folder_is_refused(tmp_path: Path, path: str) -> None:
    made = Runtime(tmp_path / "run")
    made.prepare("web")
    replace_by_a_link(made.folder / path if path != "." else made.folder)
    with pytest.raises(ImproperlyConfigured, match="other users could reach or replace"):
        made.prepare("web")


@only_root
@pytest.mark.parametrize("path", [".", "web"])
def test_private_folder_of_somebody_else_is_refused(tmp_path: Path, path: str) -> None:
    made = Runtime(tmp_path / "run")
    made.prepare("web")
    os.chown(made.folder / path, NOBODY, -1)
    with pytest.raises(ImproperlyConfigured, match="must belong to that user"):
        made.prepare("web")


def test_folder_below_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ImproperlyConfigured, match=r"STRAKE_RUNTIME is .*/file/run, but .* Not a directory"):
        Runtime(tmp_path / "file" / "run").prepare("proxy")
    with pytest.raises(ImproperlyConfigured, match="File exists"):
        Runtime(tmp_path / "file").prepare("proxy")


# --- Paths that are too long ---------------------------------------------------------------------------------------

LONG = Path("/run", "x" * 90)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder, with a short folder for temporary files."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as temporary:
        monkeypatch.setattr(tempfile, "tempdir", temporary)
        yield tmp_path


def test_short_folder_is_used(home: Path) -> None:
    at_most = Path("/", "x" * (100 - len("//proxy/proxy.sock")))
    assert len(str(Runtime(at_most).proxy_socket)) == 100
    assert located(at_most, home) == Runtime(at_most)
    assert located(at_most.with_name(at_most.name + "x"), home) != Runtime(at_most.with_name(at_most.name + "x"))


def test_relative_folder_becomes_absolute(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    assert located(Path("run"), home).folder == Path("/tmp/run")


def test_length_is_counted_in_bytes(home: Path) -> None:
    assert located(Path("/", "é" * 60), home).folder.parent == Path(tempfile.gettempdir())


def test_long_path_falls_back_to_a_recorded_folder(home: Path) -> None:
    made = located(LONG, home)
    assert made.folder.parent == Path(tempfile.gettempdir())
    assert made.folder.name.startswith("strake-")
    assert mode(made.folder) == 0o700
    assert mode(home / "runtime") == 0o600
    made.prepare("web")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(made.web_socket))
    assert located(LONG, home) == made
    assert located(LONG, home, create=False) == made


def test_nothing_is_created_on_request(home: Path) -> None:
    assert located(LONG, home, create=False) == Runtime(LONG)
    assert located(LONG, home / "missing", create=False) == Runtime(LONG)
    assert not list(home.iterdir())
    assert not os.listdir(tempfile.gettempdir())
    (home / "runtime").write_text("/missing")
    assert located(LONG, home, create=False) == Runtime(LONG)
    assert (home / "runtime").read_text() == "/missing"


def open_to_others(folder: Path) -> None:
    folder.chmod(0o755)


def give_away(folder: Path) -> None:
    os.chown(folder, NOBODY, -1)


@pytest.mark.parametrize(
    "damage",
    [remove, replace_by_a_link, replace_by_a_file, open_to_others, pytest.param(give_away, marks=only_root)],
)
def test_unsafe_recorded_folder_is_replaced(home: Path, damage: Callable[[Path], None]) -> None:
    before = located(LONG, home)
    damage(before.folder)
    after = located(LONG, home)
    assert after != before
    assert mode(after.folder) == 0o700
    assert located(LONG, home) == after


@pytest.mark.parametrize("content", [b"", b"relative", b"/tmp/a\0b", b"\xff\xfe", b"/" + b"x" * 300])
def test_damaged_record_is_replaced(home: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(home)
    (home / "relative").mkdir(mode=0o700)
    (home / "runtime").write_bytes(content)
    made = located(LONG, home)
    assert made.folder.parent == Path(tempfile.gettempdir())
    assert located(LONG, home) == made


def test_recorded_folder_with_a_long_path_is_replaced(home: Path) -> None:
    long = home / ("x" * 90)
    long.mkdir(mode=0o700)
    (home / "runtime").write_text(str(long))
    assert located(LONG, home).folder != long


def _locate(home: str, temporary: str) -> str:
    tempfile.tempdir = temporary
    make = tempfile.mkdtemp

    def slowly(**named: str) -> str:
        time.sleep(0.3)  # without a lock, the other processes would read the record meanwhile
        return make(**named)

    tempfile.mkdtemp = slowly  # type: ignore[assignment]
    return str(located(LONG, Path(home)).folder)


@pytest.mark.parametrize("recorded", ["", "/missing"])
def test_concurrent_processes_agree(home: Path, recorded: str) -> None:
    if recorded:
        (home / "runtime").write_text(recorded)
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        seen = pool.starmap(_locate, [(str(home), tempfile.gettempdir())] * 16, chunksize=1)
        pool.close()  # and join: leaving the block would kill the workers while they write their coverage
        pool.join()
    assert len(set(seen)) == 1
    assert os.listdir(tempfile.gettempdir()) == [Path(seen[0]).name], "no folder is left over"


def test_unusable_data_folder_is_a_clear_error(home: Path) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"No such file or directory\. Set STRAKE_RUNTIME to a folder with a"
    ):
        located(LONG, home / "missing")


def test_long_temporary_folder_is_a_clear_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = home / ("x" * 90)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(ImproperlyConfigured, match="No folder for sockets can be created"):
        located(LONG, home)
    temporary.mkdir()
    with pytest.raises(ImproperlyConfigured, match="would be too long"):
        located(LONG, home)
    assert not list(temporary.iterdir())


# --- Who may connect -----------------------------------------------------------------------------------------------


def test_allowed_users() -> None:
    ours = os.geteuid()
    root = pwd.getpwuid(0).pw_name
    assert allowed_uids("") == {ours}
    assert allowed_uids(root) == {ours, 0}
    with pytest.raises(ImproperlyConfigured, match="STRAKE_WEB_USER is strake-nobody-has-this, but"):
        allowed_uids("strake-nobody-has-this")


def test_another_allowed_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert allowed_uids(pwd.getpwuid(0).pw_name) == {1234, 0}


CONNECT = """
import os, socket, sys
if sys.argv[2] != "same":
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
client.recv(1)
"""


@pytest.mark.parametrize("user", ["same", pytest.param(str(NOBODY), marks=only_root)])
def test_peer_is_known_by_its_user(user: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder, "s")
        listener.bind(str(path))
        Path(folder).chmod(0o755)
        path.chmod(0o666)
        listener.settimeout(90)
        listener.listen()
        with subprocess.Popen([sys.executable, "-c", CONNECT, str(path), user]) as client:
            connection, _ = listener.accept()
            with connection:
                uid = peer_uid(connection)
            assert client.wait(90) == 0
    assert uid == (os.geteuid() if user == "same" else NOBODY)


def test_socket_without_a_peer_has_no_user() -> None:
    with socket.socket(socket.AF_UNIX) as unconnected:
        assert peer_uid(unconnected) is None
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as accepted,
    ):
        assert peer_uid(client) is None
        assert peer_uid(accepted) is None


class SocketOnMacOS(socket.socket):
    """A socket with the answer of macOS: a `struct xucred`, or an error."""

    answer: bytes | OSError

    def getsockopt(self, *question: int) -> bytes:  # type: ignore[override]
        assert question[:2] == (0, 1)  # SOL_LOCAL, LOCAL_PEERCRED
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer[: question[2]]


@pytest.mark.parametrize(
    ("family", "answer", "uid"),
    [
        (socket.AF_UNIX, struct.pack("IIh16I", 0, 501, 1, *[20] * 16), 501),
        (socket.AF_UNIX, struct.pack("IIh16I", 1, 501, 1, *[20] * 16), None),  # another version of the structure
        (socket.AF_UNIX, OSError(errno.ENOTCONN, "Socket is not connected"), None),
        (socket.AF_INET, bytes(76), None),  # the same option is another one for TCP
    ],
    ids=["connected", "other version", "not connected", "TCP"],
)
def test_peer_on_macos(
    monkeypatch: pytest.MonkeyPatch, family: socket.AddressFamily, answer: bytes | OSError, uid: int | None
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with SocketOnMacOS(family) as connection:
        connection.answer = answer
        assert peer_uid(connection) == uid


def test_peer_on_other_systems_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "freebsd14")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_uid(ours) is None
