"""Building and searching shards with real Faiss, without Ray."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.builds.shard import ShardPlan, build_shard
from actors.shards.documents import DOCUMENTS_FILE
from actors.shards.index import INDEX_FILE, ShardIndex
from cluster.arrays import Float32Array
from cluster.errors import InvalidArgument
from cluster.query.filters import Filter, parse_filter
from cluster.query.search import MergedHits, SearchEffort, ShardHits, ShardQuery
from cluster.shards.filter_mask import filter_mask
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.shards.merge import merge_hits
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric

DIMENSION = 16
KINDS_AND_METRICS = list(itertools.product(IndexKind, Metric))


def normal(*shape: int, seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def table_of(num_rows: int) -> pa.Table:
    """Ids of several widths, in an order that is not theirs; every third row lacks a region."""
    numbers = [(i * 7919) % 1_000_003 for i in range(num_rows)]
    return pa.table(
        {
            "id": pa.array([f"{n}#é" if n % 2 else f"doc-{n}" for n in numbers], pa.string()),
            "document": pa.array([f"doc-{n}" for n in numbers], pa.string()),
            "text": pa.array([f"text of {n}" for n in numbers], pa.string()),
            "meta.region": pa.array([["a", "b", None][n % 3] for n in numbers], pa.string()),
            "meta.year": pa.array(numbers, pa.int64()),
            "meta.row": pa.array(range(num_rows), pa.int64()),
        }
    )


def built(
    folder: Path, table: pa.Table, vectors: Float32Array, parameters: IndexParameters
) -> ShardIndex:
    folder.mkdir(parents=True)
    build = build_shard(table, vectors, ShardPlan(parameters), folder)
    assert build.num_rows == table.num_rows
    assert 0.0 <= build.recall.least <= build.recall.recall_at_10 <= 1.0
    return ShardIndex.open(folder, parameters, vectors.shape[1])


def ask(vectors: Float32Array, top_k: int, filter: object = None) -> ShardQuery:
    parsed: Filter | None = None if filter is None else parse_filter(filter)
    return ShardQuery(corpus="c", index_version="v", vectors=vectors, top_k=top_k, filter=parsed)


def exactly(query: ShardQuery) -> ShardQuery:
    return replace(query, effort=SearchEffort(exact=True))


def same_hits(a: ShardHits | MergedHits, b: ShardHits | MergedHits) -> bool:
    return a.scores.tobytes() == b.scores.tobytes() and a.ids.tolist() == b.ids.tolist()


def reference(
    table: pa.Table, vectors: Float32Array, query: ShardQuery, metric: Metric
) -> list[list[bytes]]:
    """Ids in true order, by a plain sort in Python."""
    fields = {n.removeprefix("meta."): table[n] for n in table.column_names if n[:5] == "meta."}
    live = np.ones(table.num_rows, dtype=bool)
    if query.filter is not None:
        live = filter_mask(query.filter, pa.table(fields))
    ids = [id.encode() for id in table["id"].to_pylist()]
    stored = prepared(vectors, metric).astype(np.float64)
    answers = []
    for vector in query.vectors.astype(np.float64):
        if metric is Metric.L2:
            exact = -((stored - vector) ** 2).sum(axis=1)
        else:
            exact = (stored * vector).sum(axis=1)
        scores = exact.astype(np.float32)
        order = sorted(np.flatnonzero(live), key=lambda row: (-scores[row], ids[row]))
        found = [ids[row] for row in order[: query.top_k]]
        answers.append(found + [b""] * (query.top_k - len(found)))
    return answers


@st.composite
def duplicated(draw: st.DrawFn) -> tuple[Float32Array, Float32Array, int]:
    """Vectors of which most occur several times, some a last bit apart; queries; top_k."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_rows = draw(st.integers(1, 150))
    distinct = rng.standard_normal((draw(st.integers(1, num_rows)), DIMENSION)).astype(np.float32)
    if draw(st.booleans()):
        distinct = np.round(distinct)
    vectors = distinct[rng.integers(0, len(distinct), num_rows)]
    moved = rng.random(num_rows) < 0.2
    vectors[moved] = np.nextafter(vectors[moved], np.float32(np.inf))
    vectors += np.float32(draw(st.sampled_from([0.0, 0.0, 300.0])))
    queries = vectors[rng.integers(0, num_rows, draw(st.sampled_from([1, 2, 19, 20, 64])))]
    return vectors, queries, draw(st.sampled_from([1, 3, 10, num_rows, num_rows + 5]))


