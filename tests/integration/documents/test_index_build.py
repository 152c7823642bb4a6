"""Index versions built on a real Ray, from documents that bring their vectors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
import pytest

from actors.builds.build import build_index
from actors.documents.ingest import ingest
from actors.documents.source_files import find_source_files
from actors.shards.index import INDEX_FILE, ShardIndex
from cluster.arrays import Float32Array
from cluster.artifacts.artifacts import Artifacts
from cluster.catalog.catalog import Catalog, Published
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.manifests import IndexManifest, ManifestRef
from cluster.errors import InvalidArgument
from cluster.query.filters import parse_filter
from cluster.query.search import ShardQuery
from cluster.shards.index_parameters import AutoIndex, IndexKind, NamedIndex
from cluster.shards.merge import merge_hits
from cluster.shards.partitions import shard_of_partition, shards_to_ask
from cluster.store.object_store import ObjectStore, open_store
from cluster.vectors.metric import Metric
from tests.support.node_cache import node_cache
from tests.support.regions.local_ray import local_ray

pytestmark = [
    pytest.mark.integration,
    # Ray's own code warns of its own deprecations.
    pytest.mark.filterwarnings("default::DeprecationWarning:ray.*"),
    pytest.mark.filterwarnings("default::FutureWarning:ray.*"),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]

CORPUS = "docs"
DIMENSION = 12
ROWS = 1500
SHARDS = 3
FACTBOOK = Path(__file__).resolve().parents[3] / "data" / "factbook" / "factbook.jsonl"
faiss: Any = _faiss


def clustered(num_rows: int, seed: int) -> Float32Array:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((20, DIMENSION))
    noise = 0.5 * rng.standard_normal((num_rows, DIMENSION))
    return (centres[rng.integers(0, 20, num_rows)] + noise).astype(np.float32)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_ray():
        yield


@dataclass(frozen=True)
class Corpus:
    store: ObjectStore
    vectors: Float32Array
    folder: Path

    def build(
        self, index: NamedIndex | AutoIndex, partition_by: str | None = None
    ) -> tuple[IndexManifest, bool]:
        built = build_index(
            Catalog(self.store),
            node_cache(self.store, self.folder / "cache"),
            CORPUS,
            CorpusSettings(shards=SHARDS, index=index, partition_by=partition_by),
            None,
        )
        return built.manifest, built.reused

    def opened(self, manifest: IndexManifest) -> list[tuple[Path, ShardIndex]]:
        opened = []
        for shard in manifest.shards:
            folder = node_cache(self.store, self.folder / "read").folder_for(shard.files)
            index = ShardIndex.open(folder, manifest.parameters, manifest.dimension)
            opened.append((folder, index))
        return opened

    def recall(self, manifest: IndexManifest) -> float:
        """Through all shards, against a sort of everything."""
        queries = clustered(100, seed=5)
        query = ShardQuery(corpus=CORPUS, index_version="", vectors=queries, top_k=10)
        parts = [(i, index.search(query)) for i, (_, index) in enumerate(self.opened(manifest))]
        found = merge_hits(parts, 10).ids.tolist()
        exact = ((queries[:, None, :] - self.vectors[None]) ** 2).sum(axis=2)
        wanted = np.argsort(exact, axis=1)[:, :10]
        names = [{f"d{row}".encode() for row in rows} for rows in wanted.tolist()]
        return float(np.mean([len({*a} & b) / 10 for a, b in zip(found, names, strict=True)]))


@pytest.fixture(scope="module")
def corpus(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two parts, of which the second replaces some documents of the first."""
    folder = tmp_path_factory.mktemp("corpus")
    store = open_store(str(folder / "store"))
    old, new = clustered(ROWS, seed=1), clustered(300, seed=2)
    _ingest(store, folder / "a.jsonl", range(ROWS), old)
    _ingest(store, folder / "b.jsonl", range(ROWS - 100, ROWS + 200), new)
    return Corpus(store, np.concatenate([old[:-100], new]), folder)


def _ingest(store: ObjectStore, path: Path, numbers: range, vectors: Float32Array) -> None:
    documents = (
        {"id": f"d{number}", "text": f"text {number}", "vector": vector.tolist()}
        for number, vector in zip(numbers, vectors, strict=True)
    )
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    _ingest_file(store, path)


def _ingest_file(store: ObjectStore, path: Path) -> None:
    ingest(
        catalog=Catalog(store),
        artifacts=Artifacts(store),
        corpus=CORPUS,
        listing=find_source_files([str(path)]),
        replace=False,
    )


@pytest.mark.parametrize("kind", [kind for kind in IndexKind if kind.has_lists])
def test_all_shards_of_a_version_share_their_centroids(corpus: Corpus, kind: IndexKind) -> None:
    asked = NamedIndex(kind=kind, metric=Metric.L2, nlist=8, nprobe=6)
    manifest, reused = corpus.build(asked)
    assert (reused, manifest.parameters, manifest.tuning) == (False, asked.parameters, None)
    assert manifest.num_passages == ROWS + 200
    centroids = set()
    for folder, shard in corpus.opened(manifest):
        assert shard.num_lists == 8
        index = faiss.read_index(str(folder / INDEX_FILE))
        centroids.add(index.quantizer.reconstruct_n(0, 8).tobytes())
    assert len(centroids) == 1
    assert corpus.recall(manifest) > 0.95


