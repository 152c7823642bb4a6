"""Damaged artifacts: found out before a replica serves a byte of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
import ray

from actors.builds.shard import ShardPlan, build_shard
from actors.runtime import names
from actors.runtime.calls import NAMESPACE
from actors.shards.documents import DOCUMENTS_FILE
from actors.shards.index import INDEX_FILE, ShardIndex
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.fetch import blob_path
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.manifests import IndexManifest
from cluster.errors import Conflict, Corrupt, NotFound
from cluster.releases.entries import ReleaseContents, ReleaseStatus
from cluster.releases.requests import RollBackTo
from cluster.store.object_store import open_store
from deployments.hosting import release_commands
from tests.support.regions.region_fixture import FLAT, TINY, LiveRegion, build, ingest
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

DIMENSION = 8
ROWS = 24
Damage = Callable[[bytes], bytes]


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    damaged = bytearray(data)
    damaged[at] ^= 1 << bit
    return bytes(damaged)


DAMAGES: dict[str, tuple[str, Damage]] = {
    "first bit of the index": (INDEX_FILE, lambda data: flipped(data, 0)),
    "last bit of the index": (INDEX_FILE, lambda data: flipped(data, len(data) - 1, 7)),
    "a bit in the middle of the documents": (
        DOCUMENTS_FILE,
        lambda data: flipped(data, len(data) // 2, 3),
    ),
}
OTHER_SIZES: dict[str, tuple[str, Damage]] = {
    "index without its last byte": (INDEX_FILE, lambda data: data[:-1]),
    "documents with a byte too many": (DOCUMENTS_FILE, lambda data: data + b"\0"),
    "empty documents": (DOCUMENTS_FILE, lambda data: b""),
}


@dataclass(frozen=True)
class Tiny:
    """A corpus of ready-made vectors (.npy), built, not yet part of any release."""

    manifest: IndexManifest
    contents: ReleaseContents
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]]

    def file(self, name: str) -> ArtifactFile:
        return next(f for f in self.manifest.shards[-1].files if f.path == name)


@pytest.fixture(scope="module")
def tiny(shared_region: LiveRegion, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    source = tmp_path_factory.mktemp("tiny") / "vectors.npy"
    vectors = np.random.default_rng(5).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    np.save(source, vectors)
    ingest(shared_region.installation, TINY, source)
    manifest, ref = build(shared_region.installation, TINY)
    assert manifest.embedder_fingerprint is None
    indexes = {**shared_region.contents.indexes, TINY: ref}
    contents = shared_region.contents.model_copy(update={"indexes": indexes})
    return Tiny(manifest, contents, vectors)


@contextmanager
def damaged(path: Path, damage: Damage) -> Iterator[None]:
    """A file with other bytes while the block runs. What has it open keeps the right ones."""
    right = path.read_bytes()
    _put_in_place(path, damage(right))
    try:
        yield
    finally:
        _put_in_place(path, right)


def _put_in_place(path: Path, data: bytes) -> None:
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(data)
    draft.replace(path)


def stored(region: LiveRegion, file: ArtifactFile) -> Path:
    return Path(region.installation.settings.store.url) / blob_path(file.sha256)


def cached(region: LiveRegion, file: ArtifactFile) -> Path:
    return region.installation.cache.folder / "blobs" / file.sha256[:2] / file.sha256


def propose(region: LiveRegion, contents: ReleaseContents) -> int:
    return release_commands.propose(region.installation, contents, commit=True, note=lambda _: None)


@pytest.fixture
def nothing_cached(shared_region: LiveRegion, tiny: Tiny) -> None:
    """Good copies from an earlier test would be used in place of the damaged ones."""
    for shard in tiny.manifest.shards:
        for file in shard.files:
            cached(shared_region, file).unlink(missing_ok=True)


@pytest.mark.usefixtures("nothing_cached")
@pytest.mark.parametrize("name", DAMAGES)
def test_a_release_with_a_damaged_shard_is_aborted_and_the_current_one_goes_on(
    shared_region: LiveRegion, http: httpx.Client, tiny: Tiny, name: str
) -> None:
    path, damage = DAMAGES[name]
    file = tiny.file(path)
    with damaged(stored(shared_region, file), damage), pytest.raises(Conflict) as caught:
        propose(shared_region, tiny.contents)
    assert f"({path}) holds" in caught.value.message
    assert file.sha256 in caught.value.message
    assert not cached(shared_region, file).exists()
    state = shared_region.coordinator.log_state()
    proposal = state.proposals[state.next_release - 1]
    assert proposal.status is ReleaseStatus.ABORTED
    # Nothing of it stays: not the shards that were right, nor the actors that were made for it.
    wait_until(lambda: not _actors(tiny), "the replicas to be gone")
    assert shared_region.coordinator.status().release == shared_region.release
    found = shared_region.search(http, query="What is the Saxon Garden in Polish?")
    assert (found["release"], found["hits"][0]["id"]) == (shared_region.release, "Warsaw/0")
    refused = http.post("/v1/search", json={"corpus": TINY, "vector": [1.0] * DIMENSION})
    assert refused.json()["error"]["field"] == "corpus"


@pytest.mark.parametrize("name", OTHER_SIZES)
def test_a_shard_of_another_size_is_not_even_proposed(
    shared_region: LiveRegion, tiny: Tiny, name: str
) -> None:
    before = shared_region.coordinator.log_state()
    path, damage = OTHER_SIZES[name]
    file = tiny.file(path)
    with (
        damaged(stored(shared_region, file), damage),
        pytest.raises(Corrupt, match=rf"{file.sha256} \({path}\) holds"),
    ):
        propose(shared_region, tiny.contents)
    assert shared_region.coordinator.log_state() == before


def test_a_shard_that_is_missing_is_not_even_proposed(
    shared_region: LiveRegion, tiny: Tiny
) -> None:
    before = shared_region.coordinator.log_state()
    blob = stored(shared_region, tiny.file(INDEX_FILE))
    aside = blob.with_suffix(".aside")
    blob.rename(aside)
    try:
        with pytest.raises(NotFound, match=tiny.file(INDEX_FILE).sha256):
            propose(shared_region, tiny.contents)
    finally:
        aside.rename(blob)
    assert shared_region.coordinator.log_state() == before


def test_an_index_manifest_of_another_hash_is_not_even_proposed(
    shared_region: LiveRegion, tiny: Tiny
) -> None:
    version = tiny.manifest.version
    before = shared_region.coordinator.log_state()
    path = Path(shared_region.installation.settings.store.url) / f"indexes/{TINY}/{version}.json"
    with (
        damaged(path, lambda data: data.replace(b'"num_passages":24', b'"num_passages":25')),
        pytest.raises(Corrupt, match=version),
    ):
        propose(shared_region, tiny.contents)
    assert shared_region.coordinator.log_state() == before


def test_a_replica_that_comes_back_mends_a_damaged_cache(
    shared_region: LiveRegion, http: httpx.Client, tiny: Tiny
) -> None:
    """The cache of the node is as good as the store's copy, or is not served from."""
    propose(shared_region, tiny.contents)
    try:
        _assert_serves(shared_region, http, tiny)
        file = tiny.file(INDEX_FILE)
        in_store, in_cache = stored(shared_region, file), cached(shared_region, file)

        _put_in_place(in_cache, flipped(in_cache.read_bytes(), 100))
        _restart_replica(tiny)
        right = in_store.read_bytes()
        wait_until(lambda: in_cache.read_bytes() == right, "the cache to be mended")
        wait_until(lambda: _num_serving(shared_region) == _wanted(tiny), "the replica to load")
        _assert_serves(shared_region, http, tiny)

        with damaged(in_store, lambda data: flipped(data, 100)):
            _put_in_place(in_cache, in_cache.read_bytes()[:-1])
            _restart_replica(tiny)
            wait_until(lambda: _num_serving(shared_region) < _wanted(tiny), "the loss to be seen")
            # The gateway goes on with what it verified and mapped before.
            _assert_serves(shared_region, http, tiny)
            assert shared_region.search(http, query="tea")["coverage"] == 1.0
            assert _num_serving(shared_region) < _wanted(tiny)
        wait_until(lambda: _num_serving(shared_region) == _wanted(tiny), "the replica to load")
        _assert_serves(shared_region, http, tiny)
    finally:
        release_commands.switch(RollBackTo(release=shared_region.release, force=True))


