"""The Arrow file of a shard: passages, metadata and original vectors, in the index's row order.

Columns: `id` (passage), `document`, `text`, `meta.{field}` for each metadata field, and `vector`, a
fixed-size list of float32, as the index stores it. One uncompressed record batch, so that a memory
map of the file serves all columns in place and the vectors are one NumPy array without a copy. Rows
ascend by id, in the order of its bytes: to order rows is to order ids.

The schema's metadata says what a reader needs before it looks at a row: the longest vector's norm,
the size of the index file that belongs to this one, and where there is such a thing, how many
distinct vectors the rows share, the score below which a query's best hit is weak, and the metadata
field by which the rows are partitioned.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from actors.shards.mapped_batch import UNREADABLE, mapped_batch, write_batch
from cluster.arrays import BytesArray, Float32Array, Int64Array, Mask
from cluster.documents.passages import META_PREFIX
from cluster.errors import Corrupt, InvalidArgument
from cluster.metadata import Metadata
from cluster.query.search import REPLY_BYTES_MAX, Passages
from cluster.vectors.checks import norms

DOCUMENTS_FILE = "documents.arrow"
_ROWS_ONE_BY_ONE = 16
"""Number of values up to which reading them one by one is quicker: a call of Arrow's kernels costs
40 us after a search, which leaves nothing of the kernels in the caches.
"""
_PADDED_IDS_BYTES_MAX = 8 << 20
_PADDED_AT_ONCE = 1 << 16
_REQUIRED = ("id", "document", "text")
_VECTOR = "vector"
_NORM_MAX = b"raygion.norm_max"
_INDEX_SIZE = b"raygion.index_size_bytes"
_NUM_VECTORS = b"raygion.num_vectors"
_WEAK_SCORE = b"raygion.weak_score"
_PARTITION_BY = b"raygion.partition_by"


def sorted_by_id(table: pa.Table, vectors: Float32Array) -> tuple[pa.Table, Float32Array]:
    """Both in ascending order of the `id` column's bytes.

    Raises InvalidArgument for an id that is null, empty or holds a NUL (hits carry ids in
    fixed-width arrays, where a NUL is the end); ValueError for what only a mistake in the program
    explains: missing columns, another number of vectors than of rows, an id that occurs twice.
    """
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing:
        raise ValueError(f"the table lacks the columns {missing}")
    if vectors.ndim != 2 or len(vectors) != table.num_rows:
        raise ValueError(f"{table.num_rows} rows, but vectors of shape {vectors.shape}")
    order = pc.sort_indices(table, sort_keys=[("id", "ascending")])
    table = table.take(order)
    ids = table.column("id").to_pylist()
    if any(not id or "\0" in id for id in ids):
        raise InvalidArgument("must not be empty and must not contain NUL", "id")
    for id, following in pairwise(ids):
        if id == following:
            raise ValueError(f"the id {id!r} occurs twice")
    return table, np.ascontiguousarray(vectors[order.to_numpy()], dtype=np.float32)


def write_documents(
    table: pa.Table,
    vectors: Float32Array,
    path: Path,
    *,
    index_size_bytes: int,
    num_vectors: int | None = None,
    weak_score: float | None = None,
    partition_by: str | None = None,
) -> None:
    """Writes what `sorted_by_id` returned. Raises InvalidArgument for more text than fits a
    batch.
    """
    columns = [column.combine_chunks() for column in table.columns]
    if any(isinstance(column, pa.ChunkedArray) for column in columns):
        raise InvalidArgument("a shard holds at most 2 GiB of text; use more shards", "text")
    columns.append(
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    )
    batch = pa.RecordBatch.from_arrays(columns, names=[*table.column_names, _VECTOR])
    norm_max = float(norms(vectors).max(initial=0.0))
    facts = {_NORM_MAX: norm_max.hex().encode(), _INDEX_SIZE: str(index_size_bytes).encode()}
    if num_vectors is not None:
        facts[_NUM_VECTORS] = str(num_vectors).encode()
    if weak_score is not None:
        facts[_WEAK_SCORE] = weak_score.hex().encode()
    if partition_by is not None:
        facts[_PARTITION_BY] = partition_by.encode()
    write_batch(batch.replace_schema_metadata(facts), path)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardDocuments:
    """One shard's rows, memory-mapped: processes of a node share the pages."""

    metadata: pa.Table
    """The metadata fields by their plain names."""
    vectors: Float32Array
    """float32 [num_rows, d], read-only, a view of the file"""
    norm_max: float
    index_size_bytes: int
    num_vectors: int | None
    """Number of distinct vectors, where some rows share theirs; None where each row has its own."""
    weak_score: float | None
    partition_by: str | None
    texts: pa.StringArray
    document_column: pa.StringArray
    ends: Mapping[str | None, npt.NDArray[np.int32]]
    """int32 [num_rows + 1], where values end, by the metadata field that has strings; None: texts
    """
    row_bytes_max: int
    """Longest text and longest strings of the metadata, together."""
    id_ends: npt.NDArray[np.int32]
    """int32 [num_rows + 1]: row i's id is `id_bytes[id_ends[i] : id_ends[i + 1]]`"""
    id_bytes: npt.NDArray[np.uint8]
    padded_ids: BytesArray | None
    """bytes [num_rows + 1]: the ids, and an empty one for row -1; None where that takes too much
    memory, which no other process shares.
    """

    @classmethod
    def open(cls, path: Path, dimension: int) -> Self:
        """Raises Corrupt for a file that is missing, damaged or not what `write_documents` wrote.

        Reads the offsets of strings and, where they are few, the ids, so that it costs
        milliseconds: every access stays within the file, but what the bytes say is for the hash of
        the artifact to vouch for.
        """
        try:
            return cls._of_batch(mapped_batch(path), dimension)
        except UNREADABLE as error:
            raise Corrupt(f"{path.name} is not a readable document table: {error}") from error

    @classmethod
    def _of_batch(cls, batch: pa.RecordBatch, dimension: int) -> Self:
        facts = batch.schema.metadata or {}
        norm_max = float.fromhex(facts[_NORM_MAX].decode())
        if not norm_max >= 0.0:
            raise ValueError(f"the longest vector has norm {norm_max}")
        weak_score = float.fromhex(facts[_WEAK_SCORE].decode()) if _WEAK_SCORE in facts else None
        ids = _strings(batch.column("id"))
        documents = _strings(batch.column("document"))
        texts = _strings(batch.column("text"))
        fields = [name for name in batch.schema.names if name.startswith(META_PREFIX)]
        ends: dict[str | None, npt.NDArray[np.int32]] = {None: _offsets(texts)}
        for name in fields:
            if pa.types.is_string(batch.column(name).type):
                ends[name.removeprefix(META_PREFIX)] = _offsets(_strings(batch.column(name)))
        metadata = pa.Table.from_batches([batch.select(fields)])
        if ids.null_count:
            raise ValueError("an id is null")
        id_ends = _offsets(ids)
        id_bytes = np.frombuffer(memoryview(ids.buffers()[2] or b""), dtype=np.uint8)
        return cls(
            metadata=metadata.rename_columns([name.removeprefix(META_PREFIX) for name in fields]),
            vectors=_vectors(batch.column(_VECTOR), dimension),
            norm_max=norm_max,
            index_size_bytes=int(facts[_INDEX_SIZE]),
            num_vectors=int(facts[_NUM_VECTORS]) if _NUM_VECTORS in facts else None,
            weak_score=weak_score,
            partition_by=facts[_PARTITION_BY].decode() if _PARTITION_BY in facts else None,
            texts=texts,
            document_column=documents,
            ends=ends,
            row_bytes_max=sum(int(np.diff(each).max(initial=0)) for each in ends.values()),
            id_ends=id_ends,
            id_bytes=id_bytes,
            padded_ids=_padded_ids(id_ends, id_bytes),
        )

    @property
    def num_rows(self) -> int:
        return len(self.texts)

    def ids(self, rows: Int64Array) -> BytesArray:
        """bytes, in the shape of `rows`: the ids in UTF-8, empty where the row is -1."""
        if self.padded_ids is not None:
            return self.padded_ids[rows]
        if rows.size <= _ROWS_ONE_BY_ONE:
            flat = rows.ravel()
            # From the end of all to the beginning of all there is nothing: the id of row -1.
            spans = zip(self.id_ends[flat].tolist(), self.id_ends[flat + 1].tolist(), strict=True)
            few = [self.id_bytes[start:end].tobytes() for start, end in spans]
            return np.array(few or [b""], dtype=np.bytes_)[: len(few)].reshape(rows.shape)
        return _ids(self.id_ends, self.id_bytes, rows)

    def row_of(self, id: str) -> int | None:
        """The row of the passage with this id; None where there is none."""
        wanted = id.encode()
        row = self._row_from(wanted)
        return row if row < self.num_rows and self._id_at(row) == wanted else None

    def rows_of(self, documents: Collection[str]) -> Mask:
        """bool [num_rows]: whether the row is a passage of one of these documents."""
        wanted = pa.array([document.encode() for document in documents], pa.binary())
        # Compared as bytes, which need not be UTF-8 to be compared.
        found = pc.is_in(self.document_column.view(pa.binary()), value_set=wanted)
        mask: Mask = found.to_numpy(zero_copy_only=False)
        return mask

    def rows_of_document(self, document: str) -> list[int]:
        """The rows of the document's passages, ascending. Looks them up by the ids that
        `passage_ids` gives, so that it costs some 50 us however many rows there are.
        """
        own, first, past = (document.encode() + end for end in (b"", b"#0", b"#:"))
        own_row = self._row_from(own)
        rows = {*range(own_row, min(own_row + 1, self.num_rows))}
        rows.update(range(self._row_from(first), self._row_from(past)))
        # Some are rows of other documents, such as one whose id is `{document}#1`.
        return sorted(row for row in rows if self.document_column[row].as_py() == document)

    def _row_from(self, id: bytes) -> int:
        """The first row of which the id is not less than this."""
        return bisect_left(range(self.num_rows), id, key=self._id_at)

    def _id_at(self, row: int) -> bytes:
        return self.id_bytes[self.id_ends[row] : self.id_ends[row + 1]].tobytes()

    def documents_at(self, rows: Int64Array) -> frozenset[str]:
        """The ids of the documents whose passages these rows are."""
        return frozenset(str(id) for id in self.document_column.take(rows).to_pylist())

    def passages(
        self,
        rows: Sequence[int] | Int64Array,
        fields: tuple[str, ...] | None,
        *,
        bytes_max: int = REPLY_BYTES_MAX,
    ) -> Passages:
        """Texts and metadata of `rows`, in their order; all metadata fields when `fields` is None.
        Of the first rows only, where those of all are longer than `bytes_max`.

        Raises IndexError for a row that does not exist, InvalidArgument for an unknown field.
        """
        names = tuple(self.metadata.column_names) if fields is None else fields
        for name in names:
            if name not in self.metadata.column_names:
                known = ", ".join(self.metadata.column_names[:20]) or "none"
                raise InvalidArgument(
                    f"{name[:64]!r} is no metadata field; known: {known}", "fields"
                )
        taken = self._within(bytes_max, np.asarray(rows, dtype=np.int64), names)
        try:
            texts = tuple([text or "" for text in _values(self.texts, taken)])
            columns = [_values(self.metadata.column(name), taken) for name in names]
        except UnicodeDecodeError as error:
            raise Corrupt(f"{DOCUMENTS_FILE} holds text that is not UTF-8") from error
        metadata: tuple[Metadata, ...] = tuple(
            dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)
        )
        return Passages(texts=texts, metadata=metadata or ({},) * len(texts))

    def _within(self, bytes_max: int, rows: Int64Array, names: Sequence[str]) -> Int64Array:
        if len(rows) * self.row_bytes_max <= bytes_max:
            return rows
        sizes = np.zeros(len(rows), dtype=np.int64)
        for name in (None, *names):
            if (ends := self.ends.get(name)) is not None:
                sizes += ends[rows + 1]
                sizes -= ends[rows]
        return rows[: np.searchsorted(np.cumsum(sizes), bytes_max, side="right")]


