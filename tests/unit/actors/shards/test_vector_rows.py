"""Rows with equal vectors: once in the index, all of them in the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.builds.shard import ShardPlan, build_shard
from actors.shards import partitions as shard_partitions
from actors.shards import selection as shard_selection
from actors.shards import vector_rows
from actors.shards.index import INDEX_FILE, ShardIndex
from actors.shards.mapped_batch import write_batch
from actors.shards.vector_rows import VECTOR_ROWS_FILE, SharedVectors, vector_numbers
from cluster.arrays import Float32Array
from cluster.errors import Corrupt
from cluster.query.filters import parse_filter
from cluster.query.search import SearchEffort, ShardQuery
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric

faiss: Any = _faiss
DIMENSION = 16
OLD_SHARD = Path(__file__).parents[3] / "data" / "shard_one_vector_a_row"
"""Written before rows shared vectors: 90 rows, of which 30 are equal, in partitions."""
THOROUGH = {"ef_search": 1000, "nprobe": 1000, "rescore": 1000, "ef_construction": 100}


def normal(*shape: int, seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def build(
    folder: Path,
    vectors: Float32Array,
    parameters: IndexParameters,
    cities: Sequence[str] | None = None,
) -> ShardIndex:
    folder.mkdir(parents=True)
    ids = pa.array([f"p{i:05}" for i in range(len(vectors))], pa.string())
    columns = {"id": ids, "document": ids, "text": ids, "meta.row": pa.array(range(len(vectors)))}
    if cities is not None:
        columns["meta.city"] = pa.array(cities, pa.string())
    by = None if cities is None else "city"
    build_shard(pa.table(columns), vectors, ShardPlan(parameters, partition_by=by), folder)
    return ShardIndex.open(folder, parameters, vectors.shape[1])


def ask(vectors: Float32Array, top_k: int = 10, filter: object = None) -> ShardQuery:
    parsed = None if filter is None else parse_filter(filter)
    return ShardQuery(corpus="c", index_version="v", vectors=vectors, top_k=top_k, filter=parsed)


def best_rows(
    stored: Float32Array, live: Sequence[int], query: Float32Array, k: int, metric: Metric
) -> list[int]:
    """By a plain sort: (score descending, row ascending), padded with -1."""
    wide, vector = stored.astype(np.float64), query.astype(np.float64)
    products = -((wide - vector) ** 2) if metric is Metric.L2 else wide * vector
    scores = products.sum(axis=1).astype(np.float32)
    order = sorted(live, key=lambda row: (-scores[row], row))[:k]
    return order + [-1] * (k - len(order))


def boilerplate_and_answers(dimension: int = 64) -> tuple[Float32Array, np.ndarray]:
    """1,500 equal vectors with 60 others among them, and the rows of these."""
    rng = np.random.default_rng(3)
    vectors = np.repeat(normal(1, dimension), 1560, axis=0)
    answers = np.sort(rng.choice(1560, 60, replace=False))
    vectors[answers] += 0.8 * normal(60, dimension, seed=4)
    return vectors, answers


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("kind", IndexKind)
def test_what_stands_beside_many_equal_passages_is_found(
    tmp_path: Path, kind: IndexKind, metric: Metric
) -> None:
    vectors, answers = boilerplate_and_answers()
    index = build(tmp_path / "s", vectors, IndexParameters(kind=kind, metric=metric))
    assert faiss.read_index(str(tmp_path / "s" / INDEX_FILE)).ntotal == 61
    questions = vectors[answers] + 0.1 * normal(60, 64, seed=5)
    hits = index.search(ask(prepared(questions.astype(np.float32), metric)))
    if metric is not Metric.INNER_PRODUCT:
        assert (hits.rows[:, 0] == answers).all()
    exact = replace(ask(prepared(questions, metric)), effort=SearchEffort(exact=True))
    assert hits.rows.tolist() == index.search(exact).rows.tolist()


@given(
    seed=st.integers(0, 2**32),
    num_rows=st.integers(1, 120),
    kind=st.sampled_from(IndexKind),
    metric=st.sampled_from(Metric),
    deletes=st.booleans(),
    filtered=st.booleans(),
    partitioned=st.booleans(),
    top_k=st.sampled_from([1, 3, 10, 150]),
)
@settings(max_examples=200, deadline=None)
def test_the_best_rows_are_those_of_a_plain_sort(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    num_rows: int,
    kind: IndexKind,
    metric: Metric,
    deletes: bool,
    filtered: bool,
    partitioned: bool,
    top_k: int,
) -> None:
    rng = np.random.default_rng(seed)
    distinct = rng.standard_normal((rng.integers(1, num_rows + 1), DIMENSION)).astype(np.float32)
    if kind is IndexKind.FLAT and seed % 2:
        # Few directions of one length: ties between vectors that are not equal. Which of them a
        # graph or a list proposes is its own affair, Flat has to know all.
        distinct = np.sign(distinct) * np.float32(0.25)
        distinct[:, 3:] = np.float32(0.25)
    vectors = distinct[rng.integers(0, len(distinct), num_rows)]
    live = np.ones(num_rows, dtype=bool)
    filter: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        # So that few rows, too, are looked for in an index, and in that of a partition.
        patch.setattr(shard_selection, "_SCANNED", 2)
        patch.setattr(shard_selection, "SCANNED_ROWS_MAX", 2)
        patch.setattr(shard_partitions, "SCANNED_ROWS_MAX", 2)
        patch.setattr(vector_rows, "_LOOKED_AT_ONCE", 2)
        parameters = IndexParameters(kind=kind, metric=metric, **THOROUGH)
        cities = ["ab"[i % 2] for i in range(num_rows)] if partitioned else None
        index = build(tmp_path_factory.mktemp("shards") / "s", vectors, parameters, cities)
        if deletes:
            live = rng.random(num_rows) < 0.6
            index = index.without_documents([f"p{i:05}" for i in np.flatnonzero(~live)])
        if filtered:
            filter["row"] = {"gte": num_rows // 3}
            live[: num_rows // 3] = False
        if partitioned:
            filter["city"] = "b"
            live[::2] = False
        queries = prepared(vectors[rng.integers(0, num_rows, 5)], metric)
        hits = index.search(ask(queries, top_k, filter or None))
    stored, rows = prepared(vectors, metric), np.flatnonzero(live).tolist()
    wanted = [best_rows(stored, rows, query, top_k, metric) for query in queries]
    assert hits.rows.tolist() == wanted
    assert [id.decode() for id in hits.ids[0] if id] == [f"p{r:05}" for r in wanted[0] if r >= 0]


@pytest.mark.parametrize("kind", IndexKind)
@pytest.mark.parametrize("num_distinct", [1, 2, 7])
def test_fewer_distinct_vectors_than_hits(
    tmp_path: Path, kind: IndexKind, num_distinct: int
) -> None:
    vectors = np.resize(normal(num_distinct, DIMENSION), (3000, DIMENSION))
    index = build(tmp_path / "s", vectors, IndexParameters(kind=kind))
    queries = prepared(vectors[:num_distinct], Metric.COSINE)
    for filter, first in ((None, 0), ({"row": {"gte": 1000}}, 1000)):
        hits = index.search(ask(queries, 50, filter))
        own = [range(row, 3000, num_distinct) for row in range(first, first + num_distinct)]
        wanted = sorted(own, key=lambda rows: rows[0] % num_distinct)
        # All of a query's hits are rows of its own vector: those with the smallest ids.
        assert hits.rows.tolist() == [list(rows[:50]) for rows in wanted]
        assert (hits.scores == hits.scores[:, :1]).all()


def test_vectors_that_differ_by_the_sign_of_a_zero_are_equal(tmp_path: Path) -> None:
    vectors = np.repeat(normal(1, DIMENSION), 30, axis=0)
    vectors[:, 3] = 0.0
    vectors[::2, 3] = -0.0
    for metric in Metric:
        parameters = IndexParameters(kind=IndexKind.FLAT, metric=metric)
        build(tmp_path / metric, vectors, parameters)
        assert faiss.read_index(str(tmp_path / metric / INDEX_FILE)).ntotal == 1


def test_vectors_are_numbered_in_the_order_of_their_first_rows() -> None:
    a, b, c = normal(3, DIMENSION)
    assert vector_numbers(np.stack([b, a, b, c, a, b])).tolist() == [0, 1, 0, 2, 1, 0]
    assert vector_numbers(normal(0, DIMENSION)).tolist() == []


def test_a_shard_without_equal_vectors_is_as_it_was(tmp_path: Path) -> None:
    vectors = normal(50, DIMENSION)
    vectors[1] = np.nextafter(vectors[0], np.float32(np.inf))
    build(tmp_path / "s", vectors, IndexParameters(metric=Metric.L2))
    assert not (tmp_path / "s" / VECTOR_ROWS_FILE).exists()


def test_a_shard_of_an_older_version_is_read() -> None:
    parameters = IndexParameters(kind=IndexKind.HNSW, hnsw_m=8)
    index = ShardIndex.open(OLD_SHARD, parameters, 8)
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((90, 8)).astype(np.float32)
    vectors[10:40] = vectors[10]
    stored = prepared(vectors, Metric.COSINE)
    less = index.without_documents(["p010", "p011"])
    for line, query in enumerate(stored):
        exact = replace(ask(stored[line : line + 1], 9), effort=SearchEffort(exact=True))
        wanted = best_rows(stored, range(90), query, 9, Metric.COSINE)
        assert index.search(exact).rows.tolist() == [wanted]
        live = [row for row in range(90) if row not in (10, 11) and row % 3 == 0]
        parted = replace(exact, filter=parse_filter({"city": "b"}))
        wanted = best_rows(stored, live, query, 9, Metric.COSINE)
        assert less.search(parted).rows.tolist() == [wanted]
    assert (index.search(ask(stored, 90)).rows >= 0).all()


def test_a_file_that_leads_nowhere_is_reported(tmp_path: Path) -> None:
    path = tmp_path / VECTOR_ROWS_FILE
    numbers, rows, starts = [0, 1, 0, 2, 1], [0, 2, 1, 4, 3], [0, 2, 4, 5]

    def opened(*columns: list[int], num_rows: int = 5) -> SharedVectors:
        arrays = [pa.array([column], pa.list_(pa.int32())) for column in columns]
        write_batch(pa.RecordBatch.from_arrays(arrays, names=["numbers", "rows", "starts"]), path)
        return SharedVectors.open(path, num_rows)

    assert opened(numbers, rows, starts).numbers_of(np.arange(5)).tolist() == numbers
    with pytest.raises(Corrupt, match="instead of 4"):
        opened(numbers, rows, starts, num_rows=4)
    for damaged in (
        ([0, 1, 0, 3, 1], rows, starts),
        ([0, 1, 0, -1, 1], rows, starts),
        (numbers, [0, 2, 1, 5, 3], starts),
        (numbers, [0, 2, 1, -1, 3], starts),
        (numbers, rows, [0, 4, 2, 5]),
        (numbers, rows, [0, 2, 2, 5]),
        (numbers, rows, [0, 2, 4, 6]),
        (numbers, rows, [5]),
        (numbers, rows, []),
    ):
        with pytest.raises(Corrupt):
            opened(*damaged)
