"""Texts of a search are bounded by bytes before they are made, and a batch suffers from none."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.query.shard_search import SearchKind, ShardSearch
from actors.shards.documents import DOCUMENTS_FILE, ShardDocuments, write_documents
from cluster.arrays import Float32Array, Int64Array
from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.errors import DeadlineExceeded, InvalidArgument
from cluster.query.search import Passages, ShardHits, ShardQuery
from tests.support.worlds.fake_shards import kind_of

TEXTS = ["", "a" * 10, "é" * 5, "b" * 50, "c" * 100]
NOTES = ["n" * 7, None, "", "n" * 30, "n"]
BYTES_MAX = 100


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> ShardDocuments:
    folder: Path = tmp_path_factory.mktemp("shard")
    ids = [str(n) for n in range(len(TEXTS))]
    table = pa.table(
        {
            "id": ids,
            "document": ids,
            "text": TEXTS,
            "meta.note": NOTES,
            "meta.year": list(range(len(TEXTS))),
        }
    )
    vectors = np.ones((len(TEXTS), 2), dtype=np.float32)
    write_documents(table, vectors, folder / DOCUMENTS_FILE, index_size_bytes=1)
    return ShardDocuments.open(folder / DOCUMENTS_FILE, 2)


@settings(deadline=None)
@given(
    rows=st.lists(st.integers(0, len(TEXTS) - 1), max_size=40),
    fields=st.sampled_from([None, (), ("note",), ("year",), ("year", "note")]),
)
def test_a_shard_sends_as_many_of_the_first_rows_as_fit(
    documents: ShardDocuments, rows: list[int], fields: tuple[str, ...] | None
) -> None:
    passages = documents.passages(rows, fields, bytes_max=BYTES_MAX)
    with_notes = fields is None or "note" in fields
    sizes = [
        len(TEXTS[row].encode()) + len((NOTES[row] or "").encode() if with_notes else b"")
        for row in rows
    ]
    num_fitting = next((n for n in range(len(rows)) if sum(sizes[: n + 1]) > BYTES_MAX), len(rows))
    assert passages.texts == tuple(TEXTS[row] for row in rows[:num_fitting])
    assert len(passages.metadata) == num_fitting


class LimitedShard:
    """Row n has a text of n bytes; it sends at most BYTES_MAX at once."""

    def __init__(self, number: int, rows: list[int]) -> None:
        self.replica_id = str(number)
        self.fetches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._number = number
        self._rows = rows

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardHits:
        # The query's first number is the number of hits that it finds.
        k = max(1, int(query.vectors[:, 0].max()))
        rows = np.full((len(query.vectors), k), -1, dtype=np.int64)
        for line, vector in zip(rows, query.vectors, strict=True):
            wanted = self._rows[: int(vector[0])]
            line[: len(wanted)] = wanted
        scores = np.where(rows < 0, -np.inf, rows).astype(np.float32)
        names = [[f"{self._number}-{row}" if row >= 0 else "" for row in line] for line in rows]
        return ShardHits(scores=scores, rows=rows, ids=np.array(names, dtype=np.bytes_))

    async def passages(
        self,
        index_version: str,
        rows: Int64Array,
        fields: tuple[str, ...] | None,
        timeout_s: float,
    ) -> Passages:
        self.fetches.append(rows.tolist())
        if len(self.fetches) > 1:
            await self.gate.wait()
        kept = rows[: np.searchsorted(np.cumsum(rows), BYTES_MAX, side="right")].tolist()
        return Passages(texts=tuple("x" * row for row in kept), metadata=({},) * len(kept))


def asks_for(*numbers: int) -> Float32Array:
    """A query for each number, which finds so many hits in each shard."""
    return np.array([[number, 0.0] for number in numbers], dtype=np.float32)


@pytest.fixture
def shards() -> list[LimitedShard]:
    return [LimitedShard(0, [60, 30, 20, 10]), LimitedShard(1, [40])]


async def found(search: ShardSearch, kind: SearchKind, *numbers: int) -> list[list[int]]:
    """The lengths of the texts that are found for each query."""
    result = await search.search(kind, asks_for(*numbers), Deadline.after(10.0))
    return [[len(hit.text) for hit in hits] for hits in result.results]


async def test_each_search_of_a_batch_gets_its_texts_however_long_those_of_the_others(
    shards: list[LimitedShard],
) -> None:
    search, kind = ShardSearch(SYSTEM_CLOCK), kind_of(shards, top_k=8)
    assert await asyncio.gather(
        found(search, kind, 1),
        found(search, kind, 0, 1),
        found(search, kind, 2),
        found(search, kind, 0),
    ) == [[[60, 40]], [[], [60, 40]], [[60, 40, 30]], [[]]]
    # Once together; what did not fit follows search by search.
    assert shards[0].fetches == [[60, 60, 60, 30], [60], [60, 30]]


async def test_a_search_with_too_many_texts_is_refused_and_harms_no_other(
    shards: list[LimitedShard],
) -> None:
    search, kind = ShardSearch(SYSTEM_CLOCK), kind_of(shards, top_k=8)
    small, large, after = await asyncio.gather(
        found(search, kind, 1),
        found(search, kind, 3, 1),
        found(search, kind, 2),
        return_exceptions=True,
    )
    assert small == [[60, 40]]
    assert after == [[60, 40, 30]]
    assert isinstance(large, InvalidArgument)
    assert large.field == "top_k"
    assert "include" in large.message
    with pytest.raises(InvalidArgument):
        await found(search, kind, 4)


async def test_long_texts_are_fetched_for_one_search_at_a_time_within_its_time(
    shards: list[LimitedShard],
) -> None:
    search, kind = ShardSearch(SYSTEM_CLOCK), kind_of(shards, top_k=8)
    shards[0].gate.clear()
    patient = [asyncio.create_task(found(search, kind, 2)) for _ in range(3)]
    hasty = asyncio.create_task(search.search(kind, asks_for(2), Deadline.after(0.2)))
    with pytest.raises(DeadlineExceeded):
        await hasty
    assert shards[0].fetches == [[60, 30] * 4, [60, 30]]
    shards[0].gate.set()
    # The first of the batch fitted into it.
    assert await asyncio.gather(*patient) == [[[60, 40, 30]]] * 3


async def test_without_texts_there_is_nothing_to_bound(shards: list[LimitedShard]) -> None:
    kind = replace(kind_of(shards, top_k=8), passages=False)
    result = await ShardSearch(SYSTEM_CLOCK).search(kind, asks_for(4), Deadline.after(10.0))
    assert result.arrays is not None
    assert shards[0].fetches == []
