"""An index that documents were deleted from answers as one that never had them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.builds.deletes import shard_without
from actors.builds.shard import ShardPlan, build_shard
from actors.query.local_shards import LocalShards
from actors.shards.index import ShardIndex
from actors.shards.replica import ShardReplica
from cluster.arrays import Float32Array
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.fetch import blob_path
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import IndexManifest, ShardArtifact
from cluster.documents.tombstones import stored_tombstones
from cluster.errors import Corrupt
from cluster.generation.prompt import PromptTemplate
from cluster.query.filters import parse_filter
from cluster.query.search import SearchEffort, ShardHits, ShardQuery
from cluster.serving.view import CorpusView, RegionView, ReleaseView
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.store.local_store import LocalStore
from cluster.store.object_store import ObjectStore
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric
from tests.support.node_cache import node_cache
from tests.support.values.manifests import index_manifest
from tests.support.worlds.published_shards import until_open
from tests.support.worlds.recall import recall_at_10

DIMENSION = 12
TIMEOUT_S = 30.0


def clustered(num_rows: int, seed: int) -> Float32Array:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((20, DIMENSION))
    noise = 0.7 * rng.standard_normal((num_rows, DIMENSION))
    return (centres[rng.integers(0, 20, num_rows)] + noise).astype(np.float32)


VECTORS = clustered(4800, seed=3)


@dataclass(frozen=True)
class Built:
    """One shard of passages: document n has one passage, every third document two."""

    store: ObjectStore
    folder: Path
    parameters: IndexParameters
    partition_by: str | None = None

    def rows(self, documents: Sequence[int]) -> tuple[pa.Table, Float32Array]:
        passages = [(n, p) for n in documents for p in range(2 if n % 3 == 0 else 1)]
        table = pa.table(
            {
                "id": pa.array([f"é{n}#{p}" for n, p in passages], pa.string()),
                "document": pa.array([f"é{n}" for n, _ in passages], pa.string()),
                "text": pa.array([f"text {n}" for n, _ in passages], pa.string()),
                "meta.city": pa.array([f"c{n % 4}" for n, _ in passages], pa.string()),
            }
        )
        return table, VECTORS[[2 * n + p for n, p in passages]]

    def index(self, documents: Sequence[int], version: str) -> IndexManifest:
        folder = self.folder / version
        folder.mkdir(parents=True)
        table, vectors = self.rows(documents)
        built = build_shard(
            table, vectors, ShardPlan(self.parameters, partition_by=self.partition_by), folder
        )
        artifact = ShardArtifact(
            shard=0,
            num_rows=built.num_rows,
            files=Artifacts(self.store).put_folder(folder),
            recall_at_10=built.recall.recall_at_10,
        )
        return self.manifest(version, artifact)

    def manifest(self, version: str, artifact: ShardArtifact) -> IndexManifest:
        return index_manifest(
            version=version,
            dimension=DIMENSION,
            parameters=self.parameters,
            num_passages=artifact.num_rows,
            shards=(artifact,),
            recall_at_10=artifact.recall_at_10,
            partition_by=self.partition_by,
        )

    def without(self, base: IndexManifest, gone: Sequence[int], version: str) -> IndexManifest:
        ids = [f"é{n}" for n in gone]
        found = shard_without(self.cache, base, base.shards[0], [*ids, "elsewhere"])
        assert found.num_documents == len(gone)
        assert found.num_live == base.num_passages - sum(1 + (n % 3 == 0) for n in gone)
        return self.manifest(version, found.artifact)

    @property
    def cache(self) -> ArtifactCache:
        return node_cache(self.store, self.folder / "cache")

    def opened(self, manifest: IndexManifest) -> ShardIndex:
        """By the tombstones that the manifest names, as a replica opens it."""
        artifact = manifest.shards[0]
        folder = self.cache.folder_for(artifact.built_files)
        index = ShardIndex.open(folder, manifest.parameters, DIMENSION)
        return index.without_documents(
            stored_tombstones(Artifacts(self.store), artifact.tombstones)
        )


def ask(vectors: Float32Array, version: str = "", filter: object = None) -> ShardQuery:
    parsed = None if filter is None else parse_filter(filter)
    return ShardQuery(corpus="c", index_version=version, vectors=vectors, top_k=7, filter=parsed)


def same(a: ShardHits, b: ShardHits) -> bool:
    return a.scores.tobytes() == b.scores.tobytes() and a.ids.tolist() == b.ids.tolist()


QUERIES = clustered(60, seed=4)
FILTERS = [None, {"city": "c1"}, {"city": {"in": ["c0", "c2"]}}, {"not": {"city": "c3"}}]


@pytest.mark.parametrize("partition_by", [None, "city"])
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 60), st.floats(0, 1), st.randoms(use_true_random=False))
def test_flat_is_what_a_build_without_the_documents_is_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    partition_by: str | None,
    num_documents: int,
    share: float,
    rng: random.Random,
) -> None:
    folder = tmp_path_factory.mktemp("flat")
    parameters = IndexParameters(kind=IndexKind.FLAT, metric=Metric.L2)
    built = Built(LocalStore(folder / "store"), folder, parameters, partition_by)
    documents = list(range(num_documents))
    gone = rng.sample(documents, round(share * num_documents))
    base = built.index(documents, "whole")
    derived = built.opened(built.without(base, gone, "less"))
    rebuilt = built.opened(built.index([n for n in documents if n not in gone], "rebuilt"))
    for filter in FILTERS:
        query = ask(QUERIES[:9], filter=filter)
        assert same(derived.search(query), rebuilt.search(query))


@pytest.mark.parametrize("kind", [kind for kind in IndexKind if kind is not IndexKind.FLAT])
def test_other_kinds_find_what_a_rebuilt_index_finds_and_say_how_much(
    tmp_path: Path, kind: IndexKind
) -> None:
    parameters = IndexParameters(kind=kind, metric=Metric.COSINE, hnsw_m=12, nprobe=12)
    built = Built(LocalStore(tmp_path / "store"), tmp_path, parameters)
    documents = list(range(2400))
    gone = random.Random(5).sample(documents, 1200)
    base = built.index(documents, "whole")
    manifest = built.without(base, gone, "less")
    derived, queries = built.opened(manifest), prepared(QUERIES, Metric.COSINE)
    rebuilt_manifest = built.index([*set(documents) - set(gone)], "rebuilt")
    rebuilt = built.opened(rebuilt_manifest)
    assert recall_at_10(derived, queries) >= recall_at_10(rebuilt, queries) - 0.01
    assert manifest.shards[0].recall_at_10 >= rebuilt_manifest.shards[0].recall_at_10 - 0.01
    exact = replace(ask(queries), effort=SearchEffort(exact=True))
    assert same(derived.search(exact), rebuilt.search(exact))


def test_a_shard_that_has_none_of_the_documents_stays_as_it_is(tmp_path: Path) -> None:
    built = Built(LocalStore(tmp_path / "store"), tmp_path, IndexParameters(kind=IndexKind.FLAT))
    base = built.index(range(10), "whole")
    assert built.without(base, [], "less").shards == base.shards
    all_gone = built.without(base, range(10), "none").shards[0]
    assert all_gone.recall_at_10 == 1.0
    # Deleting more from what has tombstones already leaves it with one list of all.
    assert all_gone.built_files == base.shards[0].files


def test_the_files_that_were_looked_at_may_go_again(tmp_path: Path) -> None:
    built = Built(LocalStore(tmp_path / "store"), tmp_path, IndexParameters(kind=IndexKind.FLAT))
    base = built.index(range(10), "whole")
    built.without(base, [3], "less")
    cache = built.cache
    assert cache.holds(base.shards[0].files)
    cache.limit(0)
    assert not cache.holds(base.shards[0].files)


# In a replica: both versions at once, on the same files.


async def test_a_replica_serves_both_versions_from_files_that_it_opened_once(
    tmp_path: Path,
) -> None:
    parameters = IndexParameters(kind=IndexKind.HNSW, metric=Metric.L2)
    built = Built(LocalStore(tmp_path / "store"), tmp_path, parameters)
    base = built.index(range(90), "whole")
    before, after = ask(QUERIES, "whole"), ask(QUERIES, "less")
    found = built.opened(base).search(before)
    gone = sorted({int(id.decode()[1:].split("#")[0]) for id in found.ids[:, 0].tolist()})[:40]
    derived = built.without(base, gone, "less")
    opened = []

    def counted(folder: Path, parameters: IndexParameters, dimension: int) -> ShardIndex:
        opened.append(folder)
        return ShardIndex.open(folder, parameters, dimension)

    replica = ShardReplica(0, built.cache, open_index=counted)
    for manifest in (base, derived):
        await replica.load(manifest)
    assert len(opened) == 1
    assert same(await replica.search(before, TIMEOUT_S), found)
    left = await replica.search(after, TIMEOUT_S)
    assert same(left, built.opened(derived).search(after))
    ids = {id.decode().split("#")[0] for id in left.ids.ravel().tolist()}
    assert not ids & {f"é{n}" for n in gone}
    replica.unload("whole")
    assert same(await replica.search(after, TIMEOUT_S), left)
    # And the other way round: what has tombstones is open, and the whole index comes back.
    await replica.load(base)
    assert len(opened) == 1
    assert same(await replica.search(before, TIMEOUT_S), found)
    # One that comes back empty opens it from the files.
    other = ShardReplica(0, node_cache(built.store, tmp_path / "elsewhere"))
    await other.load(derived)
    assert same(await other.search(after, TIMEOUT_S), left)


async def test_damaged_tombstones_are_not_served_without(tmp_path: Path) -> None:
    built = Built(LocalStore(tmp_path / "store"), tmp_path, IndexParameters(kind=IndexKind.FLAT))
    base = built.index(range(20), "whole")
    derived = built.without(base, [3, 4], "less")
    tombstones = derived.shards[0].tombstones
    assert tombstones is not None
    path = tmp_path / "store" / blob_path(tombstones.sha256)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    replica = ShardReplica(0, built.cache)
    await replica.load(base)
    with pytest.raises(Corrupt):
        await replica.load(derived)
    assert not replica.holds("less")
    assert replica.holds("whole")


# In a gateway.


async def test_a_gateway_opens_the_files_that_its_node_has_and_fetches_the_tombstones(
    tmp_path: Path,
) -> None:
    built = Built(LocalStore(tmp_path / "store"), tmp_path, IndexParameters(kind=IndexKind.FLAT))
    base = built.index(range(30), "whole")
    derived = built.without(base, [3, 4, 5], "less")
    Catalog(built.store).publish_index(derived)
    cache = tmp_path / "gateway"
    node_cache(built.store, cache).folder_for(base.shards[0].files)
    local = LocalShards(Catalog(built.store), node_cache(built.store, cache))
    corpus = CorpusView(
        corpus="c",
        index_version="less",
        dimension=DIMENSION,
        metric=Metric.COSINE,
        metadata_schema={},
        has_embedder=False,
        num_passages=derived.num_passages,
        recall_at_10=1.0,
        shards=(("c/0/0",),),
    )
    release = ReleaseView(
        number=1, corpora={"c": corpus}, embedders=(), generator=None, prompt=PromptTemplate()
    )
    local.follow(RegionView(region="here", releases={1: release}))
    await until_open(local, corpus, 0)
    replica = local.replica(corpus, 0)
    assert replica is not None
    hits = await replica.search(ask(QUERIES, "less"), TIMEOUT_S)
    assert same(hits, built.opened(derived).search(ask(QUERIES)))


def test_a_shard_of_another_kind_than_its_index_stays_one(tmp_path: Path) -> None:
    built = Built(LocalStore(tmp_path / "store"), tmp_path, IndexParameters(kind=IndexKind.FLAT))
    flat = built.index(range(10), "whole").shards[0].model_copy(update={"kind": IndexKind.FLAT})
    whole = built.manifest("mixed", flat).model_copy(update={"parameters": IndexParameters()})
    less = shard_without(built.cache, whole, flat, ["é3"]).artifact
    assert (less.kind, less.recall.least) == (IndexKind.FLAT, 1.0)
    replica = ShardReplica(0, built.cache)
    asyncio.run(replica.load(whole.model_copy(update={"shards": (less,)})))
    query = replace(ask(QUERIES[:2]), index_version="mixed")
    assert (asyncio.run(replica.search(query, 5.0)).ids != b"").any()