def _assert_serves(region: LiveRegion, http: httpx.Client, tiny: Tiny) -> None:
    body = {"corpus": TINY, "vectors": tiny.vectors.tolist(), "top_k": 1}
    results = region.search(http, **body)["results"]
    normalized = tiny.vectors / np.linalg.norm(tiny.vectors, axis=1, keepdims=True)
    assert len({r["hits"][0]["id"] for r in results}) == ROWS
    assert np.allclose([r["hits"][0]["score"] for r in results], (normalized**2).sum(axis=1))


def _actors(tiny: Tiny) -> list[str]:
    """Those that are there of the replicas of the corpus."""
    wanted = {names.replica(TINY, shard.shard, 0) for shard in tiny.manifest.shards}
    named = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in named if actor["name"] in wanted]


def _restart_replica(tiny: Tiny) -> None:
    name = names.replica(TINY, tiny.manifest.shards[-1].shard, 0)
    ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=False)


def _wanted(tiny: Tiny) -> int:
    return len(tiny.manifest.shards)


def _num_serving(region: LiveRegion) -> int:
    resident = {r.release: r for r in region.coordinator.status().resident}
    corpora = resident[max(resident)].corpora
    return next(c.replicas_serving for c in corpora if c.corpus == TINY)


# Without a cluster: no bit anywhere in a shard's files escapes.


def test_no_flipped_bit_and_no_cut_escapes(tmp_path: Path) -> None:
    rng = random.Random(11)
    vectors = np.random.default_rng(3).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    ids = [f"d{row:02}" for row in range(ROWS)]
    folder = tmp_path / "shard"
    folder.mkdir()
    build_shard(
        pa.table({"id": ids, "document": ids, "text": ids}), vectors, ShardPlan(FLAT), folder
    )
    artifacts = Artifacts(open_store(str(tmp_path / "store")))
    files = artifacts.put_folder(folder)
    assert {file.path for file in files} == {INDEX_FILE, DOCUMENTS_FILE}
    cache = ArtifactCache(artifacts, tmp_path / "cache")
    right = cache.folder_for(files)
    for file in files:
        blob = tmp_path / "store" / blob_path(file.sha256)
        in_cache = tmp_path / "cache" / "blobs" / file.sha256[:2] / file.sha256
        for number in range(300):
            at, bit = rng.randrange(file.size_bytes), rng.randrange(8)
            damage = partial(flipped, at=at, bit=bit) if number % 3 else itemgetter(slice(at))
            _put_in_place(in_cache, damage(in_cache.read_bytes()))
            with damaged(blob, damage), pytest.raises(Corrupt):
                cache.folder_for(files)
            # What is damaged in the cache alone is fetched again.
            assert cache.folder_for(files) == right
            assert (right / file.path).read_bytes() == blob.read_bytes()
    assert ShardIndex.open(right, FLAT, DIMENSION).num_rows == ROWS
