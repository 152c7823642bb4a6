"""The last step of a search: texts and metadata of the final hits, and of no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from cluster.arrays import Int64Array
from cluster.clock import Deadline
from cluster.errors import RaygionError
from cluster.query.search import Hit, MergedHits, Passages
from cluster.search.fanout import ask_all


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """The hits of a batch, with their passages."""

    results: list[tuple[Hit, ...]]
    """Hits of each query."""
    lost: Mapping[int, RaygionError]
    """The shards that were lost since they were searched; their hits are left out."""
    num_whole: int
    """Number of queries, from the first on, that have all their hits. The others lack some: a shard
    sends no more than `REPLY_BYTES_MAX` bytes at once.
    """


class PassageSource(Protocol):
    """A shard that has passages: `cluster.search.fanout.ShardAccess` and `LiveShard`."""

    def passages_now(
        self, index_version: str, rows: Int64Array, fields: tuple[str, ...] | None
    ) -> Passages | None: ...

    async def passages(
        self,
        index_version: str,
        rows: Int64Array,
        fields: tuple[str, ...] | None,
        deadline: Deadline,
        *,
        may_be_missing: bool = False,
    ) -> Passages: ...


async def fetch_passages(
    accesses: Mapping[int, PassageSource],
    index_version: str,
    merged: MergedHits,
    fields: tuple[str, ...] | None,
    deadline: Deadline,
    *,
    may_be_missing: bool,
) -> Fetched:
    """One call for each shard that has some of the hits. `accesses`: by the number of the shard.

    Raises what a lost shard failed with, unless shards may be missing.
    """
    flat_shards, flat_rows = merged.shards.ravel(), merged.rows.ravel()
    positions = {
        shard: where for shard in accesses if (where := np.flatnonzero(flat_shards == shard)).size
    }
    fetched: dict[int, Passages | None] = {
        shard: accesses[shard].passages_now(index_version, flat_rows[where], fields)
        for shard, where in positions.items()
    }
    asked = {
        shard: partial(
            accesses[shard].passages,
            index_version,
            flat_rows[positions[shard]],
            fields,
            may_be_missing=may_be_missing,
        )
        for shard, passages in fetched.items()
        if passages is None
    }
    lost: dict[int, RaygionError] = {}
    if asked:
        answers = await ask_all(list(asked.values()), deadline)
        for shard, answer in zip(asked, answers, strict=True):
            if isinstance(answer, RaygionError):
                lost[shard] = answer
            else:
                fetched[shard] = answer
        if lost and not may_be_missing:
            raise next(iter(lost.values()))
    here = {shard: passages for shard, passages in fetched.items() if passages is not None}
    return Fetched(
        results=_hits(merged, here, positions),
        lost=lost,
        num_whole=_num_whole(merged, here, positions),
    )


def _hits(
    merged: MergedHits, fetched: Mapping[int, Passages], positions: Mapping[int, Int64Array]
) -> list[tuple[Hit, ...]]:
    hits: list[Hit | None] = [None] * merged.ids.size
    ids, scores = merged.ids.ravel().tolist(), merged.scores.ravel().tolist()
    for shard, passages in fetched.items():
        where = positions[shard].tolist()[: len(passages.texts)]
        found = zip(where, passages.texts, passages.metadata, strict=True)
        for position, text, metadata in found:
            hits[position] = Hit(
                id=ids[position].decode(), score=scores[position], text=text, metadata=metadata
            )
    k = merged.ids.shape[1]
    lines = (hits[start : start + k] for start in range(0, len(hits), k or 1))
    return [tuple([hit for hit in line if hit is not None]) for line in lines]


def _num_whole(
    merged: MergedHits, fetched: Mapping[int, Passages], positions: Mapping[int, Int64Array]
) -> int:
    num_queries, k = merged.ids.shape
    first_absent: Iterator[int] = (
        int(positions[shard][len(passages.texts)]) // k
        for shard, passages in fetched.items()
        if len(passages.texts) < len(positions[shard])
    )
    return min(first_absent, default=num_queries)
