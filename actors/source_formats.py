"""The file formats that documents come in: each read as rows with `id`, `text`, `metadata` and,
where there is one, `vector`, which `cluster.documents.parse_document` then checks.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.html_text import html_text
from cluster import exact_json
from cluster.documents import TEXT_BYTES_MAX, RowPlace
from cluster.errors import InvalidArgument

Row = tuple[Mapping[str, object], RowPlace]

LINE_BYTES_MAX = 16 * 2**20
_FILE_TEXT_BYTES_MAX = 16 * 2**20
_TABLE_ROWS_AT_ONCE = 1024
_COLUMNS = ("id", "text", "metadata", "vector")


class SourceFormat(StrEnum):
    JSONL = "JSONL"
    CSV = "CSV"
    PARQUET = "Parquet"
    ARROW = "Arrow"
    NPY = "NumPy"
    MARKDOWN = "Markdown"
    TEXT = "text"
    HTML = "HTML"


FORMATS: Mapping[str, SourceFormat] = {
    ".jsonl": SourceFormat.JSONL,
    ".ndjson": SourceFormat.JSONL,
    ".json": SourceFormat.JSONL,
    ".csv": SourceFormat.CSV,
    ".parquet": SourceFormat.PARQUET,
    ".arrow": SourceFormat.ARROW,
    ".feather": SourceFormat.ARROW,
    ".npy": SourceFormat.NPY,
    ".md": SourceFormat.MARKDOWN,
    ".markdown": SourceFormat.MARKDOWN,
    ".txt": SourceFormat.TEXT,
    ".html": SourceFormat.HTML,
    ".htm": SourceFormat.HTML,
}
# These hold their own compression, and are read at random places.
_NEVER_GZIPPED = {SourceFormat.PARQUET, SourceFormat.ARROW, SourceFormat.NPY}


def suffix_of(path: str) -> str:
    """The extension, in small letters, with `.gz` left on: `.jsonl.gz`."""
    name = path.rpartition("/")[2].lower()
    stem, dot, last = name.rpartition(".")
    if last == "gz" and stem:
        return suffix_of(stem) + ".gz"
    return f".{last}" if dot and stem else ""


def format_of(path: str) -> SourceFormat | None:
    """The format that a path's extension says, None when it is not one that can be read."""
    suffix = suffix_of(path)
    found = FORMATS.get(suffix.removesuffix(".gz"))
    return None if suffix.endswith(".gz") and found in _NEVER_GZIPPED else found


def read_rows(file: BinaryIO, format: SourceFormat, path: str) -> Iterator[Row]:
    """The rows of one open file, uncompressed.

    `path` names the file in errors, and is the id of a Markdown, text or HTML file, which is one
    document with the metadata `source` (the path) and `title`. Raises InvalidArgument, naming the
    file and the row, for what is not in the format.
    """
    return _READERS[format](file, path)


def _read_jsonl(file: BinaryIO, path: str) -> Iterator[Row]:
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        place = RowPlace(source=path, row=number)
        if len(line) > LINE_BYTES_MAX:
            raise InvalidArgument(f"{place}: the line has more than {LINE_BYTES_MAX} bytes")
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if not line.strip():
            continue
        try:
            value = exact_json.loads(line)
        except ValueError as error:
            raise InvalidArgument(
                f"{place}: is not a JSON object on a line of its own: {error}"
            ) from None
        if not isinstance(value, dict):
            raise InvalidArgument(f"{place}: must be a JSON object; write one object a line")
        yield _row_of_columns(value, place), place


