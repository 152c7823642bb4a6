"""A node's copies of artifacts: fetched once, verified byte by byte whenever they are opened."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import orjson

from cluster.artifacts import Artifacts, checked_files, sha256_of
from cluster.errors import Corrupt
from cluster.manifests import ArtifactFile

log = logging.getLogger(__name__)

_FETCHERS = 4
_READ_ONLY = 0o444


class ArtifactCache:
    """Artifacts as local folders, shared by the processes of a node.

        blobs/ab/{sha256}        each content once, read-only
        folders/{key}/{path}     hard links to blobs, one folder for each set of files
        locks/{key}              held (flock) while a folder is made; a killed process lets go of it

    A file that a process has open or mapped keeps its bytes when the cache mends or replaces it.
    """

    def __init__(self, artifacts: Artifacts, folder: Path) -> None:
        self._artifacts = artifacts
        self._folder = folder.absolute()

    def folder_for(self, files: Sequence[ArtifactFile]) -> Path:
        """A folder with exactly these files, every byte of them hashed during this call.

        A cached file with other bytes is fetched again. Raises Corrupt when the store's copy is no
        better, or for a path that would leave the folder; NotFound and Unavailable as the store
        does. Waits for another process that is making the same folder.
        """
        wanted = checked_files(files)
        listed = [[file.path, file.sha256, file.size_bytes] for file in wanted]
        key = hashlib.sha256(orjson.dumps(listed)).hexdigest()
        folder = self._folder / "folders" / key
        with self._locked(key), ThreadPoolExecutor(_FETCHERS) as fetchers:
            blobs = {file.sha256: file for file in wanted}
            list(fetchers.map(self._ensure_blob, blobs.values()))
            folder.mkdir(parents=True, exist_ok=True)
            for file in wanted:
                self._link(self._blob(file), folder / file.path)
            _remove_others(folder, {folder / file.path for file in wanted})
        return folder

    def holds(self, files: Sequence[ArtifactFile]) -> bool:
        """Whether all of the content is here, without a look at its bytes."""
        blobs = [(self._blob(file), file.size_bytes) for file in files]
        return all(b.is_file() and b.stat().st_size == size_bytes for b, size_bytes in blobs)

    def _blob(self, file: ArtifactFile) -> Path:
        return self._folder / "blobs" / file.sha256[:2] / file.sha256

    def _ensure_blob(self, file: ArtifactFile) -> None:
        blob = self._blob(file)
        if blob.is_file():
            if _holds(blob, file):
                return
            log.warning("%s (%s) was damaged in the cache; fetching it again", blob, file.path)
        self._artifacts.fetch(file, blob)
        blob.chmod(_READ_ONLY)

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

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        lock = self._folder / "locks" / key
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _holds(blob: Path, file: ArtifactFile) -> bool:
    try:
        return blob.stat().st_size == file.size_bytes and sha256_of(blob) == file.sha256
    except OSError as error:
        log.warning("%s cannot be read: %s", blob, error)
        return False


def _remove_others(folder: Path, wanted: set[Path]) -> None:
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent) / name for name in [*names, *folders]):
            if path not in wanted and (path.is_symlink() or not path.is_dir()):
                log.warning(
                    "%s does not belong to the artifact and is removed from the cache", path
                )
                path.unlink()