@given(duplicated(), st.sampled_from([1, 2, 3, 8, 64]), st.sampled_from(Metric), st.booleans())
@settings(max_examples=40, deadline=None)
def test_flat_shards_merge_to_what_one_index_answers(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[Float32Array, Float32Array, int],
    num_shards: int,
    metric: Metric,
    filtered: bool,
) -> None:
    vectors, queries, top_k = case
    folder = tmp_path_factory.mktemp("shards")
    parameters = IndexParameters(kind=IndexKind.FLAT, metric=metric)
    table = table_of(len(vectors))
    shard_of = np.random.default_rng(0).integers(0, num_shards, len(vectors))
    query = ask(
        prepared(queries, metric), top_k, {"region": {"in": ["a", None]}} if filtered else None
    )
    parts = []
    for shard in range(num_shards):
        rows = np.flatnonzero(shard_of == shard)
        index = built(folder / str(shard), table.take(rows), vectors[rows], parameters)
        parts.append((shard, index.search(query)))
    whole = built(folder / "whole", table, vectors, parameters).search(query)
    merged = merge_hits(parts, top_k)
    assert same_hits(merged, whole)
    assert whole.ids.tolist() == reference(table, vectors, query, metric)


@pytest.mark.parametrize("metric", Metric)
def test_up_to_64_shards_and_any_batch_answer_like_one_index(
    tmp_path: Path, metric: Metric
) -> None:
    # A third of the rows occur up to five times, and some are a last bit apart, so that ties lie
    # across every cut; enough of them that Faiss proposes and not all are scanned.
    rng = np.random.default_rng(8)
    vectors = np.repeat(normal(1200, DIMENSION), rng.choice([1, 1, 3, 5], 1200), axis=0)
    moved = rng.random(len(vectors)) < 0.1
    vectors[moved] = np.nextafter(vectors[moved], np.float32(np.inf))
    table, order = table_of(len(vectors)), rng.permutation(len(vectors))
    parameters = IndexParameters(kind=IndexKind.FLAT, metric=metric)
    queries = prepared(vectors[order[np.arange(1024) % len(order)]], metric)
    queries[::3] = prepared(queries[::3] + 0.3 * normal(len(queries[::3]), DIMENSION), metric)
    whole = built(tmp_path / "whole", table, vectors, parameters)
    replica = ShardIndex.open(tmp_path / "whole", parameters, DIMENSION)
    together = whole.search(ask(queries, 10))
    for size in (1, 2, 15, 16, 17, 19, 20, 21, 64, 257, 1023):
        part = replica.search(ask(queries[:size], 10))
        assert part.scores.tobytes() == together.scores[:size].tobytes()
        assert part.ids.tolist() == together.ids[:size].tolist()
    for num_shards in (1, 2, 3, 7, 16, 33, 64):
        shard_of = rng.integers(0, num_shards, len(vectors))
        parts = []
        for shard in range(num_shards):
            rows = np.flatnonzero(shard_of == shard)
            folder = tmp_path / f"{num_shards}-{shard}"
            index = built(folder, table.take(rows), vectors[rows], parameters)
            parts.append((shard, index.search(ask(queries, 10))))
        rng.shuffle(parts)
        assert same_hits(merge_hits(parts, 10), together)


@pytest.mark.parametrize("metric", Metric)
def test_flat_is_exact_where_faiss_has_to_choose(tmp_path: Path, metric: Metric) -> None:
    # More rows than are scanned anyway, so that Faiss proposes; near-ties at the cut then make the
    # scan decide for some queries and not for others.
    vectors = np.repeat(normal(300, DIMENSION), [1 + 9 * (i % 2) for i in range(300)], axis=0)
    table = table_of(len(vectors))
    parameters = IndexParameters(kind=IndexKind.FLAT, metric=metric)
    index = built(tmp_path / "s", table, vectors, parameters)
    queries = prepared(vectors[::75] + normal(len(vectors[::75]), DIMENSION), metric)
    for filter in (None, {"region": {"in": ["a", "b"]}}):
        for top_k in (1, 5, 150):
            query = ask(queries, top_k, filter)
            found = index.search(query)
            assert found.ids.tolist() == reference(table, vectors, query, metric)
            assert same_hits(found, index.search(exactly(query)))
            for i in (0, len(queries) - 1):
                alone = index.search(ask(queries[i : i + 1], top_k, filter))
                assert alone.scores.tobytes() == found.scores[i : i + 1].tobytes()
                assert alone.rows.tolist() == found.rows[i : i + 1].tolist()


