"""Room in a node's cache of artifacts: what may go when it is full, and what must stay.

    guard           held (flock) for moments: while a maker notes what it counts on, while a
                    folder is pinned, and while space is made
    locks/{key}     held while a folder is made; says which blobs its maker counts on
    pins/{key}      held, shared, by every process that uses the folder
    bytes_max       the limit, for all processes of the node

All locks are of the kernel's: a killed process lets go of them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import orjson

from cluster.errors import Unavailable
from cluster.logs.events import EventLog
from cluster.store.file_lock import locked, try_lock

log = EventLog(__name__)

_pins: dict[Path, int] = {}
"""Open files by the pin that they hold: one for each folder that this process uses."""
_pinning = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Blob:
    path: Path
    sha256: str
    size_bytes: int
    used_at_ns: int
    is_linked: bool
    """True when a folder holds the blob."""


class CacheSpace:
    """Keeps a cache folder below its limit by removing what was used least recently.

    What is being made, and folders that a process has pinned, stay whatever the limit says.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def bytes_max(self) -> int | None:
        """The limit; None where none was set."""
        try:
            text = (self._folder / "bytes_max").read_text().strip()
        except FileNotFoundError:
            return None
        return int(text) if text.isdigit() else None

    def limit(self, bytes_max: int | None) -> None:
        """Sets the limit for every process of the node, and makes room if it is exceeded."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temp = self._folder / f".{uuid4().hex}"
        temp.write_text("" if bytes_max is None else str(bytes_max))
        temp.replace(self._folder / "bytes_max")
        self.make_room(0)

    def pin(self, key: str) -> None:
        """This process uses the folder until it unpins the folder or ends."""
        path = self._pin_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._guarded(), _pinning:
            if path in _pins:
                return
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            _pins[path] = descriptor

    def unpin(self, key: str) -> None:
        """This process uses the folder no more; nothing happens to what it has open or mapped."""
        with _pinning:
            descriptor = _pins.pop(self._pin_path(key), None)
        if descriptor is not None:
            self._touch(key)
            os.close(descriptor)

    @contextmanager
    def making(self, key: str, sha256s: Sequence[str]) -> Iterator[None]:
        """The block makes the folder, and no other process does; the blobs of these hashes stay."""
        lock = self._folder / "locks" / key
        lock.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock) as file:
            with self._guarded():
                file.truncate(0)
                file.write(orjson.dumps(sorted(sha256s)))
                file.flush()
            yield
            self._touch(key)

    def make_room(self, needed_bytes: int) -> int:
        """Removes what was used least recently until `needed_bytes` more would fit. Returns the
        number of bytes removed.

        When that cannot be reached, it says so in the log, and the cache exceeds its limit.
        """
        bytes_max = self.bytes_max
        if bytes_max is None:
            return 0
        with self._guarded():
            counted_on = self._counted_on()
            blobs = self._blobs()
            excess = sum(blob.size_bytes for blob in blobs) + needed_bytes - bytes_max
            removed = 0
            loose = (b for b in blobs if not b.is_linked and b.sha256 not in counted_on)
            for blob in sorted(loose, key=lambda blob: blob.used_at_ns):
                if removed < excess:
                    removed += _remove_blob(blob)
            for folder in self._folders_by_use():
                if removed < excess and self._is_idle(folder.name):
                    removed += self._remove_folder(folder, counted_on)
        if removed < excess:
            log.warning(
                "cache.over_limit",
                "the cache {folder} is over its limit of {bytes_max} bytes by {excess}: all of the "
                "rest is in use",
                folder=self._folder,
                bytes_max=bytes_max,
                excess=excess - removed,
            )
        return removed

    def _remove_folder(self, folder: Path, counted_on: set[str]) -> int:
        log.info(
            "cache.folder_removed",
            "{folder} is removed from the cache: it was used least recently",
            folder=folder,
        )
        # A process that is killed meanwhile must not leave half a folder under its name.
        trash = self._folder / "trash" / uuid4().hex
        trash.parent.mkdir(exist_ok=True)
        folder.rename(trash)
        shutil.rmtree(trash.parent)
        loose = (b for b in self._blobs() if not b.is_linked and b.sha256 not in counted_on)
        return sum(_remove_blob(blob) for blob in loose)

    def _is_idle(self, key: str) -> bool:
        if not _is_free(self._folder / "locks" / key):
            return False
        if _is_free(self._pin_path(key)):
            return True
        # In use for as long as it is pinned, not only when that began.
        self._touch(key)
        return False

    def _counted_on(self) -> set[str]:
        """Hashes of the blobs that folders need which are being made."""
        found: set[str] = set()
        for lock in _entries(self._folder / "locks"):
            if not _is_free(Path(lock.path)):
                text = Path(lock.path).read_bytes()
                # Empty: its maker has looked at nothing yet, and waits for the guard.
                found.update(orjson.loads(text) if text else ())
        return found

    def _blobs(self) -> list[_Blob]:
        """Files that are not whole yet are blobs, too, which no folder can hold."""
        blobs: list[_Blob] = []
        for shelf in _entries(self._folder / "blobs"):
            for entry in _entries(Path(shelf.path)):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                blobs.append(
                    _Blob(
                        path=Path(entry.path),
                        sha256=entry.name.removeprefix(".").partition(".")[0],
                        size_bytes=status.st_size,
                        used_at_ns=status.st_mtime_ns,
                        is_linked=status.st_nlink > 1,
                    )
                )
        return blobs

    def _folders_by_use(self) -> list[Path]:
        folders = [Path(entry.path) for entry in _entries(self._folder / "folders")]
        return sorted(folders, key=lambda folder: folder.stat().st_mtime_ns)

    def _touch(self, key: str) -> None:
        folder = self._folder / "folders" / key
        try:
            os.utime(folder)
        except FileNotFoundError:
            log.debug("cache.folder_gone", "{folder} is not there (any more)", folder=folder)

    def _pin_path(self, key: str) -> Path:
        return self._folder / "pins" / key

    def _guarded(self) -> AbstractContextManager[BinaryIO]:
        return locked(self._folder / "guard")


def _remove_blob(blob: _Blob) -> int:
    # A partial file that a process writes to stays its own: it finds out by the name that is gone.
    blob.path.unlink(missing_ok=True)
    return blob.size_bytes


def _is_free(lock: Path) -> bool:
    """True when no process holds the lock."""
    try:
        with lock.open("rb") as file:
            return try_lock(file)
    except FileNotFoundError:
        return True


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unavailable(f"cannot look into the cache {folder}: {error}") from error
