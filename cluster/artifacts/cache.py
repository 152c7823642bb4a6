"""A node's copies of artifacts: fetched once, verified byte by byte whenever they are opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import orjson

from cluster.artifacts.artifacts import Artifacts, checked_files
from cluster.artifacts.cache_space import CacheSpace
from cluster.artifacts.files import ArtifactFile, sha256_of
from cluster.artifacts.weight_delta import apply_delta
from cluster.errors import Corrupt
from cluster.logs.events import EventLog
from cluster.progress import UNSEEN, Count

log = EventLog(__name__)

_FETCHERS = 4
_READ_ONLY = 0o444


class ArtifactCache:
    """Artifacts as local folders, shared by the processes of a node.

        blobs/ab/{sha256}        each content once, read-only
        blobs/ab/.{sha256}.partial   the beginning of a content whose fetch broke off
        blobs/ab/.{sha256}.rebuilt   what is being made of a base and a delta
        folders/{key}/{path}     hard links to blobs, one folder for each set of files
        locks, pins, guard       see `cluster.artifacts.cache_space`

    A file that a process has open or mapped keeps its bytes when the cache mends or replaces it.
    """

    def __init__(self, artifacts: Artifacts, folder: Path) -> None:
        self.artifacts = artifacts
        self.folder = folder.absolute()
        self._space = CacheSpace(self.folder)

    def __reduce__(self) -> tuple[type[ArtifactCache], tuple[Artifacts, Path]]:
        # To a task or an actor of Ray goes the folder's name; it is a folder of that node there.
        return ArtifactCache, (self.artifacts, self.folder)

    def folder_for(self, files: Sequence[ArtifactFile], count: Count = UNSEEN.count) -> Path:
        """A folder with exactly these files, every byte of them hashed during this call.

        `count` gets the bytes of each file that has to be fetched. The folder stays until
        this process ends or calls `unpin`. A cached file with other bytes is fetched again; a file
        stored as a delta is rebuilt from its base. Raises Corrupt when the
        store's copy is no better, or for a path that would leave the folder; NotFound and
        Unavailable as the store does. Waits for another process that is making the same folder.
        """
        wanted = checked_files(files)
        key = _key(wanted)
        folder = self.folder / "folders" / key
        blobs = {file.sha256: file for file in wanted}
        counted_on = [needed.sha256 for file in wanted for needed in (file, *file.blobs)]
        self._space.pin(key)
        with self._space.making(key, counted_on), ThreadPoolExecutor(_FETCHERS) as fetchers:
            missing = [file for file in blobs.values() if not self._blob(file).is_file()]
            if missing:
                self._space.make_room(sum(self._fetched_bytes(file) for file in missing))
            list(fetchers.map(lambda file: self._ensure_blob(file, count), blobs.values()))
            folder.mkdir(parents=True, exist_ok=True)
            for file in wanted:
                self._link(self._blob(file), folder / file.path)
            _remove_others(folder, {folder / file.path for file in wanted})
        return folder

    def holds(self, files: Sequence[ArtifactFile]) -> bool:
        """True when all of the content is in the cache. Its bytes are not checked."""
        blobs = [(self._blob(file), file.size_bytes) for file in files]
        return all(b.is_file() and b.stat().st_size == size_bytes for b, size_bytes in blobs)

    def pin(self, files: Sequence[ArtifactFile]) -> None:
        """Keeps the folder of these files, now or once it is made, until this process ends."""
        self._space.pin(_key(checked_files(files)))

    def unpin(self, files: Sequence[ArtifactFile]) -> None:
        """Ends `pin`: the folder may go when space is needed, unless another process uses it."""
        self._space.unpin(_key(checked_files(files)))

    def limit(self, bytes_max: int | None) -> None:
        """Sets how much the cache of this node may hold, for all of its processes; None: anything.

        What is in use stays even beyond that.
        """
        self._space.limit(bytes_max)

    def _blob(self, file: ArtifactFile) -> Path:
        return self.folder / "blobs" / file.sha256[:2] / file.sha256

    def _fetched_bytes(self, file: ArtifactFile) -> int:
        """Number of bytes that the cache grows by with this file."""
        lacking = (
            needed
            for needed in file.blobs
            if needed is not file and not self._blob(needed).is_file()
        )
        return file.size_bytes + sum(needed.size_bytes for needed in lacking)

    def _ensure_blob(self, file: ArtifactFile, count: Count) -> None:
        blob = self._blob(file)
        if blob.is_file():
            if _holds(blob, file):
                return
            log.warning(
                "cache.damaged",
                "{blob} ({path}) was damaged in the cache; fetching it again",
                blob=blob,
                path=file.path,
            )
        if file.delta is None or self._is_cheaper_whole(file):
            self.artifacts.fetch(file, blob, count)
        else:
            self._rebuild(file, blob, count)
        blob.chmod(_READ_ONLY)

    def _is_cheaper_whole(self, file: ArtifactFile) -> bool:
        """True when the cache lacks the base to build on, and the store holds the whole file."""
        base, _ = file.blobs
        return not self._blob(base).is_file() and self.artifacts.is_stored(file)

    def _rebuild(self, file: ArtifactFile, blob: Path, count: Count) -> None:
        base, delta = file.blobs
        with self._space.making(file.sha256, [base.sha256, delta.sha256]):
            if blob.is_file() and _holds(blob, file):
                return  # another process, for another folder, was faster
            for needed in (base, delta):
                self._ensure_blob(needed, count)
            # The name carries the file's hash, so eviction treats this temporary file as in use.
            temp = blob.parent / f".{file.sha256}.rebuilt"
            temp.parent.mkdir(parents=True, exist_ok=True)
            try:
                apply_delta(self._blob(base), self._blob(delta), temp)
                if not _holds(temp, file):
                    raise Corrupt(
                        f"the delta {delta.sha256} does not make {file.path} ({file.sha256})"
                    )
                temp.replace(blob)
            finally:
                temp.unlink(missing_ok=True)
            # All that it says is in the blob now.
            self._blob(delta).unlink(missing_ok=True)

    def _link(self, blob: Path, target: Path) -> None:
        """Makes `target` a name of the blob just verified; one that is not may hold anything."""
        if target.is_file() and not target.is_symlink() and target.samefile(blob):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temp = target.parent / f".{uuid4().hex}"
        try:
            os.link(blob, temp)
            temp.replace(target)
        except (IsADirectoryError, FileNotFoundError) as error:
            raise Corrupt(f"{target} was changed by somebody else: {error}") from error
        finally:
            temp.unlink(missing_ok=True)


def _key(wanted: Sequence[ArtifactFile]) -> str:
    listed = [[file.path, file.sha256, file.size_bytes] for file in wanted]
    return hashlib.sha256(orjson.dumps(listed)).hexdigest()


def _holds(blob: Path, file: ArtifactFile) -> bool:
    try:
        return blob.stat().st_size == file.size_bytes and sha256_of(blob) == file.sha256
    except OSError as error:
        log.warning("cache.unreadable", "{blob} cannot be read: {error}", blob=blob, error=error)
        return False


def _remove_others(folder: Path, wanted: set[Path]) -> None:
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent) / name for name in [*names, *folders]):
            if path not in wanted and (path.is_symlink() or not path.is_dir()):
                log.warning(
                    "cache.file_removed",
                    "{path} does not belong to the artifact and is removed from the cache",
                    path=path,
                )
                path.unlink()