def _values(column: pa.Array[Any] | pa.ChunkedArray[Any], rows: Int64Array) -> list[Any]:
    if len(rows) > _ROWS_ONE_BY_ONE:
        return column.take(rows).to_pylist()
    wanted: list[int] = rows.tolist()
    if min(wanted, default=0) < 0:
        raise IndexError("a row is negative")
    return [column[row].as_py() for row in wanted]


def _strings(column: pa.Array[Any]) -> pa.StringArray:
    """The column, once it is sure that no offset of it leaves its data."""
    if not isinstance(column, pa.StringArray):
        raise TypeError(f"a column of {column.type} where strings belong")
    offsets = _offsets(column)
    data = column.buffers()[2]
    size_bytes = 0 if data is None else data.size
    if offsets[0] < 0 or offsets[-1] > size_bytes or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("a string lies outside of its column")
    return column


def _ids(
    id_ends: npt.NDArray[np.int32], id_bytes: npt.NDArray[np.uint8], rows: Int64Array
) -> BytesArray:
    starts = id_ends[rows].astype(np.int64)
    lengths = np.where(rows < 0, 0, id_ends[rows + 1] - starts)
    width = max(1, int(lengths.max(initial=0)))
    columns = np.arange(width)
    # Past its end an id reads its neighbour's bytes, or the last one of all; both become NUL.
    index = np.minimum(starts[..., None] + columns, max(0, id_bytes.size - 1))
    characters = np.where(columns < lengths[..., None], id_bytes[index], np.uint8(0))
    ids: BytesArray = characters.view(f"S{width}")[..., 0]
    return ids


