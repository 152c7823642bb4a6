"""A build embeds what no build before it has embedded, and makes the same bytes all the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
import ray

from actors.builds import embedding
from actors.builds.earlier_vectors import (
    KnownVectors,
    OpenedVectors,
    earlier_vectors,
    live_vectors,
    replaced_documents,
)
from actors.builds.embedding import EmbedBatches
from actors.builds.rows import PartReader, Sharder, latest_of_each_document, part_rows
from actors.builds.shard import ShardPlan, build_shard
from cluster.arrays import Float32Array
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.claims import SWEEPS, Sweep
from cluster.artifacts.fetch import blob_path
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.catalog import Catalog
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.index_versions import BuildPlan
from cluster.catalog.manifests import CorpusManifest, IndexManifest, ModelManifest, ShardArtifact
from cluster.clock import SYSTEM_CLOCK
from cluster.documents.content import PartDocuments
from cluster.documents.passages import cut_passages, vectors_of
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Content, Mutation
from cluster.mutations.watermark import Watermark
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.store.object_store import open_store
from cluster.vectors.checks import normalized
from cluster.vectors.metric import Metric
from tests.support.node_cache import node_cache
from tests.support.values.manifests import index_manifest
from tests.support.values.mutations import CORPUS
from tests.support.worlds.live_corpus import append, compact, delete, ingest, live, log_of
from tests.support.worlds.next_release_world import embedder

DIMENSION = 24
SHARDS = 2
MODEL = embedder("a").model_copy(update={"dimension": DIMENSION})


class Counter:
    """Stands for the actor that counts, and is called as one."""

    def __init__(self) -> None:
        self.done = 0
        self.add = self

    def remote(self, count: int) -> None:
        self.done += count


class HashEmbedder:
    """Vectors of length 1 that depend on the text alone; remembers what it was asked for."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed_passages(self, texts: Sequence[str]) -> Float32Array:
        self.texts += texts
        return normalized(np.stack([self._vector(text) for text in texts]))

    def _vector(self, text: str) -> Float32Array:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
        vector = np.random.default_rng(seed).standard_normal(DIMENSION)
        return vector.astype(np.float32)


@dataclass
class Opened:
    """Stands for `EarlierVectors`, whose value Ray hands on."""

    vectors: OpenedVectors

    def opened(self) -> OpenedVectors:
        return self.vectors


@dataclass
class World:
    folder: Path
    embedder: HashEmbedder
    metric: Metric = Metric.COSINE
    partition_by: str | None = None
    store: Any = field(default_factory=lambda: open_store(f"memory://{uuid4().hex}"))

    @property
    def corpus(self) -> CorpusManifest:
        return Catalog(self.store).existing_corpus(CORPUS)

    def build(self, known: IndexManifest | None) -> tuple[IndexManifest, list[str]]:
        """An index of the latest position and the texts that were embedded for it."""
        self.embedder.texts.clear()
        corpus = self.corpus
        reader = PartReader(Artifacts(self.store), corpus)
        rows = reader.read(pa.Table.from_pylist(part_rows(corpus)))
        passages = cut_passages(rows, lambda text: [text, f"more of {text}"])
        earlier = None if known is None else Opened(self._vectors_of(known))
        counter = Counter()
        embedded = EmbedBatches(MODEL, Any, counter, earlier)(passages)  # type: ignore[arg-type]
        assert counter.done == passages.num_rows
        placed = Sharder(SHARDS, self.partition_by).add(latest_of_each_document(embedded))
        parameters = IndexParameters(kind=IndexKind.HNSW, metric=self.metric)
        plan = ShardPlan(parameters, partition_by=self.partition_by)
        shards = tuple(self._shard(n, placed, plan) for n in range(SHARDS))
        manifest = index_manifest(
            corpus=CORPUS,
            version="v",
            corpus_position=corpus.position,
            dimension=DIMENSION,
            parameters=parameters,
            embedder_fingerprint=MODEL.fingerprint,
            shards=shards,
            partition_by=self.partition_by,
        )
        return manifest, list(self.embedder.texts)

    def _vectors_of(self, index: IndexManifest) -> OpenedVectors:
        before = Catalog(self.store).corpus_at(CORPUS, index.corpus_position)
        documents = PartDocuments(Artifacts(self.store))
        replaced = replaced_documents(self.corpus.parts, before.parts, documents)
        cache = node_cache(self.store, self.folder / "cache")
        return OpenedVectors(cache, KnownVectors(index=index, replaced=replaced))

    def _shard(self, number: int, placed: pa.Table, plan: ShardPlan) -> ShardArtifact:
        mask = pa.array([shard == number for shard in placed["shard"].to_pylist()], pa.bool_())
        table = placed.filter(mask)
        folder = self.folder / uuid4().hex
        folder.mkdir()
        vectors = vectors_of(table)
        build = build_shard(table.drop_columns(["vector", "part", "shard"]), vectors, plan, folder)
        return ShardArtifact(
            shard=number,
            num_rows=build.num_rows,
            files=Artifacts(self.store).put_folder(folder),
            recall_at_10=1.0,
        )


