"""Content-addressed blobs and folders of them, named by SHA-256.

Every read compares the bytes with the name (`cluster.artifacts.fetch.check_content`).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from cluster.artifacts.claims import claim
from cluster.artifacts.fetch import BlobFetcher, blob_path, check_content
from cluster.artifacts.files import ArtifactFile, sha256_of
from cluster.errors import Conflict, Corrupt, InvalidArgument, NotFound, OutcomeUnknown
from cluster.progress import UNSEEN, Count
from cluster.store.object_store import ObjectStore
from cluster.store.paths import is_plain


def checked_files(files: Sequence[ArtifactFile]) -> tuple[ArtifactFile, ...]:
    """The files of an artifact, sorted by path.

    Raises Corrupt when a path would leave the artifact's folder or clashes with another.
    """
    folders: set[str] = set()
    paths: set[str] = set()
    for file in files:
        if not is_plain(file.path):
            raise Corrupt(f"the manifest names a file outside of its folder: {file.path!r}")
        if file.path in paths:
            raise Corrupt(f"the manifest names {file.path} twice")
        paths.add(file.path)
        folders.update(str(parent) for parent in PurePosixPath(file.path).parents)
    if clash := paths & folders:
        raise Corrupt(f"the manifest names {min(clash)} as a file and as a folder")
    return tuple(sorted(files, key=lambda file: file.path))


class Artifacts:
    """Blobs in the store.

    Guarantee: what is read has the hash and the size that were asked for, or Corrupt is raised and
    nothing is left behind. Failures: NotFound for a blob that is not there, those of the store.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._fetcher = BlobFetcher(store)

    def __reduce__(self) -> tuple[type[Artifacts], tuple[ObjectStore]]:
        # To a task of Ray goes the store; each process fetches and counts by itself.
        return Artifacts, (self._store,)

    @property
    def bytes_fetched(self) -> int:
        """All that `fetch` took out of the store so far."""
        return self._fetcher.bytes_fetched

    def put_bytes(self, data: bytes) -> tuple[str, int]:
        """Stores a blob unless it is there already; gives its SHA-256 and size in bytes."""
        sha256 = hashlib.sha256(data).hexdigest()
        self._put(sha256, len(data), lambda path: self._store.put_if_absent(path, data))
        return sha256, len(data)

    def put_file(self, local: Path) -> tuple[str, int]:
        """Stores a local file unless it is there already; gives its SHA-256 and size in bytes."""
        if not local.is_file():
            raise InvalidArgument(f"{local} is not a file", field="file")
        sha256, size_bytes = sha256_of(local), local.stat().st_size
        self._put(
            sha256, size_bytes, lambda path: self._store.upload_if_absent(path, local, sha256)
        )
        return sha256, size_bytes

    def put_folder(self, folder: Path) -> tuple[ArtifactFile, ...]:
        """Stores every file below `folder` and gives them sorted by path.

        Raises InvalidArgument for a link or anything else that is neither a file nor a folder.
        """
        if not folder.is_dir():
            raise InvalidArgument(f"{folder} is not a folder", field="folder")
        files: list[ArtifactFile] = []
        for path in regular_files(folder):
            sha256, size_bytes = self.put_file(path)
            relative = path.relative_to(folder).as_posix()
            files.append(ArtifactFile(path=relative, sha256=sha256, size_bytes=size_bytes))
        return checked_files(files)

    def read_bytes(self, file: ArtifactFile) -> bytes:
        """A blob in memory, for small files."""
        data = self._store.get(blob_path(file.sha256))
        check_content(file, hashlib.sha256(data).hexdigest(), len(data))
        return data

    def is_stored(self, file: ArtifactFile) -> bool:
        """True when the blob is in the store. Raises Corrupt when it has another size there."""
        return self._is_stored(blob_path(file.sha256), file.size_bytes)

    def fetch(self, file: ArtifactFile, target: Path, count: Count = UNSEEN.count) -> None:
        """Copies a blob to the file `target`, whatever `file.path` says.

        The file appears whole and right, in place of what was there, or not at all. What broke off
        goes on where it ended, as `BlobFetcher` says.
        """
        self._fetcher.fetch(file, target, count)

    def _put(self, sha256: str, size_bytes: int, write: Callable[[str], None]) -> None:
        path = blob_path(sha256)
        if self._is_stored(path, size_bytes):
            # It may be old, and nothing may need it but what the caller is going to name it in.
            claim(self._store, [path])
            return
        in_doubt: OutcomeUnknown | None = None
        try:
            write(path)
        except Conflict:
            in_doubt = None
        except OutcomeUnknown as error:
            in_doubt = error
        # Whoever wrote it, the name says what it must hold; so being there in full is all there is
        # to know.
        if not self._is_stored(path, size_bytes):
            raise in_doubt or OutcomeUnknown(f"{path} was stored but is not there")

    def _is_stored(self, path: str, size_bytes: int) -> bool:
        try:
            stored_bytes = self._store.size(path)
        except NotFound:
            return False
        if stored_bytes != size_bytes:
            raise Corrupt(
                f"{path} holds {stored_bytes} bytes in place of {size_bytes}; "
                "delete it there, so that it can be stored again"
            )
        return True


def regular_files(folder: Path) -> list[Path]:
    """All files below `folder`, sorted by path.

    Raises InvalidArgument for a link or anything else that is neither a file nor a folder.
    """
    return sorted(_regular_files(folder), key=lambda path: path.relative_to(folder).as_posix())


def _regular_files(folder: Path) -> Iterable[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _regular_files(Path(entry.path))
            elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                yield Path(entry.path)
            else:
                raise InvalidArgument(
                    f"{entry.path} is neither a file nor a folder", field="folder"
                )