def _padded_ids(
    id_ends: npt.NDArray[np.int32], id_bytes: npt.NDArray[np.uint8]
) -> BytesArray | None:
    """One look-up in place of ten array operations for each batch of hits."""
    num_rows = len(id_ends) - 1
    width = int(np.diff(id_ends).max(initial=1))
    if num_rows == 0 or (num_rows + 1) * width > _PADDED_IDS_BYTES_MAX:
        return None
    rows = np.append(np.arange(num_rows), -1)
    steps = range(0, num_rows + 1, _PADDED_AT_ONCE)
    blocks = [_ids(id_ends, id_bytes, rows[start : start + _PADDED_AT_ONCE]) for start in steps]
    return np.concatenate(blocks).astype(f"S{width}")


def _offsets(column: pa.StringArray) -> npt.NDArray[np.int32]:
    if len(column) == 0:
        # Arrow leaves the buffer out.
        return np.zeros(1, dtype=np.int32)
    buffer = memoryview(column.buffers()[1] or b"")
    return np.frombuffer(buffer, dtype=np.int32, count=len(column) + 1)


def _vectors(column: pa.Array[Any], dimension: int) -> Float32Array:
    if column.type != pa.list_(pa.float32(), dimension):
        raise TypeError(f"vectors are {column.type}, not {dimension} float32")
    if column.null_count:
        raise ValueError("a vector is null")
    assert isinstance(column, pa.FixedSizeListArray)
    values: Float32Array = column.values.to_numpy(zero_copy_only=True)
    return values.reshape(len(column), dimension)
