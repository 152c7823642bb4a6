"""Rows with equal vectors share one vector of the index: which rows have which vector.

An index holds each distinct vector once, numbered in the order of the first row that has it. A
search looks for the best vectors, each of which stands for its first row until the end, when all of
its rows take its place. Left in the index, equal vectors break a graph: they link to each other
alone, and a search finds nothing but them (of 60 passages beside 1,500 equal ones an HNSW of Faiss
1.15.1 found none, whatever the order in which they were added).

    vector_rows.arrow    numbers  int32 [rows]: the vector of each row
                         rows     int32 [rows]: the rows of vector 0, ascending, then of vector 1...
                         starts   int32 [vectors + 1]: where the rows of each vector begin

A shard without equal vectors has no such file. Vectors are equal when their bytes are, as they are
stored: normalised for cosine, and without negative zeros.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from actors.shards.faiss_index import FaissIndex
from actors.shards.mapped_batch import UNREADABLE, mapped_batch, write_batch
from cluster.arrays import Float32Array, Int64Array, Mask
from cluster.errors import Corrupt
from cluster.vectors.scoring import best

VECTOR_ROWS_FILE = "vector_rows.arrow"
_COLUMNS = ("numbers", "rows", "starts")
_LOOKED_AT_ONCE = 4096
"""Rows of one vector among which the ones to return are looked for."""

Int32Array = npt.NDArray[np.int32]
Bits = npt.NDArray[np.uint8]


def marked(bits: Bits, numbers: Int64Array) -> Mask:
    """bool, in the shape of `numbers`: whose bit is set, in little-endian order; that of -1 is
    not.
    """
    # The byte of -1 is some byte, and its bit does not count.
    found: Mask = (bits[numbers >> 3] >> (numbers & 7).astype(np.uint8) & 1).astype(np.bool_)
    return found & (numbers >= 0)


class OneRowEach:
    """The vectors of a shard without equal vectors: vector i is that of row i."""

    firsts: Int64Array | None = None
    """The first row of each vector; None where that is the vector's number."""

    def numbers_of(self, rows: Int64Array) -> Int64Array:
        """The vectors of these rows."""
        return rows

    def with_rows(self, rows: Mask) -> Mask:
        """bool [vectors]: which have at least one of the rows that `rows` marks."""
        return rows

    def first_rows(self, rows: Int64Array) -> Int64Array:
        """The first of the given ascending rows for each of their vectors; ascending."""
        return rows

    def live_bits(self, rows: Mask | Int64Array) -> Bits | None:
        """The bits with which `in_rows` returns these rows only, after a search that finds their
        vectors only.
        """
        return None

    def in_rows(
        self, scores: Float32Array, rows: Int64Array, k: int, live: Bits | None
    ) -> tuple[Float32Array, Int64Array]:
        """The best k rows of each line by (score descending, row ascending), from the best vectors.

        scores, rows: float32 and int64 [n, m], in that order; each row stands for all that have its
        vector, -1 for none. live: what `live_bits` returned; None means all rows. Lines of fewer
        rows are padded with -inf and -1.
        """
        return scores[:, :k], rows[:, :k]