def test_a_build_is_reproducible(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = NamedIndex(kind=IndexKind.IVF_PQ, metric=Metric.L2, pq_m=6)
    first, _ = corpus.build(asked)
    # As though it had never been built.
    find: Callable[..., None] = lambda *_: None  # noqa: E731
    monkeypatch.setattr(Catalog, "find_index", find)
    monkeypatch.setattr(Catalog, "publish_index", as_published)
    second, _ = corpus.build(asked)
    assert second.built_at_ms != first.built_at_ms
    assert second.version == first.version
    assert second.shards == first.shards


def as_published(_: Catalog, manifest: IndexManifest) -> Published[IndexManifest]:
    ref = ManifestRef(version=manifest.version, sha256=manifest.digest())
    return Published(manifest, ref, reused=False)


def test_auto_finds_an_index_and_says_what_it_tried(corpus: Corpus) -> None:
    asked = AutoIndex(metric=Metric.L2, target_recall=0.9)
    manifest, reused = corpus.build(asked)
    assert not reused
    tuning = manifest.tuning
    assert tuning is not None
    assert tuning.asked == asked
    assert {trial.parameters.kind for trial in tuning.trials} == {*IndexKind}
    chosen = next(trial.parameters for trial in tuning.trials if trial.is_chosen)
    assert manifest.parameters.kind is chosen.kind
    assert manifest.parameters.metric is Metric.L2
    assert manifest.recall_at_10 >= 0.9
    assert corpus.recall(manifest) > 0.85
    # Its name comes from what was asked, so that it is found whatever was measured.
    assert corpus.build(asked) == (manifest, True)
    assert corpus.build(asked.model_copy(update={"target_recall": 0.8}))[0].version != (
        manifest.version
    )


def test_auto_keeps_to_the_memory_it_is_given(corpus: Corpus) -> None:
    plain = ROWS * DIMENSION * 4
    asked = AutoIndex(metric=Metric.L2, target_recall=0.9, memory_bytes_max=plain)
    manifest, _ = corpus.build(asked)
    assert manifest.parameters.kind.is_quantized
    files = [file for shard in manifest.shards for file in shard.files if file.path == INDEX_FILE]
    assert sum(file.size_bytes for file in files) <= plain
    with pytest.raises(InvalidArgument, match="no kind fits"):
        corpus.build(asked.model_copy(update={"memory_bytes_max": 1000}))


def test_parts_that_do_not_divide_a_vector_are_refused_before_the_work(corpus: Corpus) -> None:
    with pytest.raises(InvalidArgument) as caught:
        corpus.build(NamedIndex(kind=IndexKind.IVF_PQ, pq_m=5))
    assert caught.value.field == "index.pq_m"


# Partitions: the countries of the Factbook.


def test_a_country_is_in_one_shard_even_when_a_document_moves(
    cluster: None, tmp_path: Path
) -> None:
    """The documents of Chad move to Atlantis, to another shard; one is left without a country."""
    documents = [json.loads(line) for line in FACTBOOK.read_text().splitlines()]
    vectors = clustered(len(documents), seed=3)
    for document, vector in zip(documents, vectors, strict=True):
        document["vector"] = vector.tolist()
    moved = [json.loads(json.dumps(d)) for d in documents if d["metadata"]["country"] == "Chad"]
    for document in moved:
        document["metadata"]["country"] = "Atlantis"
    del moved[0]["metadata"]["country"]
    assert len({shard_of_partition(c, SHARDS) for c in ("Chad", "Atlantis")}) == 2
    corpus = Corpus(open_store(str(tmp_path / "store")), vectors, tmp_path)
    for name, part in (("a", documents), ("b", moved)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(document) + "\n" for document in part))
        _ingest_file(corpus.store, path)
    flat = NamedIndex(kind=IndexKind.FLAT, metric=Metric.L2)
    plain, _ = corpus.build(flat)
    manifest, reused = corpus.build(flat, partition_by="country")
    assert (reused, manifest.partition_by, plain.partition_by) == (False, "country", None)
    assert manifest.version != plain.version
    assert manifest.num_passages == plain.num_passages == len(documents)
    assert manifest.num_documents == plain.num_documents == len(documents)
    shards = [index for _, index in corpus.opened(manifest)]
    for number, shard in enumerate(shards):
        countries = shard.passages(range(shard.num_rows), ("country",)).metadata
        found = {str(fields["country"]) for fields in countries if fields["country"] is not None}
        assert {shard_of_partition(country, SHARDS) for country in found} == {number}
    whole = [index for _, index in corpus.opened(plain)]
    filters: list[object] = [{"country": "Chad"}, {"country": "Atlantis"}, {"country": None}]
    filters += [{"country": "France", "section": "overview"}, {"region": "africa"}]
    filters += [{"country": {"in": ["France", "Mali", "Nowhere"]}}]
    for filter in map(parse_filter, filters):
        query = ShardQuery(
            corpus=CORPUS, index_version="", vectors=vectors[:20], top_k=10, filter=filter
        )
        asked = shards_to_ask(filter, "country", SHARDS)
        hits = merge_hits([(number, shards[number].search(query)) for number in asked], 10)
        wanted = merge_hits(
            [(number, index.search(query)) for number, index in enumerate(whole)], 10
        )
        assert hits.ids.tolist() == wanted.ids.tolist()
        assert hits.scores.tobytes() == wanted.scores.tobytes()
    with pytest.raises(InvalidArgument, match="country, region, section"):
        corpus.build(flat, partition_by="colour")
