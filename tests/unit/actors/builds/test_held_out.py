"""A build finds out how much effort a search needs: real builds, asked by what they do not hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from actors.builds.shard import ShardBuild, ShardPlan, build_shard
from actors.builds.shard_recall import ShardRecall
from actors.shards.index import ShardIndex
from actors.shards.partitions import INDEX_FOLDER
from cluster.arrays import Float32Array
from cluster.query.filters import Compare, Comparison
from cluster.query.search import SearchEffort, ShardQuery
from cluster.shards.index_parameters import IndexKind, IndexParameters, NamedIndex
from cluster.shards.recall import HELD_OUT, MOVED, STORED
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric
from tests.support.worlds.recall import recall_at_10

TARGET = 0.95
NUM_QUERIES = 500


@dataclass(frozen=True)
class Shape:
    """Vectors around some centres. As many centres as vectors: vectors of random directions."""

    num_rows: int
    dimension: int
    num_centres: int
    noise: float

    def drawn(self) -> tuple[Float32Array, Float32Array]:
        """The vectors of a shard, and queries that are not among them."""
        rng = np.random.default_rng(3)
        centres = rng.standard_normal((self.num_centres, self.dimension))
        total = self.num_rows + NUM_QUERIES
        noise = self.noise * rng.standard_normal((total, self.dimension))
        vectors = (centres[rng.integers(0, self.num_centres, total)] + noise).astype(np.float32)
        return vectors[NUM_QUERIES:], vectors[:NUM_QUERIES]


SHAPES = {
    "tiny": Shape(60, 32, 5, 0.6),
    "small": Shape(400, 32, 20, 0.6),
    "clustered": Shape(3000, 32, 100, 1.0),
    "random": Shape(2000, 96, 2000, 1.0),
}
APPROXIMATE = [kind for kind in IndexKind if kind is not IndexKind.FLAT]


def built(
    folder: Path, vectors: Float32Array, asked: NamedIndex, groups: list[str] | None = None
) -> ShardBuild:
    ids = pa.array([f"{row:06}" for row in range(len(vectors))], pa.string())
    table = pa.table({"id": ids, "document": ids, "text": ids})
    if groups is not None:
        table = table.append_column("meta.group", pa.array(groups))
    plan = ShardPlan(asked.parameters, partition_by=None if groups is None else "group")
    return build_shard(table, vectors, plan, folder)


@pytest.mark.parametrize(
    ("shape", "metric"),
    [
        *((shape, Metric.COSINE) for shape in SHAPES),
        ("clustered", Metric.L2),
        ("clustered", Metric.INNER_PRODUCT),
        ("random", Metric.L2),
        ("random", Metric.INNER_PRODUCT),
    ],
)
@pytest.mark.parametrize("kind", APPROXIMATE)
def test_queries_that_an_index_does_not_hold_find_as_much_as_was_asked_for(
    tmp_path: Path, kind: IndexKind, metric: Metric, shape: str
) -> None:
    vectors, queries = SHAPES[shape].drawn()
    asked = NamedIndex(kind=kind, metric=metric, hnsw_m=16, ef_construction=100)
    build = built(tmp_path, vectors, asked)
    index = ShardIndex.open(tmp_path, build.parameters, vectors.shape[1])
    found = recall_at_10(index, prepared(queries, metric))
    assert found >= TARGET
    # What is told is what such queries find.
    assert build.recall.recall_at_10 == pytest.approx(found, abs=0.03)
    if shape == "random" and build.kind is kind:
        least = effort_by(build.parameters, 0.25)
        assert recall_at_10(index.tuned(least), prepared(queries, metric)) < TARGET


@pytest.mark.parametrize("num_rows", [0, 1, 4, 5, 12, 81])
@pytest.mark.parametrize("kind", APPROXIMATE)
def test_a_shard_of_few_vectors_or_none_finds_what_there_is(
    tmp_path: Path, kind: IndexKind, num_rows: int
) -> None:
    vectors, _ = Shape(max(1, num_rows), 16, 3, 0.6).drawn()
    build = built(tmp_path, vectors[:num_rows], NamedIndex(kind=kind))
    assert 0.95 <= build.recall.least <= build.recall.recall_at_10 <= 1.0


@pytest.mark.parametrize("kind", [IndexKind.HNSW, IndexKind.HNSW_SQ])
def test_queries_that_a_graph_holds_would_be_found_with_less(
    tmp_path: Path, kind: IndexKind
) -> None:
    vectors, queries = SHAPES["random"].drawn()
    build = built(tmp_path, vectors, NamedIndex(kind=kind, hnsw_m=16, ef_construction=100))
    measured = ShardRecall.open(tmp_path, prepared(vectors, Metric.COSINE), build.parameters)
    queries = prepared(queries, Metric.COSINE)
    for ef_search in (16, 32, 64):
        little = build.parameters.model_copy(update={"ef_search": ef_search})
        told = measured.at(little)
        found = recall_at_10(measured.known.index.tuned(little), queries)
        assert told.recall_at_10 == pytest.approx(found, abs=0.05)
        assert measured.known.recall(little).recall_at_10 > 0.98
    assert {part.queries for part in told.strata} == {STORED, MOVED, HELD_OUT}


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_partitions_with_an_index_of_their_own_find_as_much(
    tmp_path: Path, kind: IndexKind
) -> None:
    vectors, queries = Shape(9000, 32, 200, 1.0).drawn()
    groups = [("even", "odd")[row % 2] for row in range(len(vectors))]
    asked = NamedIndex(kind=kind, hnsw_m=16, ef_construction=60)
    build = built(tmp_path, vectors, asked, groups)
    index = ShardIndex.open(tmp_path, build.parameters, vectors.shape[1])
    assert list((tmp_path / INDEX_FOLDER).iterdir())
    queries = prepared(queries, Metric.COSINE)
    for group in ("even", "odd"):
        query = ShardQuery(
            corpus="c",
            index_version="v",
            vectors=queries,
            top_k=10,
            filter=Compare("group", Comparison.EQ, group),
        )
        found = index.search(query).scores
        exact = index.search(replace(query, effort=SearchEffort(exact=True))).scores
        assert float((found >= exact[:, -1:]).mean()) >= TARGET


@pytest.mark.parametrize(
    "index",
    [
        NamedIndex(kind=IndexKind.HNSW),
        NamedIndex(kind=IndexKind.IVF_PQ),
        NamedIndex(kind=IndexKind.HNSW, ef_search=40),
    ],
)
def test_a_build_measures_each_effort_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: NamedIndex
) -> None:
    asked: list[tuple[int, IndexParameters]] = []
    tuned = ShardIndex.tuned

    def told(index: ShardIndex, parameters: IndexParameters) -> ShardIndex:
        asked.append((id(index), parameters))
        return tuned(index, parameters)

    monkeypatch.setattr(ShardIndex, "tuned", told)
    vectors, _ = SHAPES["clustered"].drawn()
    built(tmp_path, vectors, index)
    assert asked
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("shape", ["clustered", "random"])
def test_a_request_for_many_hits_keeps_its_recall(tmp_path: Path, shape: str) -> None:
    vectors, queries = SHAPES[shape].drawn()
    build = built(tmp_path, vectors, NamedIndex(hnsw_m=16, ef_construction=100))
    index = ShardIndex.open(tmp_path, build.parameters, vectors.shape[1])
    for top_k in (10, 12, 20, 50, 100):
        query = ShardQuery(
            corpus="c", index_version="v", vectors=prepared(queries, Metric.COSINE), top_k=top_k
        )
        found = index.search(query).scores
        exact = index.search(replace(query, effort=SearchEffort(exact=True))).scores
        assert float((found >= exact[:, -1:]).mean()) >= TARGET


def effort_by(parameters: IndexParameters, share: float) -> IndexParameters:
    names = ("ef_search", "nprobe")
    update = {name: max(1, int(getattr(parameters, name) * share)) for name in names}
    return parameters.model_copy(update=update)
