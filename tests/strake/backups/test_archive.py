"""The file of a backup: complete, checked, private, and never in the place of another."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from strake.backups import archive
from strake.backups.archive import BackupError, Contents, DamagedBackup, MasterKeyUse, OpenBackup, Writer

CONTENTS = Contents("sqlite", "", "2026-11-30T10:00:00+00:00", ["a.0001"], {"t": 3}, {"k": MasterKeyUse("ab", 2)})
ROWS = b"rows" * 1000


class Engine:
    """Dumps `ROWS`. `problem` is what checking them finds."""

    problem: BackupError | None = None

    def dump(self, stream: Writer, folder: Path) -> Contents:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        stream.write(ROWS)
        return CONTENTS

    def verify(self, stream: IO[bytes], folder: Path, expected: Contents) -> None:
        assert (stream.read(), expected) == (ROWS, CONTENTS)
        if self.problem is not None:
            raise self.problem

    def load(self, stream: IO[bytes], folder: Path, expected: Contents) -> None: ...


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    path = tmp_path / "one.backup"
    archive.write(path, Engine(), version="1.2.3")
    return path


def test_backup_holds_dump_and_manifest(backup: Path) -> None:
    with OpenBackup(backup) as found:
        assert (found.manifest.version, found.manifest.contents) == ("1.2.3", CONTENTS)
        with found.dump() as stream:
            assert stream.read() == ROWS


def test_backup_is_private_and_alone(backup: Path) -> None:
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert list(backup.parent.iterdir()) == [backup]


@pytest.mark.parametrize(
    "make", [lambda path: path.write_text("mine"), lambda path: path.symlink_to("nowhere")], ids=["file", "link"]
)
def test_existing_file_is_never_replaced(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    path = tmp_path / "one.backup"
    make(path)
    before = path.lstat()
    with pytest.raises(BackupError, match="exists"):
        archive.write(path, Engine(), version="1")
    assert path.lstat() == before
    assert list(tmp_path.iterdir()) == [path]


def test_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "one.backup"

    class Slow(Engine):
        def dump(self, stream: Writer, folder: Path) -> Contents:
            path.write_text("mine")
            return super().dump(stream, folder)

    with pytest.raises(BackupError, match="exists"):
        archive.write(path, Slow(), version="1")
    assert path.read_text() == "mine"


def test_backup_that_cannot_be_restored_gets_no_name(tmp_path: Path) -> None:
    engine = Engine()
    engine.problem = DamagedBackup("cannot be read")
    with pytest.raises(DamagedBackup):
        archive.write(tmp_path / "one.backup", engine, version="1")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="No such file or directory"):
        archive.write(tmp_path / "missing" / "one.backup", Engine(), version="1")


def test_changed_dump_is_refused(backup: Path) -> None:
    with zipfile.ZipFile(backup) as before:
        manifest = before.read(archive.MANIFEST)
    with zipfile.ZipFile(backup, "w") as after:
        after.writestr(archive.DUMP, ROWS.replace(b"r", b"R"))
        after.writestr(archive.MANIFEST, manifest)
    with OpenBackup(backup) as found, pytest.raises(DamagedBackup, match="checksum"), found.dump():
        pass


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_cut_file_is_refused(backup: Path, keep: int) -> None:
    backup.write_bytes(backup.read_bytes()[:keep])
    with pytest.raises(DamagedBackup), OpenBackup(backup) as found, found.dump():
        pass


def test_flipped_bits_are_refused(backup: Path) -> None:
    content = bytearray(backup.read_bytes())
    content[60] ^= 0xFF  # in the compressed dump, behind its header
    backup.write_bytes(content)
    with pytest.raises(DamagedBackup), OpenBackup(backup) as found, found.dump():
        pass


def test_backup_of_a_newer_format_names_the_way_out(backup: Path) -> None:
    with zipfile.ZipFile(backup) as before:
        manifest = json.loads(before.read(archive.MANIFEST))
    with zipfile.ZipFile(backup, "w") as after:
        after.writestr(archive.MANIFEST, json.dumps({**manifest, "format": 2}))
    with pytest.raises(BackupError, match="newer version"), OpenBackup(backup):
        pass
