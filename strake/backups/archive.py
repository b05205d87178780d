"""The file of a backup: a ZIP archive of a database dump and a manifest.

    dump             the database: an SQLite file, or pg_dump's custom format
    manifest.json    what the dump holds, and its SHA-256

It holds the ids of the master keys with their check values, which reveal nothing about the keys, and never a key.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol, Self

FORMAT = 1
DUMP, MANIFEST = "dump", "manifest.json"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024


class BackupError(Exception):
    """A backup cannot be made or restored. The message says what to do, and nothing has been changed."""


class DamagedBackup(BackupError):
    """The file is not a backup, or it has changed since it was made."""


@dataclass(frozen=True, slots=True)
class MasterKeyUse:
    """A master key that the database knows: its check value in hexadecimal, and how many records it wraps."""

    check_value: str
    records: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a dump holds. Times are ISO 8601, by the database's clock. `tables` maps each table to its rows."""

    database: str  # "sqlite" or "postgresql"
    schema: str
    taken_at: str
    migrations: list[str]
    tables: dict[str, int]
    master_keys: dict[str, MasterKeyUse]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest. `version` is Strake's."""

    version: str
    contents: Contents
    sha256: str
    format: int = FORMAT


class Writer(Protocol):
    """A stream that a dump is written to."""

    def write(self, chunk: bytes, /) -> object: ...


class Engine(Protocol):
    """How to dump one kind of database. `folder` is private, for temporary files. Each raises `BackupError`."""

    def dump(self, stream: Writer, folder: Path) -> Contents: ...

    def verify(self, stream: IO[bytes], folder: Path, expected: Contents) -> None: ...

    def load(self, stream: IO[bytes], folder: Path, expected: Contents) -> None: ...


def write(path: Path, engine: Engine, *, version: str) -> Manifest:
    """Write a backup with mode 0600, read it again, and only then give it its name.

    Raises `BackupError`, also if `path` exists.
    """
    if path.exists() or path.is_symlink():
        raise BackupError(f"{path} exists. Choose another name.")
    try:
        with tempfile.TemporaryDirectory(prefix=".strake-backup-", dir=path.parent) as name:
            draft = Path(name) / "draft"
            manifest = _write_draft(draft, engine, version=version)
            with OpenBackup(draft) as backup:
                if backup.manifest != manifest:
                    raise DamagedBackup(f"What was written to {path.parent} is not what came back. Check the disk.")
                with backup.dump() as stream:
                    engine.verify(stream, draft.parent, manifest.contents)
            _give_name(draft, path)
    except OSError as error:
        raise BackupError(f"{path} cannot be written: {error.strerror or error}.") from None
    return manifest


class OpenBackup:
    """A backup that is open for reading, as a context manager.

    Entering it raises `DamagedBackup`, or `BackupError` if the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        try:
            self._archive = zipfile.ZipFile(self._path)
            with self._archive.open(MANIFEST) as file:
                self.manifest = _parse(file.read(MAX_MANIFEST_BYTES))
        except OSError as error:
            raise BackupError(f"{self._path} cannot be read: {error.strerror}.") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, TypeError):
            raise DamagedBackup(f"{self._path} is not a backup that Strake made, or it is cut off.") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    @contextmanager
    def dump(self) -> Iterator[IO[bytes]]:
        """The dump, after its checksum was found right. Raises `DamagedBackup`."""
        try:
            with self._archive.open(DUMP) as file:
                hashing = hashlib.sha256()
                while chunk := file.read(1024 * 1024):
                    hashing.update(chunk)
                found = hashing.hexdigest()
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError):
            found = ""
        if found != self.manifest.sha256:
            raise DamagedBackup(f"{self._path} is damaged: its dump has another checksum than the manifest says.")
        with self._archive.open(DUMP) as file:
            yield file


def _parse(text: bytes) -> Manifest:
    """Raises `ValueError`, `KeyError` or `TypeError` if the text is no manifest, and `BackupError` for a newer one."""
    data: Mapping[str, Any] = json.loads(text)
    if data["format"] != FORMAT:
        raise BackupError("A newer version of Strake made this backup. Install that version, or a later one.")
    contents = dict(data["contents"])
    keys = {key_id: MasterKeyUse(**use) for key_id, use in contents.pop("master_keys").items()}
    return Manifest(data["version"], Contents(**contents, master_keys=keys), data["sha256"])


def _write_draft(draft: Path, engine: Engine, *, version: str) -> Manifest:
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open(DUMP, "w", force_zip64=True) as member:
                hashing = _Hashing(member)
                contents = engine.dump(hashing, draft.parent)
            manifest = Manifest(version, contents, hashing.sha256.hexdigest())
            archive.writestr(MANIFEST, json.dumps(asdict(manifest), indent=1))
        file.flush()
        os.fsync(file.fileno())
    return manifest


def _give_name(draft: Path, path: Path) -> None:
    """Raises `BackupError` if something else has got that name meanwhile."""
    try:
        os.link(draft, path)  # unlike a rename, this never replaces a file
    except FileExistsError:
        raise BackupError(f"{path} exists. Choose another name.") from None
    except OSError:
        draft.rename(path)  # a file system without hard links
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class _Hashing:
    """A stream that passes on what is written to it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def write(self, chunk: bytes, /) -> int:
        self.sha256.update(chunk)
        return self._stream.write(chunk)