@pytest.mark.parametrize(("kind", "metric"), KINDS_AND_METRICS)
@pytest.mark.parametrize("num_rows", [0, 1, 2, 5, 39, 100])
def test_small_shards_answer_all_they_have(
    tmp_path: Path, kind: IndexKind, metric: Metric, num_rows: int
) -> None:
    vectors = normal(num_rows, DIMENSION)
    table = table_of(num_rows)
    parameters = IndexParameters(kind=kind, metric=metric)
    index = built(tmp_path / "s", table, vectors, parameters)
    assert index.num_rows == num_rows
    queries = prepared(normal(3, DIMENSION, seed=1), metric)
    hits = index.search(ask(queries, 120))
    assert hits.scores.shape == hits.rows.shape == hits.ids.shape == (3, 120)
    assert (hits.scores.dtype, hits.rows.dtype) == (np.float32, np.int64)
    assert hits.ids.tolist() == reference(table, vectors, ask(queries, 120), metric)
    assert ((hits.rows >= 0).sum(axis=1) == num_rows).all()
    assert np.isneginf(hits.scores[hits.rows < 0]).all()
    assert index.search(ask(queries[:0], 10)).scores.shape == (0, 10)


@pytest.fixture(scope="module", params=KINDS_AND_METRICS, ids="-".join)
def large(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ShardIndex, pa.Table, Float32Array, Metric]:
    kind, metric = request.param
    centres = normal(40, DIMENSION, seed=5)
    vectors = np.repeat(centres, 100, axis=0) + 0.7 * normal(4000, DIMENSION)
    parameters = IndexParameters(kind=kind, metric=metric, hnsw_m=16, ef_search=64)
    folder = tmp_path_factory.mktemp("large")
    build = build_shard(table_of(4000), vectors, ShardPlan(parameters), folder)
    assert build.kind is kind
    assert build.recall.recall_at_10 > (0.999 if kind is IndexKind.FLAT else 0.9)
    return ShardIndex.open(folder, parameters, DIMENSION), table_of(4000), vectors, metric


Large = tuple[ShardIndex, pa.Table, Float32Array, Metric]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.9])
def test_filters_return_k_live_hits_where_k_exist(large: Large, share: float) -> None:
    index, table, vectors, metric = large
    queries = prepared(vectors[:2000:100] + 0.1 * normal(20, DIMENSION, seed=2), metric)
    for top_k in (10, 300):
        query = ask(queries, top_k, {"row": {"gte": round(4000 * (1 - share))}})
        hits = index.search(query)
        wanted = reference(table, vectors, query, metric)
        assert index.search(exactly(query)).ids.tolist() == wanted
        num_live = min(top_k, round(4000 * share))
        assert ((hits.rows >= 0).sum(axis=1) == num_live).all()
        rows = hits.rows[hits.rows >= 0]
        live = index.passages(rows, ("row",)).metadata
        assert all(fields["row"] >= round(4000 * (1 - share)) for fields in live)
        if top_k == 10:
            common = [
                len({*found} & {*best}) / len({*best})
                for found, best in zip(hits.ids.tolist(), wanted, strict=True)
            ]
            assert np.mean(common) > 0.9


def test_a_query_says_how_hard_to_look(large: Large) -> None:
    index, table, vectors, metric = large
    queries = prepared(vectors[:4000:40] + 0.5 * normal(100, DIMENSION, seed=6), metric)
    wanted = reference(table, vectors, ask(queries, 10), metric)

    def recall(effort: SearchEffort) -> float:
        found = index.search(replace(ask(queries, 10), effort=effort)).ids.tolist()
        return float(np.mean([len({*a} & {*b}) / 10 for a, b in zip(found, wanted, strict=True)]))

    assert recall(SearchEffort(exact=True)) == 1.0
    tuned = recall(SearchEffort())
    little, much = SearchEffort(ef_search=1, nprobe=1), SearchEffort(ef_search=2000, nprobe=2000)
    assert recall(little) <= tuned <= recall(much)
    assert recall(much) > (0.95 if index.kind is IndexKind.IVF_PQ else 0.999)
    if index.kind is not IndexKind.FLAT:
        assert recall(little) < tuned
    # What another kind would look at changes nothing.
    foreign = SearchEffort(nprobe=1) if index.kind.is_graph else SearchEffort(ef_search=1)
    assert recall(foreign) == tuned


def test_hits_are_in_order_and_independent_of_the_batch(large: Large) -> None:
    index, _, vectors, metric = large
    queries = prepared(vectors[:4000:63] + 0.1 * normal(64, DIMENSION, seed=3), metric)
    for filter in (None, {"region": {"ne": "a"}}):
        together = index.search(ask(queries, 10, filter))
        assert (np.diff(together.scores, axis=1) <= 0).all()
        for i in range(len(queries)):
            alone = index.search(ask(queries[i : i + 1], 10, filter))
            assert alone.scores.tobytes() == together.scores[i].tobytes()
            assert alone.rows[0].tolist() == together.rows[i].tolist()


