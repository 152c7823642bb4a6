"""The passages of a delta: vectors, ids, texts and metadata, in rows that never change."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from cluster.arrays import BytesArray, Float32Array, Int64Array
from cluster.deltas.field_types import in_column
from cluster.deltas.growing import with_room
from cluster.documents.passages import ARROW_TYPES, passage_ids
from cluster.metadata import ColumnType, Metadata
from cluster.mutations.mutation import Content
from cluster.query.search import REPLY_BYTES_MAX, Passages
from cluster.vectors.checks import norms, prepared
from cluster.vectors.metric import Metric

Types: TypeAlias = Mapping[str, ColumnType]
Column: TypeAlias = "pa.ChunkedArray[Any]"
_ROWS_MIN = 64
_CHUNKS_MAX = 64
"""Pieces of a column, after which they become one."""


class DeltaRows:
    """One writer appends; whoever has taken the number of rows may read these in any thread."""

    def __init__(self, dimension: int, metric: Metric) -> None:
        self._metric = metric
        self._vectors = np.empty((_ROWS_MIN, dimension), dtype=np.float32)
        self._ids: list[bytes] = []
        self._texts: list[str] = []
        self._metadata: list[Metadata] = []
        self._columns: dict[tuple[str, ColumnType], Column] = {}
        self.norm_max = 0.0
        """At least the norm of the longest vector."""

    def __len__(self) -> int:
        return len(self._metadata)

    def append(self, document: str, content: Content) -> range:
        """The new rows, one for each passage. The content has vectors."""
        assert content.vectors is not None
        # The same bytes as in a base: see `actors.builds.shard`.
        vectors = prepared(content.vectors, self._metric) + np.float32(0.0)
        rows = range(len(self), len(self) + len(vectors))
        self._vectors = with_room(self._vectors, rows.stop)
        self._vectors[rows.start : rows.stop] = vectors
        self.norm_max = max(self.norm_max, float(norms(vectors).max()))
        self._ids += [id.encode() for id in _ids(document, content)]
        self._texts += content.passages
        self._metadata += [content.metadata] * len(vectors)
        return rows

    def only(self, rows: Int64Array) -> DeltaRows:
        """A copy that has these rows alone, in this order."""
        copy = DeltaRows(self._vectors.shape[1], self._metric)
        copy._vectors = self._vectors[rows] if len(rows) else copy._vectors
        numbers = rows.tolist()
        copy._ids = [self._ids[row] for row in numbers]
        copy._texts = [self._texts[row] for row in numbers]
        copy._metadata = [self._metadata[row] for row in numbers]
        copy.norm_max = self.norm_max
        return copy

    def metadata(self, row: int) -> Metadata:
        """Metadata of the document of which the row is a passage."""
        return self._metadata[row]

    def vectors(self, num_rows: int) -> Float32Array:
        """float32 [num_rows, d]: those of the first rows, as an index of the metric stores them."""
        return self._vectors[:num_rows]

    def ids(self, rows: Int64Array) -> BytesArray:
        """bytes, in the shape of `rows`: the ids of their passages in UTF-8."""
        found = [self._ids[row] for row in rows.ravel().tolist()]
        return np.array(found, dtype=np.bytes_).reshape(rows.shape)

    def table(self, num_rows: int, types: Types) -> pa.Table:
        """These fields of the first rows, null where a document lacks one, or has a value that is
        not of the type.
        """
        if not types:
            # A table without columns would have no rows.
            return pa.table({"": pa.nulls(num_rows, pa.bool_())})
        columns = [self._column(name, type, num_rows)[:num_rows] for name, type in types.items()]
        return pa.Table.from_arrays(columns, names=list(types))

    def passages(
        self, rows: Int64Array, types: Types, *, bytes_max: int = REPLY_BYTES_MAX
    ) -> Passages:
        """Texts and these metadata fields of `rows`, in their order; of the first rows only, where
        those of all are longer than `bytes_max`.
        """
        numbers = rows.tolist()
        texts = [self._texts[row] for row in numbers]
        metadata = [
            {name: in_column(self._metadata[row].get(name), type) for name, type in types.items()}
            for row in numbers
        ]
        sizes = (_size(text, values) for text, values in zip(texts, metadata, strict=True))
        num_fitting = sum(size <= bytes_max for size in accumulate(sizes))
        return Passages(texts=tuple(texts[:num_fitting]), metadata=tuple(metadata[:num_fitting]))

    def _column(self, name: str, type: ColumnType, num_rows: int) -> Column:
        column = self._columns.get((name, type))
        known = 0 if column is None else len(column)
        if column is None or known < num_rows:
            values = [in_column(m.get(name), type) for m in self._metadata[known:num_rows]]
            chunks = [] if column is None else column.chunks
            column = pa.chunked_array([*chunks, pa.array(values, ARROW_TYPES[type])])
            if len(column.chunks) > _CHUNKS_MAX:
                column = pa.chunked_array([column.combine_chunks()])
            # Two threads at once make two equal columns, of which one stays.
            self._columns[name, type] = column
        return column


def _ids(document: str, content: Content) -> list[str]:
    if content.embedder is None:
        # A document that brings its vector is one passage, which has its id as it stands.
        return [document]
    return passage_ids(document, len(content.cuts or ()))


def _size(text: str, values: Metadata) -> int:
    strings = [text, *(value for value in values.values() if isinstance(value, str))]
    return sum(len(each) if each.isascii() else len(each.encode()) for each in strings)
