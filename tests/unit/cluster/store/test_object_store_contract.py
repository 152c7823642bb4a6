"""The guarantees of ObjectStore, checked over every kind of store."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cluster.clock import SYSTEM_CLOCK
from cluster.errors import Conflict, Corrupt, InvalidArgument, NotFound, Unavailable
from cluster.store import object_store
from cluster.store.fsspec_store import FsspecStore, TransferLimits
from cluster.store.object_store import ObjectStore, open_store
from tests.support.store_fixtures import (
    S3Server,
    StoreAddress,
    address,
    memory_store,
    s3_server,
    store,
)

__all__ = ["address", "memory_store", "s3_server", "store"]

ROOT = Path(__file__).parents[4]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def start(code: str, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *args]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 300])
def test_what_was_put_is_read(store: ObjectStore, data: bytes) -> None:
    store.put_if_absent("a/b/one", data)
    assert store.get("a/b/one") == data
    assert store.size("a/b/one") == len(data)
    assert store.exists("a/b/one")
    for start, length in [(0, len(data)), (0, 7), (1, 100), (len(data) // 2, 2**20), (0, 0)]:
        if start < len(data):
            assert store.read_range("a/b/one", start, length) == data[start : start + length]


def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    store.put_if_absent("a/b/one", b"1")
    for path in ("other", "a", "a/b", "a/b/two", "a/b/one/more"):
        assert not store.exists(path)
        with pytest.raises(NotFound):
            store.get(path)
        with pytest.raises(NotFound):
            store.size(path)
        with pytest.raises(NotFound):
            store.read_range(path, 0, 1)


def test_nothing_is_created_twice(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"second")
    store.put_if_absent("one", b"first")
    with pytest.raises(Conflict):
        store.put_if_absent("one", b"second")
    with pytest.raises(Conflict):
        store.put_if_absent("one", b"first")
    with pytest.raises(Conflict):
        store.upload_if_absent("one", source, sha256(b"second"))
    assert store.get("one") == b"first"


def test_put_replaces(store: ObjectStore) -> None:
    for data in (b"first", b"second and longer", b"3"):
        store.put("regions/a/status.json", data)
        assert store.get("regions/a/status.json") == data
    assert store.list_names("regions/a") == ["status.json"]


def test_listings_are_sorted_and_one_level_deep(store: ObjectStore) -> None:
    for name in ("b", "a", "c", "10", "9", "Z", "é"):
        store.put_if_absent(f"folder/{name}", b"")
    store.put_if_absent("folder/deeper/x", b"")
    store.put_if_absent("folder/below/y/z", b"")
    store.put_if_absent("folder-of-another-name/x", b"")
    names = ["10", "9", "Z", "a", "b", "c", "é"]
    assert store.list_names("folder") == names
    for position, name in enumerate(names):
        assert store.list_names("folder", start_after=name) == names[position + 1 :]
    assert store.list_names("folder", start_after="aa") == ["b", "c", "é"]
    assert store.list_folders("folder") == ["below", "deeper"]
    assert store.list_names("nowhere") == []
    assert store.list_folders("nowhere") == []


def test_objects_are_listed_with_their_size_and_age(store: ObjectStore) -> None:
    before_ms = SYSTEM_CLOCK.wall_ms()
    for name, data in (("b", b"12"), ("a", b""), ("deeper/x", b"x")):
        store.put_if_absent(f"folder/{name}", data)
    after_ms = SYSTEM_CLOCK.wall_ms()
    found = store.list_objects("folder")
    assert [(stored.name, stored.size_bytes) for stored in found] == [("a", 0), ("b", 2)]
    for stored in found:
        assert before_ms - 1000 <= stored.modified_ms <= after_ms
    assert store.list_objects("nowhere") == []


def test_what_was_removed_is_gone_and_can_be_created_again(store: ObjectStore) -> None:
    store.put_if_absent("folder/one", b"1")
    store.put_if_absent("folder/two", b"2")
    store.remove("folder/one")
    assert not store.exists("folder/one")
    assert store.list_names("folder") == ["two"]
    for path in ("folder/one", "nowhere/at/all", "folder/two/more"):
        store.remove(path)
    assert store.get("folder/two") == b"2"
    store.put_if_absent("folder/one", b"again")
    assert store.get("folder/one") == b"again"


def test_a_listing_sees_the_writes_of_others(address: StoreAddress) -> None:
    reader, writer = address.open(), address.open()
    for number in range(3):
        assert reader.list_names("log") == [str(n) for n in range(number)]
        assert not reader.exists(f"log/{number}")
        writer.put_if_absent(f"log/{number}", b"")


def test_long_listings_come_in_pages(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    store = s3_server.address().open()
    names = [f"{number:03}" for number in range(10)]
    for name in names:
        store.put_if_absent(f"log/{name}", b"")
        store.put_if_absent(f"folders/{name}/x", b"")
    assert store.list_names("log") == names
    assert store.list_names("log", start_after="004") == names[5:]
    assert store.list_folders("folders") == names


def test_of_many_writers_one_wins(store: ObjectStore) -> None:
    num_writers, num_rounds = 8, 5

    def create(path: str, content: bytes, together: threading.Barrier) -> bool:
        together.wait()
        try:
            store.put_if_absent(path, content)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(num_writers) as pool:
        for number in range(num_rounds):
            path, together = f"race/{number}", threading.Barrier(num_writers)
            contents = [f"writer {writer} ".encode() * 999 for writer in range(num_writers)]
            won = list(
                pool.map(lambda content, p=path, t=together: create(p, content, t), contents)
            )
            assert sum(won) == 1
            assert store.get(path) == contents[won.index(True)]


def test_of_two_writers_to_memory_one_wins_though_both_look_first(
    memory_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2, timeout=0.2)
    exists = MemoryFileSystem.exists

    def look(filesystem: MemoryFileSystem, path: str) -> bool:
        found = bool(exists(filesystem, path))
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()
        return found

    def create(content: bytes) -> bool:
        with contextlib.suppress(Conflict):
            memory_store.put_if_absent("one", content)
            return True
        return False

    monkeypatch.setattr(MemoryFileSystem, "exists", look)
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(create, [b"a", b"b"])) == [False, True]


RACE = """
import pickle, sys
from cluster.errors import Conflict
store, name = pickle.loads(bytes.fromhex(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
for number in range(20):
    try:
        store.put_if_absent(f"race/{number}", name.encode() * 1000)
        print(number)
    except Conflict:
        pass
"""


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_of_many_processes_one_wins(kind: str, tmp_path: Path, s3_server: S3Server) -> None:
    where = StoreAddress(url=str(tmp_path)) if kind == "local" else s3_server.address()
    store = where.open()
    names = ["a", "b", "c"]
    writers = [start(RACE, pickle.dumps(store).hex(), name) for name in names]
    won = {
        name: [int(line) for line in writer.communicate(timeout=60)[0].split("\n")[1:] if line]
        for name, writer in zip(names, writers, strict=True)
    }
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert sorted(number for numbers in won.values() for number in numbers) == list(range(20))
    for name, numbers in won.items():
        for number in numbers:
            assert store.get(f"race/{number}") == name.encode() * 1000


def test_a_reader_sees_all_or_nothing(store: ObjectStore) -> None:
    data = os.urandom(3 * 2**20)
    done = threading.Event()

    def read() -> set[int]:
        sizes = set()
        while not done.is_set():
            try:
                sizes.add(len(store.get("big")))
            except NotFound:
                sizes.add(-1)
        sizes.add(len(store.get("big")))
        return sizes

    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(read)
        store.put_if_absent("big", data)
        done.set()
        assert seen.result() <= {-1, len(data)}


@pytest.fixture
def in_small_parts(address: StoreAddress) -> ObjectStore:
    """A store of each kind, to which files of more than 5 MiB go in several parts where they do."""
    if address.url.startswith("s3://"):
        limits = TransferLimits(part_bytes=5 * 2**20)
        return FsspecStore(address.url, address.options, limits)
    return address.open()


def test_big_files_are_created_once(in_small_parts: ObjectStore, tmp_path: Path) -> None:
    store = in_small_parts
    first, second = os.urandom(11 * 2**20), os.urandom(11 * 2**20)
    source = tmp_path / "source"
    source.write_bytes(first)
    store.upload_if_absent("big", source, sha256(first))
    source.write_bytes(second)
    with pytest.raises(Conflict):
        store.upload_if_absent("big", source, sha256(second))
    assert store.read_range("big", 0, len(first)) == first
    assert store.size("big") == len(first)


@pytest.mark.parametrize("size_bytes", [1000, 11 * 2**20])
def test_a_file_that_changes_meanwhile_is_not_stored(
    in_small_parts: ObjectStore, tmp_path: Path, size_bytes: int
) -> None:
    store = in_small_parts
    source = tmp_path / "source"
    source.write_bytes(b"x" * size_bytes)
    with pytest.raises(Corrupt, match="changed"):
        store.upload_if_absent("folder/file", source, sha256(b"y" * size_bytes))
    assert store.list_names("folder") == []


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\0b", "a\\b"])
def test_paths_that_leave_the_store_are_refused(store: ObjectStore, path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        store.put_if_absent(path, b"")
    assert caught.value.field == "path"
    with pytest.raises(InvalidArgument):
        store.get(path)


def test_a_store_travels_by_pickle(store: ObjectStore) -> None:
    copy = pickle.loads(pickle.dumps(store))
    store.put_if_absent("one", b"1")
    assert copy.get("one") == b"1"


FORK = """
import os, pickle, sys
store = pickle.loads(bytes.fromhex(sys.argv[1]))
assert store.get("one") == b"1"
child = os.fork()
if not child:
    store.put_if_absent("two", store.get("one") + b"2")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert store.get("two") == b"12"
"""


def test_a_store_on_s3_is_asked_again_after_an_error_of_its_own(s3_server: S3Server) -> None:
    store = s3_server.address().open()
    store.put_if_absent("a", b"x")
    for ask in (
        lambda: store.get("a") == b"x",
        lambda: store.exists("a"),
        lambda: store.list_names("b") == [],
        lambda: store.put_if_absent("b", b"y") is None,
    ):
        s3_server.endpoint.requests_to_fail = 2
        assert ask()
        assert s3_server.endpoint.requests_to_fail == 0


def test_a_store_on_s3_survives_a_fork(s3_server: S3Server) -> None:
    store = s3_server.address().open()
    store.put_if_absent("one", b"1")
    process = start(FORK, pickle.dumps(store).hex())
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_keys_stay_out_of_the_name(s3_server: S3Server) -> None:
    store = open_store(s3_server.address().url, {**s3_server.options, "secret": "sesame"})
    assert "sesame" not in repr(store)


class TestOpening:
    """Which stores are taken and which are refused."""

    def test_nothing_is_left_of_the_probe(self, store: ObjectStore) -> None:
        assert store.list_names("probes") == []

    def test_paths_and_addresses_open_the_same_folder(self, tmp_path: Path) -> None:
        open_store(str(tmp_path / "store")).put_if_absent("one", b"1")
        assert open_store(f"file://{tmp_path}/store").get("one") == b"1"

    @pytest.mark.parametrize("careless", ["overwrites", "keeps silent", "looks, then writes"])
    def test_a_store_without_real_put_if_absent_is_refused(self, careless: str) -> None:
        class Careless(MemoryFileSystem):  # type: ignore[misc]
            protocol = "careless"
            cachable = False
            store: dict[str, Any] = {}  # noqa: RUF012
            looked = threading.Barrier(object_store.PROBE_WRITERS, timeout=20)

            @classmethod
            def _strip_protocol(cls, path: str) -> str:
                return str(super()._strip_protocol(path.replace("careless://", "memory://")))

            def pipe_file(self, path: str, value: bytes, mode: str = "", **_: object) -> None:
                exists = self.exists(path)
                if careless == "keeps silent" and exists:
                    return
                if careless == "looks, then writes":
                    if exists:
                        raise FileExistsError(path)
                    if b"writer" in value:
                        self.looked.wait()
                super().pipe_file(path, value)

        fsspec.register_implementation("careless", Careless, clobber=True)
        with pytest.raises(InvalidArgument, match="two writers") as caught:
            open_store("careless://bucket")
        assert caught.value.field == "store"
        assert not [path for path in Careless.store if "probes/" in path]

    def test_addresses_that_cannot_be_a_store_are_refused(
        self, tmp_path: Path, s3_server: S3Server
    ) -> None:
        (tmp_path / "file").write_bytes(b"")
        for url in (
            "nosuch://bucket",
            "simplecache::s3://bucket",
            str(tmp_path / "file" / "store"),
            "s3://no-such-bucket/store",
        ):
            options = s3_server.options if url.startswith("s3") else {}
            with pytest.raises(InvalidArgument) as caught:
                open_store(url, options)
            assert caught.value.field == "store"

    def test_a_store_that_does_not_answer_is_unavailable(self, s3_server: S3Server) -> None:
        options = {
            **s3_server.options,
            "endpoint_url": "http://127.0.0.1:9",
            "config_kwargs": {"retries": {"max_attempts": 0}},
        }
        with pytest.raises(Unavailable, match="does not answer"):
            open_store("s3://bucket/store", options)