def test_threads_search_at_the_same_time(large: Large) -> None:
    index, _, vectors, metric = large
    filters = [None, {"region": "a"}, {"row": {"lt": 3000}}, {"row": {"lt": 50}}]
    queries = [
        ask(prepared(vectors[i * 10 : i * 10 + 1 + i % 5], metric), 10, filters[i % 4])
        for i in range(80)
    ]
    expected = [index.search(query) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(index.search, queries * 3))
    assert all(same_hits(a, b) for a, b in zip(found, expected * 3, strict=True))


def test_a_filter_keeps_its_meaning_when_the_cache_is_warm(large: Large) -> None:
    index, _, vectors, _ = large
    hits = index.search(ask(vectors[:1], 5, {"row": 1}))
    assert (hits.rows >= 0).sum() == 1
    with pytest.raises(InvalidArgument):
        index.search(ask(vectors[:1], 5, {"row": True}))
    with pytest.raises(InvalidArgument):
        index.search(ask(vectors[:1], 5, {"row": 1.0}))


def test_passages_come_in_the_order_asked(large: Large) -> None:
    index, table, vectors, metric = large
    hits = index.search(ask(prepared(vectors[:1], metric), 5))
    rows = hits.rows[0][::-1]
    passages = index.passages(rows, None)
    by_id = {row["id"].encode(): row for row in table.to_pylist()}
    for id, text, metadata in zip(
        hits.ids[0].tolist()[::-1], passages.texts, passages.metadata, strict=True
    ):
        assert text == by_id[id]["text"]
        assert metadata == {f: by_id[id][f"meta.{f}"] for f in ("region", "year", "row")}
    assert index.passages(rows.tolist(), ("year",)).metadata[0].keys() == {"year"}
    assert index.passages([], None).texts == ()
    assert index.passages([0, 0], ()).metadata == ({}, {})
    with pytest.raises(InvalidArgument, match="region, year, row"):
        index.passages([0], ("colour",))
    for row in (-1, 4000):
        with pytest.raises(IndexError):
            index.passages([row], None)


@pytest.mark.parametrize(
    ("vectors", "top_k", "field"),
    [
        (normal(1, DIMENSION + 1), 3, "vectors"),
        (normal(DIMENSION)[None, None], 3, "vectors"),
        (np.full((1, DIMENSION), np.nan, dtype=np.float32), 3, "vectors[0]"),
        (np.full((1, DIMENSION), np.inf, dtype=np.float32), 3, "vectors[0]"),
        (normal(1, DIMENSION), 0, "top_k"),
    ],
)
def test_bad_queries_are_refused(
    large: Large, vectors: Float32Array, top_k: int, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        large[0].search(ask(vectors, top_k))
    assert caught.value.field == field


@pytest.mark.parametrize(("kind", "metric"), KINDS_AND_METRICS)
def test_a_build_is_reproducible_and_does_not_depend_on_the_order_of_rows(
    tmp_path: Path, kind: IndexKind, metric: Metric
) -> None:
    table, vectors = table_of(900), normal(900, DIMENSION)
    parameters = IndexParameters(kind=kind, metric=metric)
    order = np.random.default_rng(1).permutation(900)
    built(tmp_path / "a", table, vectors, parameters)
    built(tmp_path / "b", table.take(order), vectors[order], parameters)
    for name in (INDEX_FILE, DOCUMENTS_FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("ids", "error"),
    [(["a", "a"], ValueError), (["", "b"], InvalidArgument), (["a\0", "b"], InvalidArgument)],
)
def test_unfit_ids_are_refused(tmp_path: Path, ids: list[str], error: type[Exception]) -> None:
    table = pa.table({"id": ids, "document": ids, "text": ids})
    with pytest.raises(error):
        build_shard(table, normal(2, 4), ShardPlan(IndexParameters()), tmp_path)
    with pytest.raises(InvalidArgument):
        build_shard(
            table, np.full((2, 4), np.nan, np.float32), ShardPlan(IndexParameters()), tmp_path
        )
    with pytest.raises(ValueError, match="2 rows"):
        build_shard(table, normal(3, 4), ShardPlan(IndexParameters()), tmp_path)


def test_a_shard_without_metadata(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b"], "document": ["a", "b"], "text": ["x", "y"]})
    index = built(tmp_path / "s", table, normal(2, 4), IndexParameters())
    assert index.passages([1, 0], None).texts == ("y", "x")
    assert index.passages([1, 0], None).metadata == ({}, {})
