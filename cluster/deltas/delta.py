"""A delta: the passages of the documents that have changed since the base, searched exactly.

It is one more shard of its corpus. Its scores are those that an index over the same vectors gives,
bit for bit, and with the rows of the base hidden whose documents it replaces (`HiddenRows`) the
merged hits are those of one Flat index of all live documents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cluster.arrays import Float32Array, Int64Array, Mask
from cluster.deltas.changes import Changes
from cluster.deltas.delta_rows import DeltaRows, Types
from cluster.deltas.field_types import FieldTypes
from cluster.deltas.growing import with_room
from cluster.deltas.space import Space, seen_in, sees
from cluster.errors import InvalidArgument
from cluster.mutations.mutation import Content
from cluster.mutations.watermark import Watermark
from cluster.query.filters import Filter, check_filter, fields_of
from cluster.query.search import Passages, ShardHits, ShardQuery
from cluster.shards.filter_mask import filter_mask
from cluster.shards.merge import merge_hits, padding
from cluster.vectors.metric import Metric
from cluster.vectors.scoring import scan

_SLACK = 4
"""Rows that are looked for beyond k, so that most ties across the cut are seen at once."""
_DEAD_ROWS_MIN = 1024
"""Rows of documents that have changed again, before it pays to leave them behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaView:
    """A delta at one version. Later changes leave it as it is; threads may search it."""

    space: Space
    metric: Metric
    epoch: str
    version: int
    watermark: Watermark
    read_ms: int
    """As in `Changes`."""
    num_documents: int
    """Documents that are not as the base has them: changed, new or deleted ones."""
    types: Types
    """The fields of its documents, whether or not the base has them."""
    rows: DeltaRows
    num_rows: int
    """Number of rows that `rows` had."""
    live: Int64Array
    """int64, ascending: the rows that count."""

    def search(self, query: ShardQuery, schema: Types) -> ShardHits:
        """The best hits of each query, exactly, whatever `query.effort` is. `schema`: the types of
        the release's fields.

        Raises InvalidArgument for a filter that does not fit the metadata.
        """
        rows = self.live if query.filter is None else self._matching(query.filter, schema)
        k = min(query.top_k, len(rows))
        if k == 0 or len(query.vectors) == 0:
            return padding(len(query.vectors), query.top_k)
        width = min(k + _SLACK, len(rows))
        scores, found = self._scan(query.vectors, rows, width)
        # Rows do not ascend by id here, so all that tie with the last one have to be looked at.
        while width < len(rows) and (scores[:, -1] == scores[:, k - 1]).any():
            width = min(2 * width, len(rows))
            scores, found = self._scan(query.vectors, rows, width)
        hits = ShardHits(scores=scores, rows=found, ids=self.rows.ids(found))
        best = merge_hits([(0, hits)], query.top_k)
        return ShardHits(scores=best.scores, rows=best.rows, ids=best.ids)

    def passages(self, rows: Int64Array, fields: tuple[str, ...] | None, schema: Types) -> Passages:
        """Texts and metadata of `rows`, as those of a shard: all fields of the release when
        `fields` is None, and the others that the documents have.

        Raises InvalidArgument for an unknown field.
        """
        known = {**self.types, **schema}
        if fields is not None:
            for name in fields:
                if name not in known:
                    raise InvalidArgument(f"{name[:64]!r} is no metadata field", "fields")
            return self.rows.passages(rows, {name: known[name] for name in fields})
        return self.rows.passages(rows, {name: known[name] for name in sorted(known)})

    def _matching(self, filter: Filter, schema: Types) -> Int64Array:
        types = {**self.types, **schema}
        check_filter(filter, types)
        # The first search after a change pays for each column that it asks for.
        named = {name: types[name] for name in fields_of(filter)}
        table = self.rows.table(self.num_rows, named)
        return self.live[filter_mask(filter, table)[self.live]]

    def _scan(
        self, vectors: Float32Array, rows: Int64Array, k: int
    ) -> tuple[Float32Array, Int64Array]:
        stored = self.rows.vectors(self.num_rows)
        among = None if len(rows) == self.num_rows else rows
        return scan(vectors, stored, among, k, self.metric, self.rows.norm_max)


class Delta:
    """The delta of one corpus in one space, which takes changes in. One thread at a time may."""

    def __init__(self, space: Space, metric: Metric) -> None:
        self.space = space
        self.metric = metric
        self._view: DeltaView | None = None
        self._forget()

    @property
    def view(self) -> DeltaView | None:
        """None before the first changes."""
        return self._view

    def take(self, changes: Changes) -> None:
        """Takes in the changes that follow those taken in before, or everything anew.

        Raises ValueError for changes that do not follow.
        """
        if changes.after == 0:
            self._forget()
        elif self._view is None or not changes.follow(self._view.epoch, self._view.version):
            raise ValueError(f"changes from version {changes.after} on do not follow")
        for change in changes.changes:
            self._replace(change.document, change.content)
        self._leave_dead_rows()
        self._view = DeltaView(
            space=self.space,
            metric=self.metric,
            epoch=changes.epoch,
            version=changes.version,
            watermark=changes.watermark,
            read_ms=changes.read_ms,
            num_documents=len(self._documents),
            types=self._types.types,
            rows=self._rows,
            num_rows=len(self._rows),
            live=self._live_rows(),
        )

    def _forget(self) -> None:
        self._rows = DeltaRows(self.space.dimension, self.metric)
        self._types = FieldTypes()
        self._documents: dict[str, range] = {}
        """The rows of each document of which this space sees the change."""
        self._is_live: Mask = np.zeros(0, dtype=np.bool_)
        """bool, at least as many as there are rows."""
        self._num_dead = 0

    def _replace(self, document: str, content: Content | None) -> None:
        before = self._documents.pop(document, range(0))
        if before:
            self._is_live[before.start : before.stop] = False
            self._num_dead += len(before)
            self._types.remove(self._rows.metadata(before.start))
        if not sees(self.space, seen_in(content)):
            return
        if content is None or content.vectors is None:
            self._documents[document] = range(0)
        else:
            rows = self._documents[document] = self._rows.append(document, content)
            self._is_live = with_room(self._is_live, rows.stop)
            self._is_live[rows.start : rows.stop] = True
            self._types.add(content.metadata)

    def _live_rows(self) -> Int64Array:
        return np.flatnonzero(self._is_live[: len(self._rows)])

    def _leave_dead_rows(self) -> None:
        """Leaves the dead rows behind, to the views that show them, when they are most."""
        if self._num_dead < max(_DEAD_ROWS_MIN, len(self._rows) // 2):
            return
        live = self._live_rows()
        self._rows = self._rows.only(live)
        self._documents = {
            document: range(first := int(np.searchsorted(live, rows.start)), first + len(rows))
            for document, rows in self._documents.items()
        }
        self._is_live = np.ones(len(live), dtype=np.bool_)
        self._num_dead = 0
