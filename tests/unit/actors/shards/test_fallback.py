"""Queries that an index answers too weakly are compared with every row after all."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from actors.builds.shard import ShardPlan, build_shard
from actors.shards.documents import DOCUMENTS_FILE, ShardDocuments
from actors.shards.index import ShardIndex
from cluster.arrays import Float32Array
from cluster.query.filters import parse_filter
from cluster.query.search import SearchEffort, ShardHits, ShardQuery
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric

DIMENSION = 24
ROWS = 4000
OTHERS = [kind for kind in IndexKind if kind is not IndexKind.FLAT]


def clustered(num_rows: int, seed: int) -> Float32Array:
    rng = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(99).standard_normal((40, DIMENSION))
    noise = 0.5 * rng.standard_normal((num_rows, DIMENSION))
    return (centres[rng.integers(0, 40, num_rows)] + noise).astype(np.float32)


def shard(folder: Path, parameters: IndexParameters, num_rows: int = ROWS) -> ShardIndex:
    folder.mkdir()
    ids = pa.array([f"{i:06}" for i in range(num_rows)], pa.string())
    rows = pa.array(range(num_rows), pa.int64())
    table = pa.table({"id": ids, "document": ids, "text": ids, "meta.row": rows})
    build_shard(table, clustered(num_rows, 0), ShardPlan(parameters), folder)
    assert {path.name for path in folder.iterdir()} == {"index.faiss", DOCUMENTS_FILE}
    return ShardIndex.open(folder, parameters, DIMENSION)


def ask(vectors: Float32Array, *, exact: bool = False, top_k: int = 10) -> ShardQuery:
    return ShardQuery(
        corpus="c",
        index_version="v",
        vectors=vectors,
        top_k=top_k,
        effort=SearchEffort(exact=exact),
    )


def same(a: ShardHits, b: ShardHits) -> bool:
    return a.scores.tobytes() == b.scores.tobytes() and a.ids.tolist() == b.ids.tolist()


def fell_back(hits: ShardHits) -> list[bool]:
    assert hits.fell_back is not None
    return [bool(value) for value in hits.fell_back]


def parameters_of(kind: IndexKind, metric: Metric, *, fallback: bool = True) -> IndexParameters:
    return IndexParameters(
        kind=kind, metric=metric, hnsw_m=8, ef_search=16, nprobe=4, fallback=fallback
    )


@pytest.mark.parametrize(
    ("kind", "metric"), [*itertools.product(OTHERS, [Metric.L2, Metric.COSINE])]
)
def test_weak_queries_are_answered_exactly_and_the_others_are_left_alone(
    tmp_path: Path, kind: IndexKind, metric: Metric
) -> None:
    index = shard(tmp_path / "s", parameters_of(kind, metric))
    usual = prepared(clustered(300, 1), metric)
    rng = np.random.default_rng(3)
    far = prepared(3 * rng.standard_normal((40, DIMENSION)).astype(np.float32), metric)
    assert sum(fell_back(index.search(ask(usual)))) <= 6
    found = index.search(ask(far))
    assert sum(fell_back(found)) >= 38
    exact = index.search(ask(far, exact=True))
    for i in np.flatnonzero(fell_back(found)):
        assert found.ids[i].tolist() == exact.ids[i].tolist()
        assert found.scores[i].tobytes() == exact.scores[i].tobytes()
    # Each query for itself: in one batch, the usual ones are answered as without the others.
    mixed = index.search(ask(np.concatenate([far, usual])))
    assert mixed.scores[40:].tobytes() == index.search(ask(usual)).scores.tobytes()
    assert fell_back(mixed)[:40] == fell_back(found)


def test_there_is_none_unless_asked_for(tmp_path: Path) -> None:
    plain = shard(tmp_path / "plain", parameters_of(IndexKind.HNSW, Metric.L2, fallback=False))
    far = np.full((3, DIMENSION), 9.0, dtype=np.float32)
    assert plain.search(ask(far)).fell_back is None
    assert ShardDocuments.open(tmp_path / "plain" / DOCUMENTS_FILE, DIMENSION).weak_score is None
    # It can be turned off without another build.
    index = shard(tmp_path / "s", parameters_of(IndexKind.HNSW, Metric.L2))
    off = index.tuned(parameters_of(IndexKind.HNSW, Metric.L2, fallback=False))
    assert off.search(ask(far)).fell_back is None
    assert same(off.search(ask(far)), plain.search(ask(far)))


def test_too_few_hits_fall_back_too(tmp_path: Path) -> None:
    parameters = parameters_of(IndexKind.IVF_FLAT, Metric.L2).model_copy(update={"nprobe": 1})
    index = shard(tmp_path / "s", parameters)
    queries = clustered(5, 1)
    # More than any list has.
    hits = index.search(ask(queries, top_k=450))
    assert fell_back(hits) == [True] * 5
    assert same(hits, index.search(ask(queries, top_k=450, exact=True)))


@pytest.mark.parametrize("kind", IndexKind)
def test_what_is_exact_anyway_does_not_fall_back(tmp_path: Path, kind: IndexKind) -> None:
    index = shard(tmp_path / "s", parameters_of(kind, Metric.L2))
    far = np.full((3, DIMENSION), 9.0, dtype=np.float32)
    few = replace(ask(far), filter=parse_filter({"row": {"lt": 30}}))
    queries = [ask(far, exact=True), few]
    if kind is IndexKind.FLAT:
        queries.append(ask(far))
    queries.append(replace(ask(far), filter=parse_filter({"row": {"lt": 0}})))
    for query in queries:
        assert fell_back(index.search(query)) == [False] * 3


@pytest.mark.parametrize("num_rows", [0, 1, 5, 20])
def test_a_small_shard_has_no_weak_hits(tmp_path: Path, num_rows: int) -> None:
    index = shard(tmp_path / "s", parameters_of(IndexKind.HNSW, Metric.L2), num_rows)
    hits = index.search(ask(np.full((2, DIMENSION), 9.0, dtype=np.float32)))
    assert (hits.rows >= 0).sum() == 2 * min(10, num_rows)


def test_deletes_and_the_fallback_go_together(tmp_path: Path) -> None:
    index = shard(tmp_path / "s", parameters_of(IndexKind.HNSW, Metric.L2))
    far = np.full((3, DIMENSION), 9.0, dtype=np.float32)
    best = index.search(ask(far)).ids.ravel().tolist()
    hits = index.without_documents([id.decode() for id in best]).search(ask(far))
    assert fell_back(hits) == [True] * 3
    assert not {*hits.ids.ravel().tolist()} & {*best}
