"""Artifacts in the store and in a node's cache: right to the last bit, or refused."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import pickle
import stat
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.fetch import blob_path
from cluster.artifacts.files import ArtifactFile
from cluster.errors import Corrupt, InvalidArgument, NotFound, Unavailable
from cluster.store.local_store import LocalStore
from cluster.store.object_store import ObjectStore
from tests.support.store_fixtures import (
    LossyStore,
    address,
    memory_store,
    s3_server,
    scripted,
    store,
)

__all__ = ["address", "memory_store", "s3_server", "store"]

CONTENTS = {
    "index.faiss": bytes(range(256)) * 3,
    "documents.arrow": b"ARROW1" + bytes(100),
    "deeper/config.json": b"{}",
    "deeper/empty": b"",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a few files."""
    return make_folder(tmp_path / "folder")


def make_folder(folder: Path) -> Path:
    for path, content in CONTENTS.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def read_folder(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class CountingStore(LossyStore):
    """Counts transfers by path; reads only `bytes_left` more bytes, if that is a number."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner, lambda: "")
        self.written: Counter[str] = Counter()
        self.downloaded: Counter[str] = Counter()
        self.bytes_left: int | None = None

    def put_if_absent(self, path: str, data: bytes) -> None:
        self.written[path] += 1
        super().put_if_absent(path, data)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        self.downloaded[path] += 1
        if self.bytes_left is not None:
            if self.bytes_left < length:
                raise Unavailable("the connection is lost")
            self.bytes_left -= length
        return super().read_range(path, start, length)


class TestStore:
    def test_a_folder_comes_back_as_it_was(
        self, store: ObjectStore, folder: Path, tmp_path: Path
    ) -> None:
        artifacts = Artifacts(store)
        files = artifacts.put_folder(folder)
        assert [file.path for file in files] == sorted(CONTENTS)
        for file in files:
            content = CONTENTS[file.path]
            assert file.sha256 == hashlib.sha256(content).hexdigest()
            assert file.size_bytes == len(content)
            assert artifacts.read_bytes(file) == content
        for file in files:
            artifacts.fetch(file, tmp_path / "copy" / file.path)
        assert read_folder(tmp_path / "copy") == CONTENTS

    def test_what_is_there_is_not_stored_again(
        self, memory_store: ObjectStore, folder: Path
    ) -> None:
        counting = CountingStore(memory_store)
        artifacts = Artifacts(counting)
        first = artifacts.put_folder(folder)
        assert artifacts.put_folder(folder) == first
        assert artifacts.put_bytes(CONTENTS["index.faiss"])[0] == first[-1].sha256
        assert set(counting.written.values()) == {1}

    @pytest.mark.parametrize("fault", ["after", "late"])
    def test_a_lost_reply_does_no_harm(self, memory_store: ObjectStore, fault: str) -> None:
        lossy = LossyStore(memory_store, scripted(fault if fault == "after" else ""))
        assert Artifacts(lossy).put_bytes(b"x") == (hashlib.sha256(b"x").hexdigest(), 1)

    def test_two_writers_of_one_blob_both_succeed(self, store: ObjectStore) -> None:
        data = os.urandom(100_000)
        together = threading.Barrier(4)

        def put(_: int) -> tuple[str, int]:
            together.wait()
            return Artifacts(store).put_bytes(data)

        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(put, range(4)))) == 1

    def test_a_torn_blob_is_noticed_by_the_next_writer(
        self, store: ObjectStore, tmp_path: Path
    ) -> None:
        data = b"the whole content"
        store.put(blob_path(hashlib.sha256(data).hexdigest()), data[:-1])
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(Corrupt, match="artifacts/sha256/"):
            Artifacts(store).put_bytes(data)
        with pytest.raises(Corrupt, match="artifacts/sha256/"):
            Artifacts(store).put_file(tmp_path / "file")

    def test_a_blob_that_is_not_there_is_not_found(
        self, store: ObjectStore, tmp_path: Path
    ) -> None:
        file = ArtifactFile(path="x", sha256="0" * 64, size_bytes=1)
        with pytest.raises(NotFound):
            Artifacts(store).read_bytes(file)
        with pytest.raises(NotFound):
            Artifacts(store).fetch(file, tmp_path / "folder" / "x")
        assert list((tmp_path / "folder").iterdir()) == []

    def test_a_manifest_with_the_wrong_size_is_refused(
        self, memory_store: ObjectStore, tmp_path: Path
    ) -> None:
        sha256, _ = Artifacts(memory_store).put_bytes(b"xyz")
        file = ArtifactFile(path="x", sha256=sha256, size_bytes=2)
        with pytest.raises(Corrupt, match="3 bytes in place of 2"):
            Artifacts(memory_store).read_bytes(file)
        with pytest.raises(Corrupt, match="3 bytes in place of 2"):
            Artifacts(memory_store).fetch(file, tmp_path / "x")

    def test_links_and_other_oddities_are_refused(
        self, memory_store: ObjectStore, folder: Path
    ) -> None:
        artifacts = Artifacts(memory_store)
        (folder / "link").symlink_to("/etc/hostname")
        with pytest.raises(InvalidArgument, match="link"):
            artifacts.put_folder(folder)
        (folder / "link").unlink()
        (folder / "deeper" / "linked").symlink_to(folder)
        with pytest.raises(InvalidArgument, match="linked"):
            artifacts.put_folder(folder)
        (folder / "deeper" / "linked").unlink()
        os.mkfifo(folder / "pipe")
        with pytest.raises(InvalidArgument, match="pipe"):
            artifacts.put_folder(folder)
        with pytest.raises(InvalidArgument):
            artifacts.put_folder(folder / "index.faiss")
        with pytest.raises(InvalidArgument):
            artifacts.put_file(folder)

    @pytest.mark.parametrize(
        "paths",
        [["../x"], ["/x"], ["a/../../x"], [""], ["a//b"], ["a\\b"], ["x", "x"], ["a", "a/b"]],
    )
    def test_a_manifest_cannot_leave_its_folder(
        self, memory_store: ObjectStore, tmp_path: Path, paths: list[str]
    ) -> None:
        artifacts = Artifacts(memory_store)
        sha256, size_bytes = artifacts.put_bytes(b"x")
        files = [ArtifactFile(path=path, sha256=sha256, size_bytes=size_bytes) for path in paths]
        with pytest.raises(Corrupt):
            ArtifactCache(artifacts, tmp_path / "cache").folder_for(files)
        assert read_folder(tmp_path) == {}


def damage(path: Path, position: int, truncate: bool) -> None:
    """Cuts a file at a position, or flips one bit there."""
    data = bytearray(path.read_bytes())
    position %= len(data) * 8
    if truncate:
        del data[position // 8 :]
    else:
        data[position // 8] ^= 1 << position % 8
    path.chmod(0o644)
    path.write_bytes(data)


damages = given(
    name=st.sampled_from([path for path, content in CONTENTS.items() if content]),
    position=st.integers(0, 2**16),
    truncate=st.booleans(),
)


class TestDamage:
    """Whatever bit of whatever file goes wrong, it is noticed before anybody gets it."""

    @damages
    @settings(max_examples=60, deadline=None)
    def test_in_the_store(self, name: str, position: int, truncate: bool) -> None:
        with tempfile.TemporaryDirectory() as root:
            artifacts = Artifacts(LocalStore(Path(root) / "store"))
            files = artifacts.put_folder(make_folder(Path(root) / "folder"))
            file = next(file for file in files if file.path == name)
            damage(Path(root) / "store" / blob_path(file.sha256), position, truncate)

            target = Path(root) / "copy" / "file"
            with pytest.raises(Corrupt, match=file.sha256):
                artifacts.fetch(file, target)
            assert list(target.parent.iterdir()) == []
            with pytest.raises(Corrupt, match=file.sha256):
                artifacts.read_bytes(file)
            with pytest.raises(Corrupt, match=file.sha256):
                ArtifactCache(artifacts, Path(root) / "cache").folder_for(files)

    @damages
    @settings(max_examples=60, deadline=None)
    def test_in_the_cache(self, name: str, position: int, truncate: bool) -> None:
        with tempfile.TemporaryDirectory() as root:
            store_folder = Path(root) / "store"
            artifacts = Artifacts(LocalStore(store_folder))
            files = artifacts.put_folder(make_folder(Path(root) / "folder"))
            file = next(file for file in files if file.path == name)
            cache = ArtifactCache(artifacts, Path(root) / "cache")

            damage(cache.folder_for(files) / name, position, truncate)
            assert read_folder(cache.folder_for(files)) == CONTENTS

            damage(cache.folder_for(files) / name, position, truncate)
            damage(store_folder / blob_path(file.sha256), position, truncate)
            with pytest.raises(Corrupt, match=file.sha256):
                cache.folder_for(files)


class TestCache:
    @pytest.fixture
    def counting(self, memory_store: ObjectStore) -> CountingStore:
        return CountingStore(memory_store)

    @pytest.fixture
    def files(self, counting: CountingStore, folder: Path) -> tuple[ArtifactFile, ...]:
        return Artifacts(counting).put_folder(folder)

    @pytest.fixture
    def cache(self, counting: CountingStore, tmp_path: Path) -> ArtifactCache:
        return ArtifactCache(Artifacts(counting), tmp_path / "cache")

    def test_each_blob_is_fetched_once(
        self, cache: ArtifactCache, counting: CountingStore, files: tuple[ArtifactFile, ...]
    ) -> None:
        folder = cache.folder_for(files)
        assert read_folder(folder) == CONTENTS
        assert cache.folder_for(files[::-1]) == folder
        part = cache.folder_for(files[:2])
        assert set(read_folder(part)) == {file.path for file in files[:2]}
        assert set(counting.downloaded.values()) == {1}

    def test_another_process_has_the_same_folder(
        self, store: ObjectStore, folder: Path, tmp_path: Path
    ) -> None:
        cache = ArtifactCache(Artifacts(store), tmp_path / "cache")
        files = cache.artifacts.put_folder(folder)
        again: ArtifactCache = pickle.loads(pickle.dumps(cache))
        assert not again.holds(files)
        assert read_folder(again.folder_for(files)) == CONTENTS
        assert cache.folder_for(files) == again.folder_for(files)

    def test_cached_files_are_read_only(
        self, cache: ArtifactCache, files: tuple[ArtifactFile, ...]
    ) -> None:
        folder = cache.folder_for(files)
        assert {stat.S_IMODE((folder / path).stat().st_mode) for path in CONTENTS} == {0o444}

    def test_many_at_once_fetch_each_blob_once(
        self, counting: CountingStore, files: tuple[ArtifactFile, ...], tmp_path: Path
    ) -> None:
        together = threading.Barrier(6)
        meetings = {blob_path(file.sha256): threading.Barrier(2, timeout=0.2) for file in files}

        class Meeting(LossyStore):
            """A download waits a while for a second one of the same blob."""

            def read_range(self, path: str, start: int, length: int) -> bytes:
                with contextlib.suppress(threading.BrokenBarrierError):
                    meetings[path].wait()
                return super().read_range(path, start, length)

        def open_folder(_: int) -> dict[str, bytes]:
            cache = ArtifactCache(Artifacts(Meeting(counting, scripted())), tmp_path / "cache")
            together.wait()
            return read_folder(cache.folder_for(files))

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(open_folder, range(6))) == [CONTENTS] * 6
        assert set(counting.downloaded.values()) == {1}

    def test_what_a_reader_has_mapped_stays_when_the_cache_is_mended(
        self, cache: ArtifactCache, files: tuple[ArtifactFile, ...]
    ) -> None:
        path = cache.folder_for(files) / "index.faiss"
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            inode = path.stat().st_ino
            path.chmod(0o644)
            path.write_bytes(b"other".ljust(len(CONTENTS["index.faiss"])))
            assert cache.folder_for(files) / "index.faiss" == path
            assert path.stat().st_ino != inode
            assert path.read_bytes() == CONTENTS["index.faiss"]
            assert mapped[:5] == b"other"

    def test_a_folder_holds_exactly_its_files(
        self, cache: ArtifactCache, files: tuple[ArtifactFile, ...], tmp_path: Path
    ) -> None:
        folder = cache.folder_for(files)
        (folder / "stray").write_bytes(b"")
        (folder / "linked").symlink_to(tmp_path)
        (folder / "index.faiss").unlink()
        (folder / "documents.arrow").unlink()
        (folder / "documents.arrow").symlink_to(tmp_path / "elsewhere")
        cache.folder_for(files)
        assert read_folder(folder) == CONTENTS
        assert sorted(path.name for path in folder.iterdir()) == [
            "deeper",
            "documents.arrow",
            "index.faiss",
        ]

    def test_a_blob_missing_from_the_store_is_not_found(
        self, cache: ArtifactCache, files: tuple[ArtifactFile, ...]
    ) -> None:
        missing = ArtifactFile(path="missing", sha256="0" * 64, size_bytes=1)
        with pytest.raises(NotFound):
            cache.folder_for([*files, missing])
        assert read_folder(cache.folder_for(files)) == CONTENTS
