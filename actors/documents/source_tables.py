"""Rows out of Parquet, Arrow and NumPy files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.documents.source_rows import Row, check_unpacked, listed, row_of_columns
from cluster.documents.documents import DIMENSION_MAX, DocumentOrigin
from cluster.errors import InvalidArgument

_ROWS_AT_ONCE = 1024
_SHARED_BYTES_AT_ONCE = 16 * 2**20
"""Bytes of the copies that Arrow makes of a value that rows share in a Parquet file."""
_NPY_BYTES_AT_ONCE = 2**30
_DAMAGED = (pa.ArrowException, OSError, UnicodeDecodeError)
"""Errors that Arrow raises for a file; the last one if the name of a column is not UTF-8."""
_UNREADABLE = (ValueError, TypeError, KeyError, OverflowError, pa.ArrowException)
"""Errors that Arrow raises for a value without a counterpart in Python: bytes that are not UTF-8
(Parquet and Arrow files may claim otherwise), the year 10000, a duration in nanoseconds, an unknown
time zone, a map with a key twice or with a list for a key.
"""


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Stands for a value that cannot be read."""

    why: str


def read_parquet(file: BinaryIO, name: str) -> Iterator[Row]:
    try:
        yield from _rows_of_batches(_parquet_batches(file, name), name)
    except _DAMAGED as error:
        raise InvalidArgument(f"{name}: is not a readable Parquet file: {error}") from None


def _parquet_batches(file: BinaryIO, name: str) -> Iterator[pa.RecordBatch]:
    """Batches, with fewer rows if the rows may share long values."""
    # The file is opened here and closed by the caller, so Arrow must not map it.
    parquet = pq.ParquetFile(file)
    columns = [parquet.schema.column(i) for i in range(len(parquet.schema))]
    texts = [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY" and not column.max_repetition_level
    ]
    # Reading all rows so would copy what they share for each batch.
    sharing = pq.ParquetFile(file, read_dictionary=texts)
    groups = range(parquet.num_row_groups)
    unpacked = sum(parquet.metadata.row_group(group).total_byte_size for group in groups)
    check_unpacked(unpacked, file.seek(0, io.SEEK_END), name)
    for group in groups:
        rows_of_group = sharing.iter_batches(batch_size=1, row_groups=[group], columns=texts)
        first = next(rows_of_group, None)
        longest = 0 if first is None else sum(map(_longest_shared, first.columns))
        rows = min(_ROWS_AT_ONCE, _SHARED_BYTES_AT_ONCE // max(1, longest)) or 1
        yield from parquet.iter_batches(batch_size=rows, row_groups=[group])


def _longest_shared(column: Any) -> int:
    """Bytes of the longest value that the rows of a column can share."""
    if pa.types.is_struct(column.type):
        return sum(map(_longest_shared, column.flatten()))
    if not pa.types.is_dictionary(column.type) or not len(column.dictionary):
        return 0
    return int(pc.max(pc.binary_length(column.dictionary)).as_py() or 0)


def read_arrow(file: BinaryIO, name: str) -> Iterator[Row]:
    try:
        if file.read(6) == b"ARROW1":
            file.seek(0)
            with pa.ipc.open_file(cast(io.IOBase, file)) as reader:
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
                yield from _rows_of_batches(batches, name)
        else:
            file.seek(0)
            with pa.ipc.open_stream(cast(io.IOBase, file)) as stream:
                yield from _rows_of_batches(iter(stream), name)
    except _DAMAGED as error:
        raise InvalidArgument(f"{name}: is not a readable Arrow file: {error}") from None


def _rows_of_batches(batches: Iterator[pa.RecordBatch], name: str) -> Iterator[Row]:
    number = 0
    for whole in batches:
        columns = whole.schema.names
        if len(set(columns)) < len(columns):
            raise InvalidArgument(f"{name}: names a column twice: {listed(columns)}")
        for column in whole.columns:
            _check(column)
        for start in range(0, whole.num_rows, _ROWS_AT_ONCE):
            batch = whole.slice(start, _ROWS_AT_ONCE)
            values = [
                _vectors(batch, name) if column == "vector" else _values(batch.column(column))
                for column in columns
            ]
            for row in zip(*values, strict=True):
                number += 1
                yield _row(
                    dict(zip(columns, row, strict=True)), DocumentOrigin(source=name, row=number)
                )


def _check(column: Any) -> None:
    """Raises ArrowInvalid where a damaged file would make Arrow read beyond its buffers, and end
    the process.
    """
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        # The rows with such texts are told one by one.
        if "UTF8" not in str(error):
            raise


def _row(columns: dict[str, object], origin: DocumentOrigin) -> Row:
    for column, value in columns.items():
        if isinstance(value, _Unreadable):
            return InvalidArgument(f"{origin}: {value.why}", column), origin
    return row_of_columns(columns, origin)


def _values(column: Any) -> Sequence[object]:
    """The column as Python objects, a null as None."""
    if pa.types.is_dictionary(column.type):
        return _shared_values(column.indices.to_pylist(), column.dictionary)
    if pa.types.is_run_end_encoded(column.type):
        rows = np.arange(column.offset, column.offset + len(column))
        ends = column.run_ends.to_numpy()
        return _shared_values(np.searchsorted(ends, rows, side="right").tolist(), column.values)
    try:
        return cast(list[object], column.to_pylist(maps_as_pydicts="strict"))
    except _UNREADABLE:
        # Rare and wrong; one by one, the row that is to blame is found.
        return [_value(scalar) for scalar in column]


def _shared_values(numbers: Sequence[int | None], values: Any) -> Sequence[object]:
    """The value of each row's number, which rows share, however long it is."""
    used = sorted({number for number in numbers if number is not None})
    found = dict(zip(used, _values(values.take(pa.array(used, pa.int64()))), strict=True))
    return [None if number is None else found[number] for number in numbers]


def _value(scalar: Any) -> object:
    try:
        return scalar.as_py(maps_as_pydicts="strict")
    except _UNREADABLE as error:
        return _Unreadable(f"has a {scalar.type} that cannot be read: {error}")


def _vectors(batch: pa.RecordBatch, name: str) -> Sequence[object]:
    """The column `vector` as one array a row, without a Python object for each number."""
    column: Any = batch.column("vector")
    if not _is_list_of_numbers(column.type):
        raise InvalidArgument(f"{name}: must be a list of numbers, not {column.type}", "vector")
    values = column.flatten()
    if column.null_count or values.null_count:
        # Rare and wrong; as lists, the row that is to blame is found.
        return cast(list[object], column.to_pylist())
    flat = values.to_numpy(zero_copy_only=False)
    lengths = column.value_lengths().to_numpy() if _is_list(column.type) else None
    if lengths is None:
        return list(flat.reshape(batch.num_rows, column.type.list_size))
    return np.split(flat, np.cumsum(lengths)[:-1]) if batch.num_rows else []


def _is_list_of_numbers(type_: Any) -> bool:
    if not (pa.types.is_fixed_size_list(type_) or _is_list(type_)):
        return False
    return bool(pa.types.is_floating(type_.value_type) or pa.types.is_integer(type_.value_type))


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_))


