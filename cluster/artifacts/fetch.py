"""Fetches blobs from the store in pieces, none twice, and checks their bytes against the hash."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cluster.artifacts.files import ArtifactFile, sha256_of
from cluster.clock import SYSTEM_CLOCK, Backoff, system_rng
from cluster.errors import Corrupt, Unavailable
from cluster.logs.events import EventLog
from cluster.progress import UNSEEN, Count
from cluster.store.file_lock import lock, try_lock
from cluster.store.object_store import ObjectStore

log = EventLog(__name__)

FETCH_BYTES = 8 * 2**20
FETCHES_IN_FLIGHT = 4
_RETRIES = Backoff(initial_s=0.1, wait_max_s=2.0, attempts_max=4)


def blob_path(sha256: str) -> str:
    """Path in the store of the blob with this hash."""
    return f"artifacts/sha256/{sha256[:2]}/{sha256}"


def partial_path(target: Path, sha256: str) -> Path:
    """Path of the partial file with a blob's beginning, beside the file that the blob will be."""
    return target.parent / f".{sha256}.partial"


def check_content(file: ArtifactFile, sha256: str, size_bytes: int) -> None:
    """Raises Corrupt when a blob's bytes are not those that `file` names."""
    path = blob_path(file.sha256)
    if size_bytes != file.size_bytes:
        raise Corrupt(
            f"{path} ({file.path}) holds {size_bytes} bytes in place of {file.size_bytes}"
        )
    if sha256 != file.sha256:
        raise Corrupt(f"{path} ({file.path}) holds bytes of another hash: {sha256}")


class BlobFetcher:
    """Copies blobs to local files. May be used by several threads and processes at once.

    A fetch that breaks off, even by `kill -9`, leaves the beginning of the blob in a partial file
    that is bound to the hash; the next fetch to the same folder goes on where it ended.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        rng: random.Random | None = None,
        sleep: Callable[[float], None] = SYSTEM_CLOCK.sleep,
        fetch_bytes: int = FETCH_BYTES,
    ) -> None:
        self._store = store
        self._fetch_bytes = fetch_bytes
        self._rng = rng or system_rng()
        self._sleep = sleep
        self._counting = threading.Lock()
        self.bytes_fetched = 0
        """Bytes that came out of the store, including wrong ones."""

    def fetch(self, file: ArtifactFile, target: Path, count: Count = UNSEEN.count) -> None:
        """Makes `target` the blob's bytes, in place of what was there, or leaves it as it is;
        `count` is told how many of the bytes are there.

        The bytes are hashed on their way; a partial file that turns out wrong is fetched anew once.
        Raises Corrupt (nothing is left), NotFound, Unavailable (what came stays for the next try).
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        check_content(file, file.sha256, self._store.size(blob_path(file.sha256)))
        path = partial_path(target, file.sha256)
        with _opened_alone(path) as (partial, waited):
            if waited and _is_done(target, file):
                path.unlink()
                return
            try:
                if not self._complete(file, partial, count):
                    partial.truncate(0)
                    self._complete(file, partial, count)
            except Corrupt:
                path.unlink()
                raise
            partial.flush()
            os.fsync(partial.fileno())
            path.replace(target)

    def _complete(self, file: ArtifactFile, partial: BinaryIO, count: Count) -> bool:
        """Fetches what is missing. False when the bytes are wrong and some of them were there
        before; raises Corrupt when all of them came from the store just now.
        """
        partial.seek(0, os.SEEK_END)
        resumed = partial.tell() > 0
        digest = hashlib.sha256()
        failures = 0
        while True:
            start = _hash_rest(partial, digest) if resumed and not failures else partial.tell()
            try:
                for data in self._pieces(file, start):
                    partial.write(data)
                    digest.update(data)
                    count(partial.tell(), file.size_bytes)
                break
            except Unavailable as error:
                partial.flush()
                failures = 1 if partial.tell() > start else failures + 1
                if failures >= _RETRIES.attempts_max:
                    raise
                log.info(
                    "fetch.broke_off",
                    "{path} broke off at byte {at_byte}: {error}",
                    path=file.path,
                    at_byte=partial.tell(),
                    error=error,
                )
                self._sleep(_RETRIES.wait_s(failures - 1, self._rng))
        if resumed and digest.hexdigest() != file.sha256:
            log.warning(
                "fetch.beginning_wrong",
                "the kept beginning of {path} was wrong; fetching all of it",
                path=file.path,
            )
            return False
        check_content(file, digest.hexdigest(), partial.tell())
        return True

    def _pieces(self, file: ArtifactFile, start: int) -> Iterator[bytes]:
        """The bytes from `start` on, in order, while those that follow are under way already."""
        starts = deque(range(start, file.size_bytes, self._fetch_bytes))
        if len(starts) <= 1:
            yield from (self._read(file, begin) for begin in starts)
            return
        with ThreadPoolExecutor(min(FETCHES_IN_FLIGHT, len(starts))) as readers:
            under_way: deque[Future[bytes]] = deque()
            while starts or under_way:
                while starts and len(under_way) < FETCHES_IN_FLIGHT:
                    under_way.append(readers.submit(self._read, file, starts.popleft()))
                yield under_way.popleft().result()

    def _read(self, file: ArtifactFile, start: int) -> bytes:
        length = min(self._fetch_bytes, file.size_bytes - start)
        data = self._store.read_range(blob_path(file.sha256), start, length)
        with self._counting:
            self.bytes_fetched += len(data)
        if len(data) != length:
            raise Unavailable(f"{file.path} broke off: {len(data)} bytes came in place of {length}")
        return data


def _hash_rest(partial: BinaryIO, digest: hashlib._Hash) -> int:
    """Hashes what is there already, and gives its length."""
    partial.seek(0)
    while chunk := partial.read(FETCH_BYTES):
        digest.update(chunk)
    return partial.tell()


def _is_done(target: Path, file: ArtifactFile) -> bool:
    try:
        return sha256_of(target) == file.sha256
    except FileNotFoundError:
        return False


@contextmanager
def _opened_alone(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """The file, for this thread alone, and whether it had to wait for another one."""
    waited = False
    while True:
        with path.open("ab+") as file:
            if not try_lock(file):
                waited = True
                lock(file)
            # The process that had it before has made it the target, or removed it.
            if _is_named(path, file):
                try:
                    yield file, waited
                finally:
                    if _is_named(path, file) and not os.fstat(file.fileno()).st_size:
                        path.unlink()
                return


def _is_named(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
