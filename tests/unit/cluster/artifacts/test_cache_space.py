"""The cache's limit: what was used least recently goes, what is in use stays."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.artifacts import cache as artifact_cache
from cluster.artifacts import cache_space
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.files import ArtifactFile, Blob, FileDelta, sha256_of
from cluster.artifacts.weight_delta import apply_delta, write_delta
from cluster.errors import Unavailable
from cluster.store.object_store import ObjectStore, open_store
from tests.support.store_fixtures import LossyStore, scripted
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[4]
SIZE = 1000


@pytest.fixture(autouse=True)
def _let_go_of_all() -> Iterator[None]:
    yield
    for descriptor in cache_space._pins.values():
        os.close(descriptor)
    cache_space._pins.clear()


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def cache(store: ObjectStore, tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(Artifacts(store), tmp_path / "cache")


class Shelf:
    """Artifacts of 1000 bytes, each a folder of one file, and the order in which they were used."""

    def __init__(self, store: ObjectStore, cache: ArtifactCache) -> None:
        self.artifacts = Artifacts(store)
        self.cache = cache
        self.moment_s = 1_000_000

    def files(self, name: str) -> tuple[ArtifactFile, ...]:
        sha256, size_bytes = self.artifacts.put_bytes(name.encode().ljust(SIZE, b"."))
        return (ArtifactFile(path=f"{name}.bin", sha256=sha256, size_bytes=size_bytes),)

    def use(self, name: str, *, keep: bool = False) -> Path:
        """Opens it, and lets go of it again."""
        folder = self.cache.folder_for(self.files(name))
        if not keep:
            self.cache.unpin(self.files(name))
        self.moment_s += 1
        os.utime(folder, (self.moment_s, self.moment_s))
        return folder

    def held(self, *names: str) -> str:
        """Those of the names (letters) that are in the cache."""
        return "".join(name for name in names if self.cache.holds(self.files(name)))


@pytest.fixture
def shelf(store: ObjectStore, cache: ArtifactCache) -> Shelf:
    return Shelf(store, cache)


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "blobs").rglob("*") if path.is_file())


def test_without_a_limit_all_stays(shelf: Shelf) -> None:
    for name in "abcdef":
        shelf.use(name)
    assert shelf.held(*"abcdef") == "abcdef"


def test_what_was_used_least_recently_goes(shelf: Shelf, tmp_path: Path) -> None:
    shelf.cache.limit(3 * SIZE)
    for name in "abc":
        shelf.use(name)
    shelf.use("a")
    shelf.use("d")
    assert shelf.held(*"abcd") == "acd"
    assert (shelf.use("a") / "a.bin").read_bytes() == b"a".ljust(SIZE, b".")
    shelf.use("e")
    assert shelf.held(*"abcde") == "ade"
    assert bytes_of(tmp_path / "cache") == 3 * SIZE


def test_a_limit_that_is_lowered_holds_at_once(shelf: Shelf, tmp_path: Path) -> None:
    for name in "abcd":
        shelf.use(name)
    shelf.cache.limit(2 * SIZE)
    assert shelf.held(*"abcd") == "cd"
    shelf.cache.limit(None)
    shelf.use("a")
    assert shelf.held(*"abcd") == "acd"


def test_what_is_in_use_stays_beyond_the_limit(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.cache.limit(2 * SIZE)
    shelf.use("a", keep=True)
    shelf.use("b", keep=True)
    with caplog.at_level(logging.WARNING):
        shelf.use("c")
    assert shelf.held(*"abc") == "abc"
    assert "over its limit" in caplog.text
    shelf.cache.unpin(shelf.files("a"))
    shelf.cache.limit(2 * SIZE)
    # While it was pinned it was used, until the last moment: `c` was used before that.
    assert shelf.held(*"abc") == "ab"


def test_a_pin_counts_before_the_folder_is_made(shelf: Shelf) -> None:
    shelf.cache.pin(shelf.files("a"))
    shelf.use("b")
    shelf.cache.folder_for(shelf.files("a"))
    shelf.cache.limit(1)
    assert shelf.held("a", "b") == "a"


def test_content_that_two_folders_share_stays_with_the_one_left(shelf: Shelf) -> None:
    shared = (*shelf.files("a"), *shelf.files("b"))
    shelf.cache.folder_for(shared)
    shelf.use("a")
    shelf.cache.limit(0)
    assert shelf.held("a", "b") == "ab"
    shelf.cache.unpin(shared)
    shelf.cache.limit(0)
    assert shelf.held("a", "b") == ""


def test_what_broke_off_goes_first(store: ObjectStore, shelf: Shelf, tmp_path: Path) -> None:
    shelf.use("a")
    partial = tmp_path / "cache" / "blobs" / "ab" / f".{'ab' * 32}.partial"
    partial.parent.mkdir(exist_ok=True)
    partial.write_bytes(bytes(SIZE))
    shelf.cache.limit(SIZE)
    assert not partial.exists()
    assert shelf.held("a") == "a"


def test_what_is_being_made_stays(store: ObjectStore, shelf: Shelf, tmp_path: Path) -> None:
    """Though no folder holds its blobs yet, and the limit is long exceeded."""
    wanted = (*shelf.files("a"), *shelf.files("b"))
    is_there, go_on = threading.Event(), threading.Event()
    last = wanted[1]

    class Waiting(LossyStore):
        def read_range(self, path: str, start: int, length: int) -> bytes:
            if last.sha256 in path:
                # Until the other blob is there, which nothing but this maker counts on.
                wait_until(lambda: shelf.cache.holds(wanted[:1]))
                is_there.set()
                assert go_on.wait(20)
            return super().read_range(path, start, length)

    waiting = ArtifactCache(Artifacts(Waiting(store, scripted())), tmp_path / "cache")
    with ThreadPoolExecutor(1) as pool:
        folder = pool.submit(waiting.folder_for, wanted)
        assert is_there.wait(20)
        shelf.cache.limit(0)
        assert shelf.held("a") == "a"
        go_on.set()
        assert sorted(os.listdir(folder.result())) == ["a.bin", "b.bin"]


def test_what_is_being_rebuilt_stays(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that comes about of a base and a delta, while another process makes room."""
    base, full, delta = tmp_path / "base", tmp_path / "full", tmp_path / "delta"
    base.write_bytes(bytes(SIZE))
    full.write_bytes(bytes(SIZE // 2) + b"tuned".ljust(SIZE // 2))
    write_delta(base, full, delta)
    wanted = ArtifactFile(
        path="model",
        sha256=sha256_of(full),
        size_bytes=SIZE,
        delta=FileDelta(
            base=blob_of(shelf.artifacts, base),
            base_version="1",
            delta=blob_of(shelf.artifacts, delta),
        ),
    )

    def apply_while_room_is_made(base: Path, delta: Path, target: Path) -> None:
        apply_delta(base, delta, target)
        shelf.cache.limit(0)

    monkeypatch.setattr(artifact_cache, "apply_delta", apply_while_room_is_made)
    folder = shelf.cache.folder_for([wanted])
    assert (folder / "model").read_bytes() == full.read_bytes()
    assert list((tmp_path / "cache" / "blobs").rglob(".*")) == []


def blob_of(artifacts: Artifacts, file: Path) -> Blob:
    sha256, size_bytes = artifacts.put_file(file)
    return Blob(sha256=sha256, size_bytes=size_bytes)


def test_a_killed_removal_leaves_no_half_folder(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.use("a")

    class Killed(BaseException):
        pass

    def die(folder: Path) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(cache_space.shutil, "rmtree", die)
        with pytest.raises(Killed):
            shelf.cache.limit(0)
    assert os.listdir(tmp_path / "cache" / "folders") == []
    shelf.use("b")
    shelf.cache.limit(0)
    assert shelf.held("a", "b") == ""
    assert bytes_of(tmp_path / "cache") == 0


HOLD = """
import pickle, sys, threading
from pathlib import Path
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.artifacts import Artifacts
store, files = pickle.loads(bytes.fromhex(sys.argv[1]))
ArtifactCache(Artifacts(store), Path(sys.argv[2])).folder_for(files)
print("held", flush=True)
threading.Event().wait()
"""


def test_another_process_keeps_what_it_uses_until_it_is_killed(
    store: ObjectStore, shelf: Shelf, tmp_path: Path
) -> None:
    files = shelf.files("a")
    command = [sys.executable, "-c", HOLD, pickle.dumps((store, files)).hex(), tmp_path / "cache"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        shelf.use("b")
        shelf.cache.limit(0)
        assert shelf.held("a", "b") == "a"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    shelf.cache.limit(0)
    assert shelf.held("a", "b") == ""


CHURN = """
import pickle, random, sys
from pathlib import Path
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.artifacts import Artifacts
store, artifacts = pickle.loads(bytes.fromhex(sys.argv[1]))
cache, rng = ArtifactCache(Artifacts(store), Path(sys.argv[2])), random.Random(sys.argv[3])
for _ in range(60):
    files = rng.choice(artifacts)
    folder = cache.folder_for(files)
    assert all((folder / f.path).stat().st_size == f.size_bytes for f in files)
    assert all((folder / f.path).read_bytes() for f in files)
    cache.unpin(files)
"""


def test_processes_that_make_and_remove_at_once_do_not_harm_each_other(
    store: ObjectStore, shelf: Shelf, tmp_path: Path
) -> None:
    shelf.cache.limit(3 * SIZE)
    singles = [shelf.files(name) for name in "abcdef"]
    pairs = [(*one, *other) for one, other in itertools.pairwise(singles)]
    given = pickle.dumps((store, singles + pairs)).hex()
    command = [sys.executable, "-c", CHURN, given, str(tmp_path / "cache")]
    churners = [
        subprocess.Popen([*command, str(seed)], cwd=ROOT, stderr=subprocess.PIPE) for seed in "123"
    ]
    for process in churners:
        _, stderr = process.communicate(timeout=100)
        assert process.returncode == 0, stderr.decode()
    shelf.cache.limit(3 * SIZE)
    assert bytes_of(tmp_path / "cache") <= 3 * SIZE


def test_a_cache_that_cannot_be_read_is_unavailable(cache: ArtifactCache, tmp_path: Path) -> None:
    cache.limit(1)
    (tmp_path / "cache" / "blobs").write_bytes(b"no folder")
    with pytest.raises(Unavailable):
        cache.limit(0)
