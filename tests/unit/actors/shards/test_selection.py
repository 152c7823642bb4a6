"""The rows that filters select are remembered, for the filters that were asked last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from actors.builds.shard import ShardPlan, build_shard
from actors.shards.documents import DOCUMENTS_FILE, ShardDocuments
from actors.shards.faiss_index import FaissIndex
from actors.shards.index import INDEX_FILE
from actors.shards.selection import FILTERS_CACHED_MAX, Selections
from actors.shards.vector_rows import IndexedVectors, OneRowEach
from cluster.query.filters import Filter, parse_filter
from cluster.shards.index_parameters import IndexKind, IndexParameters

NUM_ROWS, DIMENSION = 200, 4


@pytest.fixture
def selections(tmp_path: Path) -> Selections:
    parameters = IndexParameters(kind=IndexKind.FLAT)
    numbers = list(range(NUM_ROWS))
    ids = [f"{number:03}" for number in numbers]
    table = pa.table({"id": ids, "document": ids, "text": ids, "meta.row": numbers})
    vectors = np.random.default_rng(1).standard_normal((NUM_ROWS, DIMENSION)).astype(np.float32)
    build_shard(table, vectors, ShardPlan(parameters), tmp_path)
    documents = ShardDocuments.open(tmp_path / DOCUMENTS_FILE, DIMENSION)
    index = FaissIndex.open(
        tmp_path / INDEX_FILE,
        parameters,
        DIMENSION,
        size_bytes=documents.index_size_bytes,
        num_vectors=NUM_ROWS,
    )
    indexed = IndexedVectors(index, None)
    return Selections(documents.metadata, None, indexed, OneRowEach(), parameters, None)


def row(number: int) -> Filter:
    return parse_filter({"row": number})


def test_the_filters_that_were_asked_last_are_remembered_and_no_more(
    selections: Selections,
) -> None:
    first, second = selections.of(row(0)), selections.of(row(1))
    for number in range(2, FILTERS_CACHED_MAX):
        selections.of(row(number))
    assert selections.of(row(0)) is first
    # One more than are remembered: what was asked longest ago makes room.
    selections.of(row(FILTERS_CACHED_MAX))
    assert selections.of(row(0)) is first
    again = selections.of(row(1))
    assert again is not second
    assert again.num_rows == second.num_rows == 1
