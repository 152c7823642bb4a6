"""The store on a local or mounted file system, by temporary file, fsync and hard link.

fsspec's own create on local files opens the final name and then writes, so a reader can meet half
an object and a killed writer leaves one for ever. Here the final name appears in one step, on bytes
that are already on the disk.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from cluster.errors import Conflict, Corrupt, NotFound, OutcomeUnknown, Unavailable
from cluster.logs.events import EventLog
from cluster.store.paths import TEMP_FOLDER, checked_path
from cluster.store.stored_object import StoredObject

log = EventLog(__name__)

CHUNK_BYTES = 4 * 2**20
TEMP_AGE_MAX_MS = 24 * 3600 * 1000
# Errors of link(2) after which it certainly made no link; any other failure (a network mount) may
# hide a success.
_NO_LINK_MADE = frozenset(
    (
        errno.EPERM,
        errno.EACCES,
        errno.EOPNOTSUPP,
        errno.EXDEV,
        errno.EMLINK,
        errno.EROFS,
        errno.ENOSPC,
    )
)


class LocalStore:
    """An ObjectStore in the folder `root`, for the processes of a machine or of those that mount
    it.

    The file system must know hard links. The guarantees are those of `ObjectStore`. Once it has
    been written through this value or one that this was pickled from, a root without what was made
    there is Unavailable, and neither empty nor made anew: it is a share that is not mounted.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._is_made = False
        self._unsynced: set[Path] = set()
        """Folders in which the name of something written may not be on the disk."""

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    def get(self, path: str) -> bytes:
        with self._open(path) as file:
            return file.read()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        with self._open(path) as file:
            file.seek(start)
            return file.read(length)

    def put_if_absent(self, path: str, data: bytes) -> None:
        def write(file: BinaryIO) -> None:
            file.write(data)

        self._create(path, write)

    def upload_if_absent(self, path: str, source: Path, sha256: str) -> None:
        def write(file: BinaryIO) -> None:
            digest = hashlib.sha256()
            with source.open("rb") as reader:
                while chunk := reader.read(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != sha256:
                raise Corrupt(f"{source.name} changed while it was being stored as {path}")

        self._create(path, write)

    def put(self, path: str, data: bytes) -> None:
        target = self.root / checked_path(path)
        try:
            with self._temp_file() as (file, temp):
                file.write(data)
                _sync(file)
                self._make_folder(target.parent)
                temp.replace(target)
                _sync_folder(target.parent)
        except OSError as error:
            raise Unavailable(f"cannot write {target}: {error}") from error

    def exists(self, path: str) -> bool:
        target = self.root / checked_path(path)
        try:
            return stat.S_ISREG(target.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            self._check_is_there()
            return False
        except OSError as error:
            # A mount that hangs or is gone must not pass for a log without news.
            raise Unavailable(f"cannot look at {target}: {error}") from error

    def size(self, path: str) -> int:
        with self._open(path) as file:
            return os.fstat(file.fileno()).st_size

    def list_names(self, folder: str, start_after: str | None = None) -> list[str]:
        with _typed(f"list {folder}"):
            names = [entry.name for entry in self._scan(folder) if entry.is_file()]
        return sorted(name for name in names if start_after is None or name > start_after)

    def list_objects(self, folder: str) -> list[StoredObject]:
        objects: list[StoredObject] = []
        with _typed(f"list {folder}"):
            for entry in self._scan(folder):
                try:
                    if entry.is_file():
                        objects.append(_stored(entry))
                except FileNotFoundError:
                    log.debug(
                        "store.file_gone", "{path} was removed by somebody else", path=entry.path
                    )
        return sorted(objects, key=lambda stored: stored.name)

    def list_folders(self, folder: str) -> list[str]:
        with _typed(f"list {folder}"):
            return sorted(entry.name for entry in self._scan(folder) if entry.is_dir())

    def remove(self, path: str) -> None:
        target = self.root / checked_path(path)
        try:
            target.unlink(missing_ok=True)
        except NotADirectoryError:
            log.debug("store.nothing_to_remove", "{path} was not there to be removed", path=path)
        except OSError as error:
            raise Unavailable(f"cannot remove {target}: {error}") from error

    def sweep_temp_files(self, now_ms: int) -> None:
        """Removes what killed writers left behind, once it is too old to belong to a living one."""
        for entry in self._scan_folder(self.root / TEMP_FOLDER):
            try:
                if now_ms - entry.stat().st_mtime_ns // 1_000_000 > TEMP_AGE_MAX_MS:
                    os.unlink(entry.path)
            except FileNotFoundError:
                log.debug("store.file_gone", "{path} was removed by somebody else", path=entry.path)
            except OSError as error:
                # Another user's, perhaps: it takes up space and does no other harm.
                log.warning(
                    "store.temp_file_stays",
                    "a temporary file stays in the store: {error}",
                    error=error,
                )

    @contextmanager
    def _open(self, path: str) -> Iterator[BinaryIO]:
        target = self.root / checked_path(path)
        self._sync_again(target.parent)
        try:
            file = target.open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            self._check_is_there()
            raise NotFound(f"{path} is not in the store") from error
        except OSError as error:
            raise Unavailable(f"cannot read {target}: {error}") from error
        try:
            with file:
                yield file
        except OSError as error:
            raise Unavailable(f"cannot copy {target}: {error}") from error

    def _create(self, path: str, write: Callable[[BinaryIO], None]) -> None:
        target = self.root / checked_path(path)
        try:
            if target.exists():
                raise Conflict(f"{path} exists already")
            with self._temp_file() as (file, temp):
                write(file)
                _sync(file)
                self._make_folder(target.parent)
                self._link(temp, target, path)
        except OSError as error:
            raise Unavailable(f"cannot write {target}: {error}") from error

    def _link(self, temp: Path, target: Path, path: str) -> None:
        try:
            os.link(temp, target)
        except FileExistsError as error:
            raise Conflict(f"{path} exists already") from error
        except OSError as error:
            if error.errno in _NO_LINK_MADE:
                raise Unavailable(f"no hard link could be made at {target}: {error}") from error
            raise OutcomeUnknown(f"{path} may or may not have been written: {error}") from error
        try:
            _sync_folder(target.parent)
        except OSError as error:
            self._unsynced.add(target.parent)
            raise OutcomeUnknown(
                f"{path} may not outlast a crash of the machine: {error}"
            ) from error

    def _sync_again(self, folder: Path) -> None:
        """Forces the folder's entries to the disk, since a writer that reads its object back counts
        it as written.
        """
        if folder in self._unsynced:
            with _typed(f"sync {folder}"):
                _sync_folder(folder)
            self._unsynced.discard(folder)

    @contextmanager
    def _temp_file(self) -> Iterator[tuple[BinaryIO, Path]]:
        """A new file outside of every listed folder, gone at the end whatever happens."""
        self._check_is_there()
        temp = self.root / TEMP_FOLDER / uuid4().hex
        temp.parent.mkdir(parents=True, exist_ok=True)
        self._is_made = True
        try:
            with temp.open("xb") as file:
                yield file, temp
        finally:
            try:
                temp.unlink(missing_ok=True)
            except OSError as error:
                # Only the clean-up failed: the outcome of the write is reported elsewhere.
                log.warning(
                    "store.temp_file_stays",
                    "a temporary file stays in the store: {error}",
                    error=error,
                )

    def _check_is_there(self) -> None:
        # A log that looks empty would be begun anew, beside the true one.
        with _typed(f"look at {self.root}"):
            is_there = not self._is_made or (self.root / TEMP_FOLDER).is_dir()
        if not is_there:
            raise Unavailable(f"the store is gone from {self.root}: is the share mounted?")

    def _make_folder(self, folder: Path) -> None:
        """Makes the folder and its parents, each of them on the disk before anything is put in
        it.
        """
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)

    def _scan(self, folder: str) -> Iterator[os.DirEntry[str]]:
        return self._scan_folder(self.root / checked_path(folder))

    def _scan_folder(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                yield from entries
        except (FileNotFoundError, NotADirectoryError):
            self._check_is_there()
            return
        except OSError as error:
            raise Unavailable(f"cannot list {folder}: {error}") from error


@contextmanager
def _typed(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"cannot {doing}: {error}") from error


def _stored(entry: os.DirEntry[str]) -> StoredObject:
    status = entry.stat()
    modified_ms = status.st_mtime_ns // 1_000_000
    return StoredObject(name=entry.name, size_bytes=status.st_size, modified_ms=modified_ms)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