def read_npy(file: BinaryIO, name: str) -> Iterator[Row]:
    """A matrix of vectors; ids are the row numbers, counted from 0 as NumPy does."""
    try:
        (num_rows, dimension), in_columns, dtype = _npy_header(file)
    except (ValueError, EOFError, OSError, SyntaxError, TokenError) as error:
        raise InvalidArgument(f"{name}: is not a readable .npy file: {error}") from None
    if not 1 <= dimension <= DIMENSION_MAX:
        raise InvalidArgument(f"{name}: must have 1 to {DIMENSION_MAX} numbers in a row", "vector")
    rows_at_once = num_rows if in_columns else _ROWS_AT_ONCE
    if rows_at_once * dimension * dtype.itemsize > _NPY_BYTES_AT_ONCE:
        raise InvalidArgument(
            f"{name}: is too large to be read column by column; save np.ascontiguousarray(matrix)",
            "vector",
        )
    for start in range(0, num_rows, rows_at_once):
        shape = (min(rows_at_once, num_rows - start), dimension)
        wanted = shape[0] * dimension * dtype.itemsize
        data = file.read(wanted)
        if len(data) < wanted:
            raise InvalidArgument(f"{name}: is not a readable .npy file: it ends after row {start}")
        numbers = np.frombuffer(data, dtype)
        matrix = numbers.reshape(shape, order="F" if in_columns else "C")
        for number, vector in enumerate(matrix, start=start):
            yield {"id": str(number), "vector": vector}, DocumentOrigin(source=name, row=number + 1)


def _npy_header(file: BinaryIO) -> tuple[tuple[int, int], bool, np.dtype[Any]]:
    """Shape, whether column stands after column, and type. Raises ValueError."""
    formats: Any = np.lib.format
    version = formats.read_magic(file)
    if version == (1, 0):
        shape, in_columns, dtype = formats.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, in_columns, dtype = formats.read_array_header_2_0(file)
    else:
        raise ValueError(f"version {version} has no plain numbers")
    if len(shape) != 2 or dtype.kind not in "fiu":
        raise ValueError(f"holds {dtype} of {len(shape)} dimensions, not numbers of two dimensions")
    return (shape[0], shape[1]), in_columns, dtype