@pytest.fixture
def hash_embedder(monkeypatch: pytest.MonkeyPatch) -> HashEmbedder:
    made = HashEmbedder()
    monkeypatch.setattr(embedding, "open_embedder", lambda model, cache, num_cores: made)
    return made


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("partition_by", [None, "n"])
def test_only_what_is_new_is_embedded_and_the_bytes_are_the_same(
    tmp_path: Path, hash_embedder: HashEmbedder, metric: Metric, partition_by: str | None
) -> None:
    world = World(tmp_path, hash_embedder, metric, partition_by)
    ingest(world.store, {f"d{n}": n % 3 for n in range(200)})
    first, texts = world.build(None)
    assert len(texts) == 400
    append(world.store, live("d7", 9, 10), live("new", 1, 11), live("d8", None, 12))
    delete(world.store, "d9")
    compact(world.store)
    second, texts = world.build(first)
    assert sorted(texts) == ["d7 9", "more of d7 9", "more of new 1", "new 1"]
    from_scratch, texts = world.build(None)
    # Rows that a later part replaces are embedded, too.
    assert len(texts) == 400
    assert second.shards == from_scratch.shards
    # Those of before the build before are known not to count.
    third, texts = world.build(second)
    assert texts == ([] if partition_by is None else ["d7 1", "more of d7 1"])
    assert third.shards == second.shards


def test_a_vector_that_does_not_stay_as_it_is_when_it_is_normalised_is_made_anew(
    tmp_path: Path, hash_embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, hash_embedder)
    ingest(world.store, {"a": 1, "b": 1})
    first, _ = world.build(None)
    monkeypatch.setattr(
        "actors.builds.earlier_vectors.prepared", lambda vectors, metric: vectors + np.float32(1)
    )
    assert len(world.build(first)[1]) == 4


def test_an_embedder_is_opened_only_for_what_is_new(
    tmp_path: Path, hash_embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, hash_embedder)
    ingest(world.store, {"a": 1, "b": 1})
    first, _ = world.build(None)

    def refuse(*_: object) -> None:
        raise AssertionError("nothing is to be embedded")

    monkeypatch.setattr(embedding, "open_embedder", refuse)
    assert world.build(first)[0].shards == first.shards


# Whose vectors are taken.


def publish(world: World, settings: CorpusSettings, model: ModelManifest) -> IndexManifest:
    index, _ = world.build(None)
    plan = BuildPlan(world.corpus, settings, model)
    update = {"version": plan.version, "embedder_fingerprint": model.fingerprint}
    return Catalog(world.store).publish_index(index.model_copy(update=update)).manifest


def test_vectors_are_those_of_the_latest_build_with_the_same_settings(
    tmp_path: Path, hash_embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, asked = World(tmp_path, hash_embedder), CorpusSettings()
    catalog, cache = Catalog(world.store), node_cache(world.store, tmp_path / "cache")

    # Ray keeps the value for the processes of the build.
    monkeypatch.setattr(ray, "put", lambda value: value)

    def found(settings: CorpusSettings = asked, model: ModelManifest | None = MODEL) -> str | None:
        plan = BuildPlan(world.corpus, settings, model)
        known: Any = earlier_vectors(catalog, cache, plan, None)
        return None if known is None else known.known.index.version

    ingest(world.store, {"a": 1})
    assert found() is None
    publish(world, asked, MODEL)
    ingest(world.store, {"b": 1})
    second = publish(world, asked, MODEL)
    publish(world, CorpusSettings(shards=7), MODEL)
    ingest(world.store, {"c": 1})
    assert found() == second.version
    assert found(CorpusSettings(shards=5)) is None
    assert found(model=embedder("b")) is None
    assert found(model=None) is None
    # It is about to be removed from the store, since nothing needs it.
    path = blob_path(second.shards[0].files[0].sha256)
    sweep = Sweep(at_ms=SYSTEM_CLOCK.wall_ms(), paths=(path,))
    world.store.put_if_absent(f"{SWEEPS}/one.json", sweep.to_bytes())
    assert found() is None


# What was written live.


def test_passages_that_were_embedded_when_they_were_written_are_not_embedded_again(
    tmp_path: Path, hash_embedder: HashEmbedder
) -> None:
    store = open_store(f"memory://{uuid4().hex}")
    vectors = hash_embedder.embed_passages(["one", "two"])
    own = Content(
        text="one two", metadata={}, cuts=((0, 3), (4, 7)), vectors=vectors, embedder=MODEL.version
    )
    others = replace(own, text="six two", embedder="another")
    times = [HybridTime(n, 0, "a") for n in range(4)]
    append(store, Mutation(document="a", time=times[1], content=own))
    append(store, Mutation(document="b", time=times[2], content=others))
    append(store, live("c", None, 3))
    found, of_found = live_vectors(log_of(store), Watermark(), MODEL.version)
    assert of_found is not None
    assert (found, of_found.tobytes()) == (("one", "two"), vectors.tobytes())
    assert live_vectors(log_of(store), Watermark.of({"a": 1}), MODEL.version) == ((), None)

    known = KnownVectors(live_texts=found, live_vectors=of_found)
    opened = OpenedVectors(node_cache(store, tmp_path / "cache"), known)
    rows = opened.find(pa.table({"text": ["two", "six", "one"]}))
    assert {row: vector.tobytes() for row, vector in rows.items()} == {
        0: vectors[1].tobytes(),
        2: vectors[0].tobytes(),
    }


def test_a_document_counts_as_replaced_only_if_the_build_before_knew_it_so() -> None:
    ids = {"a": "xyz", "b": "xy", "c": "x", "d": "w"}
    files = {n: ArtifactFile(path=n, sha256=n * 64, size_bytes=1) for n in ids}
    parts = list(files.values())
    documents = PartDocuments(None, {files[n]: list(of) for n, of in ids.items()})  # type: ignore[arg-type]
    assert replaced_documents(parts, parts, documents) == {
        0: {"x", "y"},
        1: {"x"},
        2: frozenset(),
        3: frozenset(),
    }
    # Of x the part c has the latest version, which the build before did not have.
    before = {files[n] for n in "abd"}
    assert replaced_documents(parts, before, documents) == {
        0: {"y"},
        1: frozenset(),
        3: frozenset(),
    }
