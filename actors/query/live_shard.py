"""The live documents of a search as one more shard of its corpus, which is always there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.arrays import Int64Array
from cluster.clock import Deadline
from cluster.deltas.delta import DeltaView
from cluster.metadata import ColumnType
from cluster.query.search import DocumentsSeen, Passages, ShardHits, ShardQuery
from cluster.serving.view import CorpusView

_BRIEF_ELEMENTS = 1 << 22
"""Numbers that are compared in less than 5 ms, which is done at once."""
_BLOCK_VECTORS = 64
"""Vectors that one block of a long search compares."""
_BRIEF_ROWS = 256
"""Rows of which the texts are fetched at once."""


@dataclass(frozen=True, slots=True)
class LiveShard:
    """It is no part of the coverage, and partitions say nothing about it."""

    view: DeltaView
    schema: Mapping[str, ColumnType]
    """The fields of the release."""
    new_fields: tuple[str, ...] = ()
    """Fields that are asked for and that the release does not have."""

    @property
    def seen(self) -> DocumentsSeen:
        """What the other shards must leave out."""
        view = self.view
        return DocumentsSeen(epoch=view.epoch, version=view.version, embedder=view.space.embedder)

    def with_new_fields(self, corpus: CorpusView) -> CorpusView:
        """The corpus as requests may name its fields."""
        if self.view.types.keys() <= self.schema.keys():
            return corpus
        return replace(corpus, metadata_schema={**self.view.types, **self.schema})

    async def search(self, query: ShardQuery) -> ShardHits:
        """Raises InvalidArgument for a filter that does not fit the metadata."""
        elements = self.view.num_rows * query.vectors.size
        # A filter may have to make columns of all rows first.
        if elements <= _BRIEF_ELEMENTS and query.filter is None:
            return self.view.search(query, self.schema)
        hits = []
        # In blocks, between which a search ends that nobody waits for.
        for start in range(0, max(1, len(query.vectors)), _BLOCK_VECTORS):
            block = replace(query, vectors=query.vectors[start : start + _BLOCK_VECTORS])
            hits.append(await asyncio.to_thread(self.view.search, block, self.schema))
        return ShardHits.joined(hits)

    def passages_now(
        self, index_version: str, rows: Int64Array, fields: tuple[str, ...] | None
    ) -> Passages | None:
        """Same as `cluster.search.fanout.ShardAccess`."""
        return None if len(rows) > _BRIEF_ROWS else self._passages(rows, fields)

    async def passages(
        self,
        index_version: str,
        rows: Int64Array,
        fields: tuple[str, ...] | None,
        deadline: Deadline,
        *,
        may_be_missing: bool = False,
    ) -> Passages:
        """Same as `cluster.search.fanout.ShardAccess`."""
        return await asyncio.to_thread(self._passages, rows, fields)

    def _passages(self, rows: Int64Array, fields: tuple[str, ...] | None) -> Passages:
        asked = None if fields is None else (*fields, *self.new_fields)
        return self.view.passages(rows, asked, self.schema)
