"""A query that names its partition finds what the same filter finds without partitions."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.builds.shard import ShardPlan, build_shard
from actors.shards.index import ShardIndex
from actors.shards.partitions import PARTITIONS_FILE, SCANNED_ROWS_MAX
from cluster.arrays import Float32Array
from cluster.errors import Corrupt, InvalidArgument
from cluster.query.filters import Filter, parse_filter
from cluster.query.search import SearchEffort, ShardHits, ShardQuery
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric

DIMENSION = 16
CITIES = ["b", "a", "é", "", "Zürich"]


def table_of(cities: list[str | None]) -> pa.Table:
    numbers = [(i * 7919) % 1_000_003 for i in range(len(cities))]
    ids = pa.array([f"{n}#é" if n % 2 else f"doc-{n}" for n in numbers], pa.string())
    return pa.table(
        {
            "id": ids,
            "document": ids,
            "text": ids,
            "meta.city": pa.array(cities, pa.string()),
            "meta.code": pa.array([None if c is None else len(c) for c in cities], pa.int64()),
            "meta.row": pa.array(range(len(cities)), pa.int64()),
        }
    )


def built(
    folder: Path,
    table: pa.Table,
    vectors: Float32Array,
    parameters: IndexParameters,
    partition_by: str | None,
) -> ShardIndex:
    folder.mkdir(parents=True)
    build_shard(table, vectors, ShardPlan(parameters, partition_by=partition_by), folder)
    return ShardIndex.open(folder, parameters, vectors.shape[1])


def ask(vectors: Float32Array, top_k: int, filter: Any, exact: bool = False) -> ShardQuery:
    parsed: Filter = parse_filter(filter)
    effort = SearchEffort(exact=exact)
    return ShardQuery(
        corpus="c", index_version="v", vectors=vectors, top_k=top_k, filter=parsed, effort=effort
    )


def same(a: ShardHits, b: ShardHits) -> bool:
    return (
        a.scores.tobytes() == b.scores.tobytes()
        and a.rows.tolist() == b.rows.tolist()
        and a.ids.tolist() == b.ids.tolist()
    )


FILTERS: list[Any] = [
    *({"city": city} for city in CITIES),
    {"city": "nowhere"},
    {"city": None},
    {"city": {"in": ["a", "é", "nowhere", "a"]}},
    {"city": {"in": []}},
    {"city": {"in": ["a", None]}},
    {"city": "a", "row": {"gte": 40}},
    {"and": [{"row": {"lt": 100}}, {"city": "b"}, {"not": {"row": 3}}]},
    {"and": [{"city": "b"}, {"city": "a"}]},
    {"or": [{"city": "b"}, {"row": 1}]},
    {"row": {"lt": 30}},
]


@given(
    seed=st.integers(0, 2**32),
    num_rows=st.integers(0, 150),
    top_k=st.sampled_from([1, 3, 10, 200]),
    metric=st.sampled_from(Metric),
    field=st.sampled_from(["city", "code"]),
)
@settings(max_examples=25, deadline=None)
def test_flat_answers_alike_with_and_without_partitions(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    num_rows: int,
    top_k: int,
    metric: Metric,
    field: str,
) -> None:
    rng = np.random.default_rng(seed)
    # Most vectors occur several times, so that ties lie across every cut.
    distinct = np.round(rng.standard_normal((1 + num_rows // 3, DIMENSION))).astype(np.float32)
    distinct[:, 0] += 0.5
    vectors = distinct[rng.integers(0, len(distinct), num_rows)]
    cities = [(*CITIES, None)[i] for i in rng.integers(0, len(CITIES) + 1, num_rows)]
    folder = tmp_path_factory.mktemp("shards")
    parameters = IndexParameters(kind=IndexKind.FLAT, metric=metric)
    table = table_of(cities)
    plain = built(folder / "plain", table, vectors, parameters, None)
    parted = built(folder / "parted", table, vectors, parameters, field)
    queries = prepared(distinct[:5], metric)
    deleted = {id for id in table["document"].to_pylist() if rng.random() < 0.2}
    for filter in [*FILTERS, {"code": 1}, {"code": {"in": [0, 6]}, "city": "Zürich"}]:
        query = ask(queries, top_k, filter)
        assert same(parted.search(query), plain.search(query)), filter
        less = [index.without_documents(deleted) for index in (parted, plain)]
        assert same(*(index.search(query) for index in less))


NUM_LARGE = 15_000
"""So many rows that a third of them have an index of their own, and a sixth have none."""


class Large(NamedTuple):
    plain: ShardIndex
    parted: ShardIndex
    vectors: Float32Array
    folder: Path
    parameters: IndexParameters


@pytest.fixture(scope="module", params=[kind for kind in IndexKind if kind is not IndexKind.FLAT])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Large:
    """One shard without and with partitions, of which `a` and `b` have indexes of their own."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((40, DIMENSION))
    noise = 0.5 * rng.standard_normal((NUM_LARGE, DIMENSION))
    vectors = (centres[rng.integers(0, 40, NUM_LARGE)] + noise).astype(np.float32)
    cities: list[str | None] = [("a", "b", "a", None, "é", "b")[i % 6] for i in range(NUM_LARGE)]
    parameters = IndexParameters(
        kind=request.param, metric=Metric.L2, hnsw_m=16, ef_construction=40, ef_search=64, nprobe=8
    )
    folder = tmp_path_factory.mktemp("large")
    plain = built(folder / "plain", table_of(cities), vectors, parameters, None)
    parted = built(folder / "parted", table_of(cities), vectors, parameters, "city")
    return Large(plain, parted, vectors, folder / "parted", parameters)


