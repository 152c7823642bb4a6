"""Fetching a blob: what came is kept, what is wrong is thrown away, what is missing is fetched."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.fetch import FETCHES_IN_FLIGHT, BlobFetcher, blob_path, partial_path
from cluster.artifacts.files import ArtifactFile
from cluster.errors import Corrupt, NotFound, Unavailable
from cluster.store.object_store import ObjectStore, open_store
from tests.support.store_fixtures import (
    LossyStore,
    address,
    memory_store,
    s3_server,
    scripted,
    store,
)

__all__ = ["address", "memory_store", "s3_server", "store"]

PART = 1000
SIZE = 10_500
DATA = random.Random(7).randbytes(SIZE)
ROOT = Path(__file__).parents[4]


def put(store: ObjectStore, data: bytes = DATA) -> ArtifactFile:
    sha256, size_bytes = Artifacts(store).put_bytes(data)
    return ArtifactFile(path="model.safetensors", sha256=sha256, size_bytes=size_bytes)


class BreakingStore(LossyStore):
    """Reads beyond the first `parts` fail until it is mended."""

    def __init__(self, inner: ObjectStore, parts: int) -> None:
        super().__init__(inner, scripted())
        self.parts = parts
        self.num_reads = 0
        self._lock = threading.Lock()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        with self._lock:
            self.num_reads += 1
        if start >= self.parts * PART:
            raise Unavailable("the connection is lost")
        return super().read_range(path, start, length)


def fetcher(store: ObjectStore) -> BlobFetcher:
    return BlobFetcher(store, rng=random.Random(1), sleep=lambda _: None, fetch_bytes=PART)


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, SIZE])
def test_a_blob_comes_whole(store: ObjectStore, tmp_path: Path, size: int) -> None:
    file = put(store, DATA[:size])
    told: list[tuple[int, int]] = []
    once = fetcher(store)
    once.fetch(file, tmp_path / "to" / "x", lambda done, of: told.append((done, of)))
    assert (tmp_path / "to" / "x").read_bytes() == DATA[:size]
    assert once.bytes_fetched == size
    assert told == [(min(n, size), size) for n in range(PART, size + PART, PART)]
    assert os.listdir(tmp_path / "to") == ["x"]


def test_what_broke_off_goes_on_where_it_stopped(store: ObjectStore, tmp_path: Path) -> None:
    file = put(store)
    breaking = BreakingStore(store, parts=4)
    first = fetcher(breaking)
    with pytest.raises(Unavailable, match="connection"):
        first.fetch(file, tmp_path / "to" / "x")
    partial = partial_path(tmp_path / "to" / "x", file.sha256)
    assert os.listdir(tmp_path / "to") == [partial.name]
    assert partial.read_bytes() == DATA[: 4 * PART]
    assert first.bytes_fetched == 4 * PART

    second = fetcher(store)
    second.fetch(file, tmp_path / "to" / "x")
    assert (tmp_path / "to" / "x").read_bytes() == DATA
    assert second.bytes_fetched == SIZE - 4 * PART
    assert os.listdir(tmp_path / "to") == ["x"]


def test_a_short_loss_is_got_over_within_one_fetch(
    memory_store: ObjectStore, tmp_path: Path
) -> None:
    file = put(memory_store)
    breaking = BreakingStore(memory_store, parts=2)

    def mend(_: float) -> None:
        breaking.parts += 2

    once = BlobFetcher(breaking, rng=random.Random(1), sleep=mend, fetch_bytes=PART)
    once.fetch(file, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert once.bytes_fetched == SIZE


def test_attempts_without_progress_are_bounded(memory_store: ObjectStore, tmp_path: Path) -> None:
    file = put(memory_store)
    breaking = BreakingStore(memory_store, parts=0)
    with pytest.raises(Unavailable):
        fetcher(breaking).fetch(file, tmp_path / "x")
    assert breaking.num_reads <= 4 * FETCHES_IN_FLIGHT
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("beginning", [b"other" * 300, DATA[:3000] + b"?", DATA + b"more"])
def test_a_wrong_beginning_is_fetched_anew_once(
    memory_store: ObjectStore, tmp_path: Path, beginning: bytes
) -> None:
    file = put(memory_store)
    partial_path(tmp_path / "x", file.sha256).write_bytes(beginning)
    once = fetcher(memory_store)
    once.fetch(file, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert once.bytes_fetched == SIZE + max(0, SIZE - len(beginning))
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("beginning", [b"", DATA[:3000]])
def test_wrong_bytes_in_the_store_leave_nothing(
    memory_store: ObjectStore, tmp_path: Path, beginning: bytes
) -> None:
    file = put(memory_store)
    memory_store.put(blob_path(file.sha256), DATA[:-1] + bytes([DATA[-1] ^ 1]))
    if beginning:
        partial_path(tmp_path / "x", file.sha256).write_bytes(beginning)
    once = fetcher(memory_store)
    with pytest.raises(Corrupt, match=file.sha256):
        once.fetch(file, tmp_path / "x")
    assert os.listdir(tmp_path) == []
    assert once.bytes_fetched == (2 * SIZE - len(beginning) if beginning else SIZE)


def test_of_many_at_once_one_fetches(memory_store: ObjectStore, tmp_path: Path) -> None:
    file = put(memory_store)
    together = threading.Barrier(4)
    fetchers = [fetcher(memory_store) for _ in range(4)]

    def fetch(one: BlobFetcher) -> None:
        together.wait()
        one.fetch(file, tmp_path / "x")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fetch, fetchers))
    assert (tmp_path / "x").read_bytes() == DATA
    assert os.listdir(tmp_path) == ["x"]


def test_what_is_not_there_leaves_nothing(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        fetcher(store).fetch(
            ArtifactFile(path="x", sha256="0" * 64, size_bytes=1), tmp_path / "folder" / "x"
        )
    assert os.listdir(tmp_path / "folder") == []


FETCH = """
import pickle, sys, threading
from pathlib import Path
from cluster.artifacts.fetch import BlobFetcher
from cluster.catalog.manifests import ArtifactFile
store, file = pickle.loads(bytes.fromhex(sys.argv[1]))
target = Path(sys.argv[2])

def tell(done, of):
    if done >= 5000:
        print("there", flush=True)
        threading.Event().wait()

BlobFetcher(store, fetch_bytes=1000).fetch(file, target, tell)
"""


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_killed_process_leaves_its_beginning_to_the_next(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "s3":
        store = request.getfixturevalue("s3_server").address().open()
    else:
        store = open_store(str(tmp_path / "store"))
    file = put(store)
    target = tmp_path / "cache" / "x"
    command = [sys.executable, "-c", FETCH, pickle.dumps((store, file)).hex(), str(target)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)

    kept = partial_path(target, file.sha256).stat().st_size
    once = fetcher(store)
    once.fetch(file, target)
    assert target.read_bytes() == DATA
    assert once.bytes_fetched == SIZE - kept
    assert os.listdir(target.parent) == ["x"]
