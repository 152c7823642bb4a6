"""Deleted rows: hidden by a view, at the recall of an index that never had them."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from actors.builds.shard import ShardPlan, build_shard
from actors.shards.index import ShardIndex
from cluster.arrays import Float32Array
from cluster.query.filters import Filter, parse_filter
from cluster.query.search import SearchEffort, ShardHits, ShardQuery
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric
from tests.support.worlds.recall import recall_at_10

DIMENSION = 16
ROWS = 4000


def clustered(num_rows: int, seed: int) -> Float32Array:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, DIMENSION))
    noise = 0.7 * rng.standard_normal((num_rows, DIMENSION))
    return (centres[rng.integers(0, 40, num_rows)] + noise).astype(np.float32)


VECTORS = clustered(ROWS, 0)
QUERIES = clustered(200, 1)


def names(rows: object) -> list[bytes]:
    return [f"d{row:05}é".encode() for row in np.asarray(rows).tolist()]


def documents(rows: object) -> list[str]:
    """Each has one passage, of the same id."""
    return [id.decode() for id in names(rows)]


def shard(folder: Path, rows: np.ndarray, parameters: IndexParameters) -> ShardIndex:
    folder.mkdir(parents=True)
    ids = pa.array([id.decode() for id in names(rows)], pa.string())
    table = pa.table({"id": ids, "document": ids, "text": ids, "meta.row": pa.array(rows)})
    build_shard(table, VECTORS[rows], ShardPlan(parameters), folder)
    return ShardIndex.open(folder, parameters, DIMENSION)


def ask(vectors: Float32Array, top_k: int = 10, filter: object = None) -> ShardQuery:
    parsed: Filter | None = None if filter is None else parse_filter(filter)
    return ShardQuery(corpus="c", index_version="v", vectors=vectors, top_k=top_k, filter=parsed)


def same(a: ShardHits, b: ShardHits) -> bool:
    return a.scores.tobytes() == b.scores.tobytes() and a.ids.tolist() == b.ids.tolist()


def parameters_of(kind: IndexKind, metric: Metric) -> IndexParameters:
    return IndexParameters(kind=kind, metric=metric, hnsw_m=12, ef_search=48, nprobe=12)


@pytest.mark.parametrize("deleted_share", [0.01, 0.3, 0.5])
@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        *itertools.product(IndexKind, [Metric.L2]),
        (IndexKind.HNSW, Metric.COSINE),
        (IndexKind.IVF_PQ, Metric.INNER_PRODUCT),
    ],
)
def test_recall_stays_that_of_a_rebuilt_index(
    tmp_path: Path, kind: IndexKind, metric: Metric, deleted_share: float
) -> None:
    parameters = parameters_of(kind, metric)
    queries = prepared(QUERIES, metric)
    whole = shard(tmp_path / "whole", np.arange(ROWS), parameters)
    # Half of the deleted rows are neighbours of one another: whole clusters go.
    order = np.random.default_rng(2).permutation(ROWS)
    near = np.argsort(((VECTORS - VECTORS[0]) ** 2).sum(axis=1))
    num_deleted = round(deleted_share * ROWS)
    deleted = np.unique(np.concatenate([near[: num_deleted // 2], order[: num_deleted // 2]]))
    live = np.setdiff1d(np.arange(ROWS), deleted)
    rebuilt = shard(tmp_path / "rebuilt", live, parameters)
    view = whole.without_documents(documents(deleted))
    assert (view.num_rows, view.num_live) == (ROWS, len(live))
    assert recall_at_10(view, queries) >= recall_at_10(rebuilt, queries) - 0.01
    exact = replace(ask(queries), effort=SearchEffort(exact=True))
    assert same(view.search(exact), rebuilt.search(exact))
    if kind is IndexKind.FLAT:
        assert same(view.search(ask(queries)), rebuilt.search(ask(queries)))


@pytest.mark.parametrize("kind", IndexKind)
def test_deleted_rows_are_hidden_whatever_is_asked(tmp_path: Path, kind: IndexKind) -> None:
    whole = shard(tmp_path / "s", np.arange(ROWS), parameters_of(kind, Metric.L2))
    deleted = np.arange(0, ROWS, 2)
    view = whole.without_documents(documents(deleted))
    for top_k, filter in itertools.product(
        (1, 10, 700), (None, {"row": {"lt": 3000}}, {"row": {"gte": 3900}})
    ):
        hits = view.search(ask(QUERIES[:20], top_k, filter))
        found = hits.rows[hits.rows >= 0]
        metadata = view.passages(found, ("row",)).metadata
        assert not {fields["row"] for fields in metadata} & {*deleted.tolist()}
        num_live = (
            ROWS // 2
            if filter is None
            else {3000: 1500, 3900: 50}[next(iter(filter["row"].values()))]
        )
        assert ((hits.rows >= 0).sum(axis=1) == min(top_k, num_live)).all()
    # A search alone and in a batch, of the view too.
    together = view.search(ask(QUERIES))
    for i in (0, 77, 199):
        alone = view.search(ask(QUERIES[i : i + 1]))
        assert alone.scores.tobytes() == together.scores[i].tobytes()
        assert alone.rows[0].tolist() == together.rows[i].tolist()


def test_a_view_leaves_the_one_it_was_made_from_as_it_is(tmp_path: Path) -> None:
    whole = shard(tmp_path / "s", np.arange(ROWS), parameters_of(IndexKind.HNSW, Metric.L2))
    before = whole.search(ask(QUERIES))
    best = {id.decode() for id in before.ids[:, 0].tolist()}
    first = whole.without_documents(best)
    after = first.search(ask(QUERIES))
    assert not {id.encode() for id in best} & {*after.ids.ravel().tolist()}
    # Deletes add up, in any order; what is deleted twice or unknown changes nothing.
    second = first.without_documents([*documents([5, 6]), "unknown"])
    swapped = whole.without_documents(documents([6, 5])).without_documents(best)
    assert same(second.search(ask(QUERIES)), swapped.search(ask(QUERIES)))
    assert first.without_documents(best) is first
    assert whole.without_documents([]) is whole
    assert whole.without_documents(["d00005"]) is whole
    assert same(whole.search(ask(QUERIES)), before)
    assert same(first.search(ask(QUERIES)), after)
    # A search that began before still fetches what it found.
    assert whole.passages(before.rows[0], ()).texts == first.passages(before.rows[0], ()).texts


def test_views_serve_while_others_are_made(tmp_path: Path) -> None:
    whole = shard(tmp_path / "s", np.arange(ROWS), parameters_of(IndexKind.IVF_PQ, Metric.L2))
    views = [whole]
    for number in range(10):
        views.append(
            views[-1].without_documents(documents(range(number * 100, number * 100 + 100)))
        )
    filters = (None, {"row": {"lt": 2000}})
    queries = [ask(QUERIES[:7], 10, filter) for filter in filters]
    expected = [[view.search(query) for query in queries] for view in views]

    def again(number: int) -> bool:
        view = whole
        for step in range(number):
            view = view.without_documents(documents(range(step * 100, step * 100 + 100)))
        found = [view.search(query) for query in queries]
        return all(map(same, found, expected[number]))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(again, [*range(11)] * 2))


@pytest.mark.parametrize("kind", IndexKind)
def test_everything_may_be_deleted(tmp_path: Path, kind: IndexKind) -> None:
    whole = shard(tmp_path / "s", np.arange(300), parameters_of(kind, Metric.COSINE))
    nothing = whole.without_documents(documents(range(300)))
    assert nothing.num_live == 0
    assert (nothing.search(ask(QUERIES[:3])).rows == -1).all()
    one = whole.without_documents(documents(range(1, 300)))
    hits = one.search(ask(QUERIES[:3]))
    assert hits.ids[:, 0].tolist() == names([0]) * 3
    assert (hits.rows[:, 1:] == -1).all()
    empty = shard(tmp_path / "empty", np.arange(0), parameters_of(kind, Metric.COSINE))
    assert empty.without_documents(["x"]) is empty