def test_large_partitions_are_searched_in_indexes_of_their_own(large: Large) -> None:
    plain, parted, vectors, folder, _ = large
    # By the order of the keys: "a", "b" and the smaller "é".
    assert {path.name for path in (folder / "partitions").iterdir()} == {"0.faiss", "1.faiss"}
    rng = np.random.default_rng(5)
    noise = 0.2 * rng.standard_normal((100, DIMENSION))
    queries = (vectors[rng.integers(0, NUM_LARGE, 100)] + noise).astype(np.float32)
    deleted = [f"doc-{n}" for n in range(0, 400_000, 2)]
    for filter in ({"city": "a"}, {"city": "b", "row": {"gte": 3000}}, {"city": "é"}):
        less = (plain.without_documents(deleted), parted.without_documents(deleted))
        for one, other in ((plain, parted), less):
            exact = one.search(ask(queries, 10, filter, exact=True))
            assert same(other.search(ask(queries, 10, filter, exact=True)), exact)
            found = other.search(ask(queries, 10, filter))
            recall = (found.scores >= exact.scores[:, -1:]).mean()
            before = (one.search(ask(queries, 10, filter)).scores >= exact.scores[:, -1:]).mean()
            assert recall >= min(before - 0.01, 0.98), (filter, recall, before)
            # A search alone finds what it finds in a batch.
            alone = other.search(ask(queries[7:8], 10, filter))
            assert alone.scores.tobytes() == found.scores[7].tobytes()


def test_threads_open_partitions_at_the_same_time(large: Large) -> None:
    _, known, vectors, folder, parameters = large
    queries = [ask(vectors[i : i + 1], 5, {"city": CITIES[i % 4]}) for i in range(40)]
    expected = [known.search(query) for query in queries]
    fresh = ShardIndex.open(folder, parameters, DIMENSION)
    with ThreadPoolExecutor(8) as pool:
        assert all(map(same, pool.map(fresh.search, queries), expected))


def test_values_of_another_type_are_refused_as_ever(tmp_path: Path) -> None:
    vectors = np.eye(4, DIMENSION, dtype=np.float32)
    parameters = IndexParameters(kind=IndexKind.FLAT)
    index = built(tmp_path / "s", table_of(["a", "b", "a", None]), vectors, parameters, "code")
    assert (index.search(ask(vectors[:1], 4, {"code": 1})).rows >= 0).sum() == 3
    for bad in ({"code": "a"}, {"code": True}, {"code": 1.0}, {"code": 1, "colour": "red"}):
        with pytest.raises(InvalidArgument):
            index.search(ask(vectors[:1], 4, bad))


def test_a_build_is_reproducible(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((300, DIMENSION)).astype(np.float32)
    table = table_of([CITIES[i % 5] for i in range(300)])
    order = rng.permutation(300)
    parameters = IndexParameters(kind=IndexKind.FLAT)
    built(tmp_path / "a", table, vectors, parameters, "city")
    built(tmp_path / "b", table.take(order), vectors[order], parameters, "city")
    first = (tmp_path / "a" / PARTITIONS_FILE).read_bytes()
    assert first == (tmp_path / "b" / PARTITIONS_FILE).read_bytes()


def use(folder: Path, parameters: IndexParameters) -> None:
    index = ShardIndex.open(folder, parameters, DIMENSION)
    vectors = np.ones((2, DIMENSION), dtype=np.float32)
    for city in CITIES:
        index.search(ask(vectors, 7, {"city": city}))


@pytest.mark.parametrize("name", [PARTITIONS_FILE, "partitions/0.faiss"])
def test_damage_is_reported_or_harmless(tmp_path: Path, name: str) -> None:
    num_rows = SCANNED_ROWS_MAX + 2000
    vectors = np.random.default_rng(2).standard_normal((num_rows, DIMENSION)).astype(np.float32)
    parameters = IndexParameters(kind=IndexKind.IVF_FLAT, nlist=4, nprobe=1)
    cities: list[str | None] = [""] * (SCANNED_ROWS_MAX + 1)
    cities += [CITIES[i % 5] for i in range(num_rows - len(cities))]
    built(tmp_path / "s", table_of(cities), vectors, parameters, "city")
    path = tmp_path / "s" / name
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], bytes(len(whole)), whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(Corrupt):
            use(tmp_path / "s", parameters)
    rng = random.Random(name)
    for _ in range(60):
        damaged = bytearray(whole)
        at = rng.choice([rng.randrange(64), -rng.randrange(9, 1000), rng.randrange(len(whole) - 8)])
        damaged[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), rng.randbytes(8)])
        path.write_bytes(damaged)
        with suppress(Corrupt):
            use(tmp_path / "s", parameters)
    path.unlink()
    with pytest.raises(Corrupt):
        use(tmp_path / "s", parameters)