def _read_csv(file: BinaryIO, path: str) -> Iterator[Row]:
    """Cells are typed column by column, so a column is read to its end before its first row."""
    csv.field_size_limit(TEXT_BYTES_MAX + 1)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="strict", newline="")
    rows: list[list[str]] = []
    reader = csv.reader(text, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise InvalidArgument(f"{path}: is empty; the first row must name the columns")
        for row in reader:
            if row and len(row) != len(header):
                place = RowPlace(source=path, row=len(rows) + 1)
                raise InvalidArgument(f"{place}: has {len(row)} cells under {len(header)} columns")
            if row:
                rows.append(row)
    except csv.Error as error:
        raise InvalidArgument(f"{RowPlace(source=path, row=len(rows) + 1)}: {error}") from None
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    if len(set(header)) < len(header):
        raise InvalidArgument(f"{path}: names a column twice: {', '.join(header)}")
    typed = {
        name: _CellType.of([row[column] for row in rows])
        for column, name in enumerate(header)
        if name not in _COLUMNS
    }
    for number, row in enumerate(rows, start=1):
        place = RowPlace(source=path, row=number)
        cells = zip(header, row, strict=True)
        values: dict[str, object] = {
            name: typed[name].read(cell) if name in typed else cell for name, cell in cells
        }
        if "metadata" in values:
            values["metadata"] = _json_cell(row[header.index("metadata")], place)
        yield _row_of_columns(values, place), place


class _CellType(StrEnum):
    """What all cells of a CSV column can be read as; an empty cell is no value."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    STRING = "string"

    @classmethod
    def of(cls, cells: Sequence[str]) -> _CellType:
        filled = [cell for cell in cells if cell]
        for candidate, pattern in _CELL_PATTERNS.items():
            if filled and all(pattern.fullmatch(cell) for cell in filled):
                return candidate
        return cls.STRING

    def read(self, cell: str) -> str | int | float | bool | None:
        if not cell:
            return None
        match self:
            case _CellType.BOOL:
                return cell in ("true", "True", "TRUE")
            case _CellType.INT:
                return int(cell)
            case _CellType.FLOAT:
                return float(cell)
            case _CellType.STRING:
                return cell


_CELL_PATTERNS = {
    _CellType.BOOL: re.compile("true|false|True|False|TRUE|FALSE"),
    # A code such as 007 is no number; neither are more digits than 64 bits hold.
    _CellType.INT: re.compile("-?(0|[1-9][0-9]{0,17})"),
    _CellType.FLOAT: re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?"),
}


def _json_cell(cell: str, place: RowPlace) -> object:
    try:
        return exact_json.loads(cell.encode()) if cell else None
    except ValueError as error:
        raise InvalidArgument(f"{place}: must be a JSON object: {error}", "metadata") from None


def _read_parquet(file: BinaryIO, path: str) -> Iterator[Row]:
    try:
        # The file is opened here and closed by the caller, so Arrow must not map it.
        batches = pq.ParquetFile(file).iter_batches(batch_size=_TABLE_ROWS_AT_ONCE)
        yield from _rows_of_batches(batches, path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidArgument(f"{path}: is not a readable Parquet file: {error}") from None


def _read_arrow(file: BinaryIO, path: str) -> Iterator[Row]:
    try:
        if file.read(6) == b"ARROW1":
            file.seek(0)
            with pa.ipc.open_file(cast(io.IOBase, file)) as reader:
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
                yield from _rows_of_batches(batches, path)
        else:
            file.seek(0)
            with pa.ipc.open_stream(cast(io.IOBase, file)) as stream:
                yield from _rows_of_batches(iter(stream), path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidArgument(f"{path}: is not a readable Arrow file: {error}") from None


def _rows_of_batches(batches: Iterator[pa.RecordBatch], path: str) -> Iterator[Row]:
    number = 0
    for whole in batches:
        for start in range(0, whole.num_rows, _TABLE_ROWS_AT_ONCE):
            batch = whole.slice(start, _TABLE_ROWS_AT_ONCE)
            vectors = _vectors(batch, path)
            names = [name for name in batch.schema.names if name != "vector"]
            values = batch.select(names).to_pylist(maps_as_pydicts="strict")
            for row, vector in zip(values, vectors, strict=True):
                number += 1
                place = RowPlace(source=path, row=number)
                if "vector" in batch.schema.names:
                    row["vector"] = vector
                yield _row_of_columns(row, place), place


def _vectors(batch: pa.RecordBatch, path: str) -> Sequence[object]:
    """The column `vector` as one array a row, without a Python object for each number."""
    if "vector" not in batch.schema.names:
        return [None] * batch.num_rows
    column: Any = batch.column("vector")
    if not (pa.types.is_fixed_size_list(column.type) or _is_list(column.type)):
        raise InvalidArgument(f"{path}: must be a list of numbers, not {column.type}", "vector")
    values = column.flatten()
    if column.null_count or values.null_count:
        # Rare and wrong; as lists, the row that is to blame is found.
        return cast(list[object], column.to_pylist())
    flat = values.to_numpy(zero_copy_only=False)
    lengths = column.value_lengths().to_numpy() if _is_list(column.type) else None
    if lengths is None:
        return list(flat.reshape(batch.num_rows, column.type.list_size))
    return np.split(flat, np.cumsum(lengths)[:-1]) if batch.num_rows else []


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_))


def _read_npy(file: BinaryIO, path: str) -> Iterator[Row]:
    """A matrix of vectors; ids are the row numbers, counted from 0 as NumPy does."""
    try:
        matrix = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InvalidArgument(f"{path}: is not a readable .npy file: {error}") from None
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise InvalidArgument(f"{path}: must be an array of numbers with two dimensions", "vector")
    for number, vector in enumerate(matrix):
        yield {"id": str(number), "vector": vector}, RowPlace(source=path, row=number + 1)


def _read_markdown(file: BinaryIO, path: str) -> Iterator[Row]:
    text = _decoded(_whole(file, path), "utf-8-sig", path)
    heading = re.search(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", text, re.MULTILINE)
    yield _file_document(text, heading.group(1) if heading else None, path)


def _read_text(file: BinaryIO, path: str) -> Iterator[Row]:
    yield _file_document(_decoded(_whole(file, path), "utf-8-sig", path), None, path)


def _read_html(file: BinaryIO, path: str) -> Iterator[Row]:
    data = _whole(file, path)
    declared = re.search(rb"<meta[^>]+charset=[\"']?([\w-]+)", data[:2048], re.IGNORECASE)
    encoding = declared.group(1).decode() if declared else "utf-8"
    if encoding.lower() in ("utf-8", "utf8"):
        encoding = "utf-8-sig"
    text, title = html_text(_decoded(data, encoding, path))
    yield _file_document(text, title, path)


def _file_document(text: str, title: str | None, path: str) -> Row:
    name = path.rpartition("/")[2]
    metadata = {"source": path, "title": title or name}
    return {"id": path, "text": text, "metadata": metadata}, RowPlace(source=path)


def _whole(file: BinaryIO, path: str) -> bytes:
    data = file.read(_FILE_TEXT_BYTES_MAX + 1)
    if len(data) > _FILE_TEXT_BYTES_MAX:
        raise InvalidArgument(f"{path}: has more than {_FILE_TEXT_BYTES_MAX} bytes", "text")
    return data


def _decoded(data: bytes, encoding: str, path: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except LookupError:
        raise InvalidArgument(f"{path}: names an unknown encoding: {encoding}", "text") from None


def _not_utf8(path: str, error: UnicodeDecodeError) -> InvalidArgument:
    return InvalidArgument(
        f"{path}: is not {error.encoding} text (byte {error.start}); convert it to UTF-8", "text"
    )


def _row_of_columns(columns: Mapping[str, object], place: RowPlace) -> Mapping[str, object]:
    """A row with named columns: those that are not `id`, `text` or `vector` are its metadata,
    unless a column `metadata` holds all of it.
    """
    present = ", ".join(list(columns)[:20]) or "none"
    for name in ("id", "text"):
        if name not in columns and not (name == "text" and columns.get("vector") is not None):
            raise InvalidArgument(f"{place}: is missing; the columns here are: {present}", name)
    others = {name: value for name, value in columns.items() if name not in _COLUMNS}
    if "metadata" not in columns:
        known = {name: columns[name] for name in _COLUMNS if name in columns}
        return {**known, "metadata": others}
    if others:
        raise InvalidArgument(
            f"{place}: has the columns {', '.join(others)} beside `metadata`; move them into it, "
            "or leave `metadata` out so that they are the metadata",
            "metadata",
        )
    return columns


_READERS: Mapping[SourceFormat, Callable[[BinaryIO, str], Iterator[Row]]] = {
    SourceFormat.JSONL: _read_jsonl,
    SourceFormat.CSV: _read_csv,
    SourceFormat.PARQUET: _read_parquet,
    SourceFormat.ARROW: _read_arrow,
    SourceFormat.NPY: _read_npy,
    SourceFormat.MARKDOWN: _read_markdown,
    SourceFormat.TEXT: _read_text,
    SourceFormat.HTML: _read_html,
}
