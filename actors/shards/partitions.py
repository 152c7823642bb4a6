"""The partitions of a shard: many small indexes, opened on first use.

    partitions.arrow        key | rows (int32, ascending) | size of an index of its own, or 0
    partitions/{n}.faiss    the index of the n-th key, over the distinct vectors of its rows alone

One record batch, keys ascending, mapped: to open 10,000 partitions reads some offsets, and what a
partition is made of is read when it is first asked for. A partition of few vectors is nothing but
its rows, which are compared one by one: that takes no longer than an index of them would. A larger
one of an approximate kind has an index file of its own, trained on its own vectors; the ones asked
for last stay open. Rows without a value are in no partition.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from actors.shards.faiss_build import write_index
from actors.shards.faiss_index import FaissIndex, check_size
from actors.shards.mapped_batch import UNREADABLE, mapped_batch, write_batch
from actors.shards.vector_rows import IndexedVectors, VectorRows
from cluster.arrays import Float32Array, Int64Array
from cluster.errors import Corrupt
from cluster.query.filters import Compare, Comparison, Filter
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.shards.partitions import PartitionKey, named_partitions

PARTITIONS_FILE = "partitions.arrow"
INDEX_FOLDER = "partitions"
SCANNED_ROWS_MAX = 4096
"""A partition of no more vectors has no index of its own (measured: docs/partitions.md)."""
_OPEN_MAX = 64
_FIELD, _NUM_ROWS = b"raygion.partition_by", b"raygion.num_rows"
_COLUMNS = ("key", "rows", "index_size_bytes")


def write_partitions(
    values: pa.ChunkedArray[Any] | pa.Array[Any],
    field: str,
    vectors: Float32Array,
    shared: VectorRows,
    parameters: IndexParameters,
    folder: Path,
) -> None:
    """Writes the partitions of a shard's rows. Equal input, equal bytes.

    values: strings or integers, the partition of row i or null; vectors: float32 [n, d], those of
    all rows, as the shard stores them.
    """
    by_key: dict[PartitionKey, list[int]] = {}
    # The column has one type, so its values can be compared.
    listed: list[Any] = values.to_pylist()
    for row, key in enumerate(listed):
        if key is not None:
            by_key.setdefault(key, []).append(row)
    keys: list[Any] = sorted(by_key)
    distinct = [shared.first_rows(np.array(by_key[key])) for key in keys]
    sizes_bytes = [
        _write_index(number, vectors[rows], parameters, folder)
        if parameters.kind is not IndexKind.FLAT and len(rows) > SCANNED_ROWS_MAX
        else 0
        for number, rows in enumerate(distinct)
    ]
    columns = [
        pa.array(keys, values.type),
        pa.array([by_key[key] for key in keys], pa.list_(pa.int32())),
        pa.array(sizes_bytes, pa.int64()),
    ]
    batch = pa.RecordBatch.from_arrays(columns, names=list(_COLUMNS)).replace_schema_metadata(
        {_FIELD: field.encode(), _NUM_ROWS: str(len(vectors)).encode()}
    )
    write_batch(batch, folder / PARTITIONS_FILE)


def _write_index(
    number: int, vectors: Float32Array, parameters: IndexParameters, folder: Path
) -> int:
    path = _index_path(folder, number)
    path.parent.mkdir(exist_ok=True)
    # Its centroids are its own: no other shard has rows of this partition to be compared with.
    write_index(vectors, parameters, path)
    return path.stat().st_size


def _index_path(folder: Path, number: int) -> Path:
    return folder / INDEX_FOLDER / f"{number}.faiss"


@dataclass(frozen=True, slots=True)
class NamedRows:
    """The rows that a filter names by its partitions, and the rest of the filter."""

    rows: Int64Array
    """int64, ascending: all rows of the partitions"""
    rest: Filter | None
    indexed: IndexedVectors | None
    """The vectors of just these rows, where the filter names one partition and that has an index.
    """


class ShardPartitions:
    """The opened `partitions.arrow` of a shard. Thread-safe."""

    def __init__(
        self,
        field: str,
        batch: pa.RecordBatch,
        folder: Path,
        shared: VectorRows,
        parameters: IndexParameters,
        dimension: int,
        held_out: Int64Array | None,
    ) -> None:
        self.field = field
        self._batch = batch
        self._folder = folder
        self._shared = shared
        self._parameters = parameters
        self._dimension = dimension
        self._held_out = held_out
        self._num_rows = int((batch.schema.metadata or {})[_NUM_ROWS])
        self._keys: Any = batch.column("key")
        lists: Any = batch.column("rows")
        self._ends: npt.NDArray[np.int32] = lists.offsets.to_numpy()
        self._rows: npt.NDArray[np.int32] = lists.values.to_numpy()
        self._index_sizes: Int64Array = batch.column("index_size_bytes").to_numpy()
        self._key_type: type = str if pa.types.is_string(self._keys.type) else int
        self._opened: OrderedDict[int, tuple[Int64Array, IndexedVectors]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        folder: Path,
        field: str,
        num_rows: int,
        shared: VectorRows,
        parameters: IndexParameters,
        dimension: int,
        held_out: Int64Array | None = None,
    ) -> Self:
        """Maps the file. Raises Corrupt when it is missing, damaged or of another shard, or lacks
        the index files that it names. held_out: same as in `ShardIndex.open`.
        """
        path = folder / PARTITIONS_FILE
        try:
            batch = mapped_batch(path)
            _check(batch, field, num_rows)
            opened = cls(field, batch, folder, shared, parameters, dimension, held_out)
        except UNREADABLE as error:
            raise Corrupt(f"{path.name} is not a readable list of partitions: {error}") from error
        for number in np.flatnonzero(opened._index_sizes).tolist():
            check_size(_index_path(folder, number), int(opened._index_sizes[number]))
        return opened

    def __len__(self) -> int:
        return len(self._keys)

    def tuned(self, parameters: IndexParameters) -> Self:
        """The same files, searched with other parameters."""
        tuned = type(self)(
            self.field,
            self._batch,
            self._folder,
            self._shared,
            parameters,
            self._dimension,
            self._held_out,
        )
        with self._lock:
            for number, (rows, indexed) in self._opened.items():
                tuned._opened[number] = (
                    rows,
                    replace(indexed, index=indexed.index.tuned(parameters)),
                )
        return tuned

    def indexed(self) -> list[tuple[Filter, Int64Array]]:
        """The filter for each partition with an index of its own, and the first row of each of its
        vectors.
        """
        return [
            (
                Compare(self.field, Comparison.EQ, self._keys[number].as_py()),
                self._shared.first_rows(self._rows_of(number)),
            )
            for number in np.flatnonzero(self._index_sizes).tolist()
        ]

    def named(self, filter: Filter) -> NamedRows | None:
        """The rows of the partitions that the filter names; None when it names none.

        Raises Corrupt when the file is found to be damaged.
        """
        named = named_partitions(filter, self.field)
        if named is None or not all(isinstance(key, self._key_type) for key in named.keys):
            # A value of another type is for the filter's own evaluation to refuse.
            return None
        found = [number for key in named.keys if (number := self._find(key)) is not None]
        if len(found) == 1 and self._index_sizes[found[0]]:
            all_rows, indexed = self._index(found[0])
            return NamedRows(all_rows, named.rest, indexed)
        parts = [self._rows_of(number) for number in found]
        rows = np.sort(np.concatenate(parts)) if len(parts) > 1 else (*parts, _NO_ROWS)[0]
        return NamedRows(rows, named.rest, None)

    def _find(self, key: PartitionKey) -> int | None:
        try:
            # Python orders strings by code point, which is the order of their UTF-8 bytes.
            number = bisect_left(self._keys, key, key=lambda scalar: scalar.as_py())
            found = number < len(self._keys) and self._keys[number].as_py() == key
        except UnicodeDecodeError as error:
            raise Corrupt(f"{PARTITIONS_FILE} has a key that is not UTF-8") from error
        return number if found else None

    def _rows_of(self, number: int) -> Int64Array:
        rows = self._rows[self._ends[number] : self._ends[number + 1]].astype(np.int64)
        if (
            len(rows) == 0
            or rows[0] < 0
            or rows[-1] >= self._num_rows
            or (rows[1:] <= rows[:-1]).any()
        ):
            raise Corrupt(f"{PARTITIONS_FILE} names rows that a partition cannot have")
        return rows

    def _index(self, number: int) -> tuple[Int64Array, IndexedVectors]:
        """The rows of a partition, and its index."""
        with self._lock:
            opened = self._opened.get(number)
            if opened is None:
                opened = self._open_index(number)
                self._opened[number] = opened
            self._opened.move_to_end(number)
            while len(self._opened) > _OPEN_MAX:
                self._opened.popitem(last=False)
            return opened

    def _open_index(self, number: int) -> tuple[Int64Array, IndexedVectors]:
        rows = self._rows_of(number)
        first_rows = self._shared.first_rows(rows)
        held_out = self._held_out
        if held_out is not None:
            held_out = np.flatnonzero(np.isin(first_rows, held_out))
        index = FaissIndex.open(
            _index_path(self._folder, number),
            self._parameters,
            self._dimension,
            size_bytes=int(self._index_sizes[number]),
            num_vectors=len(first_rows),
            held_out=held_out,
        )
        return rows, IndexedVectors(index, first_rows)


_NO_ROWS: Int64Array = np.empty(0, dtype=np.int64)


def _check(batch: pa.RecordBatch, field: str, num_rows: int) -> None:
    """Raises ValueError or KeyError unless the batch is what `write_partitions` wrote."""
    facts = batch.schema.metadata or {}
    if (facts[_FIELD], int(facts[_NUM_ROWS])) != (field.encode(), num_rows):
        raise ValueError("it belongs to another shard")
    types = [batch.schema.field(name).type for name in _COLUMNS]
    if types[0] not in (pa.string(), pa.int64()) or types[1:] != [pa.list_(pa.int32()), pa.int64()]:
        raise ValueError(f"its columns are {types}")
    if any(batch.column(name).null_count for name in _COLUMNS):
        raise ValueError("a value is missing")
    lists: Any = batch.column("rows")
    ends = lists.offsets.to_numpy()
    if len(ends) and (ends[0] < 0 or ends[-1] > len(lists.values) or (ends[1:] < ends[:-1]).any()):
        raise ValueError("a partition lies outside of the file")
