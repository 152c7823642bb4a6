"""What an index is trained on, and what quantized kinds make of the candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
import pyarrow as pa
import pytest

from actors.builds.shard import ShardPlan, build_shard
from actors.shards.faiss_build import num_lists, num_subquantizers, train_index
from actors.shards.index import INDEX_FILE, ShardIndex
from cluster.arrays import Float32Array
from cluster.errors import InvalidArgument
from cluster.query.search import ShardQuery
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric
from tests.support.worlds.recall import recall_at_10

DIMENSION = 16
LISTS = [kind for kind in IndexKind if kind.has_lists]
faiss: Any = _faiss


def clustered(num_rows: int, seed: int = 0) -> Float32Array:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((30, DIMENSION))
    noise = 0.5 * rng.standard_normal((num_rows, DIMENSION))
    return (centres[rng.integers(0, 30, num_rows)] + noise).astype(np.float32)


def shard(
    folder: Path, vectors: Float32Array, parameters: IndexParameters, trained: bytes | None = None
) -> ShardIndex:
    folder.mkdir()
    ids = pa.array([f"{i:06}" for i in range(len(vectors))], pa.string())
    table = pa.table({"id": ids, "document": ids, "text": ids})
    build_shard(table, vectors, ShardPlan(parameters, trained=trained), folder)
    return ShardIndex.open(folder, parameters, DIMENSION)


def centroids(folder: Path) -> bytes:
    index = faiss.read_index(str(folder / INDEX_FILE))
    return bytes(index.quantizer.reconstruct_n(0, index.nlist).tobytes())


@pytest.mark.parametrize(
    ("rows", "asked", "lists"),
    [(0, None, 1), (38, None, 1), (78, None, 2), (100_000, None, 1265), (1000, 500, 25)],
)
def test_lists_are_as_many_as_can_be_trained(rows: int, asked: int | None, lists: int) -> None:
    assert num_lists(rows, asked) == lists
    assert num_lists(rows, asked, 39) == 1


@pytest.mark.parametrize(
    ("dimension", "parts"), [(1, 1), (3, 1), (7, 7), (8, 2), (10, 5), (100, 25), (384, 96)]
)
def test_codes_stand_for_at_most_four_numbers(dimension: int, parts: int) -> None:
    assert num_subquantizers(dimension, None) == parts
    assert num_subquantizers(dimension, 1) == 1


def test_parts_that_do_not_divide_a_vector_are_refused(tmp_path: Path) -> None:
    parameters = IndexParameters(kind=IndexKind.IVF_PQ, pq_m=5)
    with pytest.raises(InvalidArgument, match="16 numbers") as caught:
        shard(tmp_path / "s", clustered(10), parameters)
    assert caught.value.field == "index.pq_m"


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("kind", LISTS)
def test_shards_share_what_they_were_trained_on(
    tmp_path: Path, kind: IndexKind, metric: Metric
) -> None:
    sample = prepared(clustered(2000), metric)
    parameters = IndexParameters(kind=kind, metric=metric, nprobe=8)
    trained = train_index(sample, parameters, 500)
    assert trained == train_index(sample, parameters, 500)
    # One shard is empty, one too small to be trained by itself.
    for number, num_rows in enumerate((0, 3, 500)):
        folder = tmp_path / str(number)
        index = shard(folder, clustered(num_rows, seed=number), parameters, trained)
        assert index.num_lists == num_lists(500, None) == 12
        assert centroids(folder) == centroids(tmp_path / "0")
        query = ShardQuery(corpus="", index_version="", vectors=sample[:5], top_k=10)
        assert ((index.search(query).rows >= 0).sum(axis=1) == min(10, num_rows)).all()


@pytest.mark.parametrize("kind", [IndexKind.FLAT, IndexKind.HNSW])
def test_other_kinds_are_not_trained(kind: IndexKind) -> None:
    assert train_index(clustered(10), IndexParameters(kind=kind), 10) is None


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("pq_nbits", [4, 5, 8])
def test_stored_vectors_make_up_for_what_codes_lost(
    tmp_path: Path, metric: Metric, pq_nbits: int
) -> None:
    vectors, queries = clustered(3000), prepared(clustered(100, seed=1), metric)
    parameters = IndexParameters(
        kind=IndexKind.IVF_PQ, metric=metric, pq_nbits=pq_nbits, nprobe=1000, rescore=1
    )
    index = shard(tmp_path / "s", vectors, parameters)
    recalls = [
        recall_at_10(index.tuned(parameters.model_copy(update={"rescore": rescore})), queries)
        for rescore in (1, 4, 16, 300)
    ]
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.9 < 0.99 < recalls[2]
    assert recalls[3] == 1.0


def test_quantized_kinds_are_small(tmp_path: Path) -> None:
    vectors = clustered(5000)
    size_bytes = {}
    for kind in IndexKind:
        parameters = IndexParameters(kind=kind, hnsw_m=8, ef_construction=8)
        shard(tmp_path / kind, vectors, parameters)
        size_bytes[kind] = (tmp_path / kind / INDEX_FILE).stat().st_size / 5000
    # Of 16 numbers: 64 bytes as they are, 16 as one byte each, 4 as codes; a list adds the row.
    assert size_bytes[IndexKind.HNSW] > size_bytes[IndexKind.IVF_FLAT] > 72
    assert 24 < size_bytes[IndexKind.IVF_SQ] < 30
    assert 12 < size_bytes[IndexKind.IVF_PQ] < 20


def test_stretched_parameters_look_further() -> None:
    parameters = IndexParameters(ef_search=200, nprobe=3, rescore=300)
    further = parameters.stretched(4)
    assert (further.ef_search, further.nprobe, further.rescore) == (800, 12, 1000)
    assert parameters.stretched(1) == parameters
    assert parameters.stretched(1000).ef_search == 10_000


def test_a_build_says_how_far_a_search_must_look(tmp_path: Path) -> None:
    vectors = clustered(4000)
    ids = [f"{i:06}" for i in range(4000)]
    table = pa.table({"id": ids, "document": ids, "text": ids})
    parameters = IndexParameters(kind=IndexKind.IVF_FLAT, nprobe=1)
    plain = build_shard(table, vectors, ShardPlan(parameters), tmp_path)
    # What was asked for is looked for as far as asked, as long as nothing is out of reach.
    assert (plain.parameters, plain.recall.recall_at_10 < 0.8) == (parameters, True)
    asked = parameters.model_copy(update={"target_recall": 0.9})
    wanted = build_shard(table, vectors, ShardPlan(asked), tmp_path)
    assert 1 < wanted.parameters.nprobe < num_lists(4000, None)
    assert wanted.recall.recall_at_10 >= 0.9
    # What cannot be reached is not asked for without end: then everything is compared.
    asked = parameters.model_copy(update={"target_recall": 1.1})
    flat = build_shard(table, vectors, ShardPlan(asked), tmp_path)
    assert (flat.kind, flat.recall.least) == (IndexKind.FLAT, 1.0)
    ShardIndex.open(tmp_path, parameters.model_copy(update={"kind": IndexKind.FLAT}), DIMENSION)