class SharedVectors:
    """The vectors of a shard in which some rows have equal vectors; see `OneRowEach` for the
    methods.
    """

    def __init__(self, numbers: Int32Array, rows: Int32Array, starts: Int32Array) -> None:
        self._numbers = numbers
        self._rows = rows
        self._starts = starts
        self.firsts: Int64Array | None = rows[starts[:-1]].astype(np.int64)

    @classmethod
    def of_numbers(cls, numbers: Int32Array) -> Self:
        """numbers: int32 [rows], the vector of each row; they begin at 0 and leave none out."""
        rows = np.argsort(numbers, kind="stable").astype(np.int32)
        starts = np.concatenate([[0], np.cumsum(np.bincount(numbers))]).astype(np.int32)
        return cls(numbers, rows, starts)

    @classmethod
    def open(cls, path: Path, num_rows: int) -> Self:
        """Maps the file. Raises Corrupt when it is missing, damaged or of another shard."""
        try:
            batch = mapped_batch(path)
            numbers, rows, starts = (_values(batch.column(name)) for name in _COLUMNS)
            _check(numbers, rows, starts, num_rows)
        except UNREADABLE as error:
            raise Corrupt(f"{path.name} does not say which rows share vectors: {error}") from error
        return cls(numbers, rows, starts)

    def write(self, path: Path) -> None:
        """Equal input, equal bytes."""
        columns = [
            pa.array([values], pa.list_(pa.int32()))
            for values in (self._numbers, self._rows, self._starts)
        ]
        write_batch(pa.RecordBatch.from_arrays(columns, names=list(_COLUMNS)), path)

    def numbers_of(self, rows: Int64Array) -> Int64Array:
        return self._numbers[rows].astype(np.int64)

    def with_rows(self, rows: Mask) -> Mask:
        mask = np.zeros(len(self._starts) - 1, dtype=np.bool_)
        mask[self._numbers[rows]] = True
        return mask

    def first_rows(self, rows: Int64Array) -> Int64Array:
        _, firsts = np.unique(self._numbers[rows], return_index=True)
        return rows[np.sort(firsts)]

    def live_bits(self, rows: Mask | Int64Array) -> Bits | None:
        mask = np.zeros(len(self._numbers), dtype=np.bool_)
        mask[rows] = True
        return np.packbits(mask, bitorder="little")

    def in_rows(
        self, scores: Float32Array, rows: Int64Array, k: int, live: Bits | None
    ) -> tuple[Float32Array, Int64Array]:
        numbers = self._numbers[rows]
        is_shared = (self._starts[numbers + 1] - self._starts[numbers] > 1) & (rows >= 0)
        padding = ((0, 0), (0, max(0, k - rows.shape[1])))
        best_scores = np.pad(scores[:, :k], padding, constant_values=-np.inf)
        best_rows = np.pad(rows[:, :k], padding, constant_values=-1)
        for line in np.flatnonzero(is_shared.any(axis=1)):
            num_vectors = np.count_nonzero(rows[line] >= 0)
            own = self._spread(scores[line, :num_vectors], numbers[line], k, live)
            num_found = own[0].shape[1]
            best_scores[line, :num_found], best_rows[line, :num_found] = own[0][0], own[1][0]
            best_scores[line, num_found:], best_rows[line, num_found:] = -np.inf, -1
        return best_scores, best_rows

    def _spread(
        self, scores: Float32Array, numbers: Int32Array, k: int, live: Bits | None
    ) -> tuple[Float32Array, Int64Array]:
        """[1, m], m <= k: the best rows of these vectors, which are in the order of their scores.

        Vectors of equal scores take turns by their rows: they are looked at all or not at all.
        """
        groups: list[Int64Array] = []
        num_found, last = 0, -np.inf
        for score, number in zip(scores.tolist(), numbers.tolist(), strict=False):
            if num_found >= k and score < last:
                break
            groups.append(self._live_rows(number, k, live))
            num_found, last = num_found + len(groups[-1]), score
        found_scores = np.repeat(scores[: len(groups)], [len(group) for group in groups])
        return best(found_scores[None], np.concatenate(groups)[None], k)

    def _live_rows(self, number: int, k: int, live: Bits | None) -> Int64Array:
        """The first k rows of a vector that may be returned."""
        rows = self._rows[self._starts[number] : self._starts[number + 1]]
        if live is None:
            return rows[:k].astype(np.int64)
        groups: list[Int64Array] = []
        num_found = 0
        for top in range(0, len(rows), _LOOKED_AT_ONCE):
            some = rows[top : top + _LOOKED_AT_ONCE].astype(np.int64)
            groups.append(some[marked(live, some)])
            num_found += len(groups[-1])
            if num_found >= k:
                break
        return np.concatenate(groups)[:k]


VectorRows: TypeAlias = OneRowEach | SharedVectors


@dataclass(frozen=True, slots=True)
class IndexedVectors:
    """An index, and for each of its vectors the shard's first row that has it."""

    index: FaissIndex
    rows: Int64Array | None
    """Ascending; None: vector i stands for row i."""

    def rows_of(self, numbers: Int64Array) -> Int64Array:
        """int64, in the shape of `numbers`: the row that each stands for; -1 stays."""
        if self.rows is None:
            return numbers
        return np.where(numbers < 0, np.int64(-1), self.rows[numbers])


def vector_rows(vectors: Float32Array) -> VectorRows:
    """vectors: float32 [n, d] as a shard stores them, without negative zeros, in row order."""
    numbers = vector_numbers(vectors)
    is_shared = len(numbers) > 0 and int(numbers.max()) + 1 < len(numbers)
    return SharedVectors.of_numbers(numbers) if is_shared else OneRowEach()


def vector_numbers(vectors: Float32Array) -> Int32Array:
    """int32 [n]: equal numbers for vectors of equal bytes, counted in the order of their first."""
    numbers: dict[bytes, int] = {}
    # Digests, since the vectors themselves as keys would be held in memory once more.
    digests = (hashlib.blake2b(vector, digest_size=16).digest() for vector in vectors)
    counted = (numbers.setdefault(digest, len(numbers)) for digest in digests)
    return np.fromiter(counted, dtype=np.int32, count=len(vectors))


def _values(column: Any) -> Int32Array:
    if column.type != pa.list_(pa.int32()) or len(column) != 1 or column.null_count:
        raise ValueError(f"a column is {column.type}")
    start, end = column.offsets.to_numpy()
    if not 0 <= start <= end <= len(column.values) or column.values.null_count:
        raise ValueError("a column lies outside of the file")
    values: Int32Array = column.values.to_numpy()[start:end]
    return values


def _check(numbers: Int32Array, rows: Int32Array, starts: Int32Array, num_rows: int) -> None:
    """Raises ValueError for what would lead a search out of the arrays, or to no row at all."""
    if (len(numbers), len(rows)) != (num_rows, num_rows):
        raise ValueError(f"it is about {len(numbers)} rows instead of {num_rows}")
    # Compared, not subtracted: what is damaged may overflow.
    is_ascending = (starts[:-1] < starts[1:]).all()
    if len(starts) < 2 or (starts[0], starts[-1]) != (0, num_rows) or not is_ascending:
        raise ValueError("a vector has no rows, or those of others")
    for values, end in ((numbers, len(starts) - 1), (rows, num_rows)):
        if values.min() < 0 or values.max() >= end:
            raise ValueError("it names a row or a vector that does not exist")
