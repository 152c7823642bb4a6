"""Rows out of CSV files, with cells that are numbers or booleans where a whole column is."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, BinaryIO, TypeAlias

from actors.documents.cell_types import cell_value, cell_ways
from actors.documents.source_rows import COLUMNS, Row, listed, row_of_columns
from cluster import exact_json
from cluster.documents.documents import TEXT_BYTES_MAX, DocumentOrigin
from cluster.errors import InvalidArgument

_LINE_CHARS_MAX = 16 * 2**20
_DELIMITERS = ",;\t"
"""A semicolon is what Excel writes where the comma divides decimals."""

Ways: TypeAlias = Mapping[str, frozenset[str]]
"""By column: the ways in which all of its filled cells are written; see `cell_ways`."""


def read_csv(
    file: BinaryIO, name: str, ways: Ways | None = None, texts: Collection[str] = ()
) -> Iterator[Row]:
    """The type of a column is that of all its cells: of the file, which then is read twice, or of
    the table that it is a part of, whose `ways` are given. The columns `texts` stay texts.
    """
    if ways is None:
        ways = column_ways(file, name)
        file.seek(0)
    ways = {column: found for column, found in ways.items() if column not in texts}
    records = _records(file, name)
    header = _header(records, name)
    for number, cells in enumerate(records, start=1):
        yield _row(header, cells, ways, DocumentOrigin(source=name, row=number))


def column_ways(file: BinaryIO, name: str) -> Ways:
    """Those of one file."""
    records = _records(file, name)
    header = _header(records, name)
    ways: dict[str, frozenset[str]] = {}
    for cells in records:
        for column, cell in zip(header, cells, strict=False):
            if cell and (known := ways.get(column)) != frozenset():
                found = cell_ways(cell)
                ways[column] = found if known is None else known & found
    return ways


def _header(records: Iterator[list[str]], name: str) -> list[str]:
    header = next(records, [])
    named = [column for column in header if column]
    if len(set(named)) < len(named):
        raise InvalidArgument(f"{name}: names a column twice: {listed(header)}")
    return header


def _records(file: BinaryIO, name: str) -> Iterator[list[str]]:
    """The header and the rows, without empty lines."""
    csv.field_size_limit(TEXT_BYTES_MAX + 1)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="strict", newline="")
    number = 0
    try:
        lines = _lines(text, name)
        filled = filter(str.strip, lines)
        first = next(filled, "")
        if first.startswith("sep="):
            # Tells Excel what the header tells as well.
            first = next(filled, "")
        for cells in csv.reader(chain([first], lines), strict=True, **_format(first)):
            if cells:
                yield cells
                number += 1
    except csv.Error as error:
        raise InvalidArgument(
            f"{DocumentOrigin(source=name, row=max(1, number))}: {error}"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"{name}: is not UTF-8 text (after row {max(0, number - 1)}); convert it to UTF-8"
        ) from error
    finally:
        # The file is to be read once more, or closed by who opened it.
        if not file.closed:
            text.detach()


def _lines(text: io.TextIOWrapper, name: str) -> Iterator[str]:
    while line := text.readline(_LINE_CHARS_MAX + 1):
        if len(line) > _LINE_CHARS_MAX:
            raise InvalidArgument(f"{name}: has a line of more than {_LINE_CHARS_MAX} characters")
        yield line


def _format(first: str) -> dict[str, Any]:
    """What the first line tells of a file: the delimiter with which it has an id, or else the most
    columns; and whether a blank follows on each delimiter.
    """
    found = {
        delimiter: next(csv.reader([first], delimiter=delimiter), []) for delimiter in _DELIMITERS
    }

    def rank(delimiter: str) -> tuple[bool, int]:
        columns = found[delimiter]
        return not {"id", "_id"}.isdisjoint(columns), len(columns)

    delimiter = max(_DELIMITERS, key=rank)
    has_blanks = any(column.startswith(" ") for column in found[delimiter][1:])
    return {"delimiter": delimiter, "skipinitialspace": has_blanks}


def _row(
    header: Sequence[str],
    cells: Sequence[str],
    ways: Ways,
    origin: DocumentOrigin,
) -> Row:
    if len(cells) != len(header):
        message = f"{origin}: has {len(cells)} cells under {len(header)} columns"
        return InvalidArgument(message), origin
    for number, (column, cell) in enumerate(zip(header, cells, strict=True), start=1):
        if cell and not column:
            message = (
                f"{origin}: has a cell in column {number}, which has no name; give it one, or "
                "leave it out (pandas: to_csv(index=False))"
            )
            return InvalidArgument(message), origin
    values: dict[str, object] = {
        column: cell if column in COLUMNS else cell_value(cell, ways.get(column, frozenset()))
        for column, cell in zip(header, cells, strict=True)
        if column
    }
    if "metadata" in values:
        cell = cells[header.index("metadata")]
        try:
            values["metadata"] = exact_json.loads(cell.encode()) if cell else None
        except ValueError as error:
            message = f"{origin}: must be a JSON object: {error}"
            return InvalidArgument(message, "metadata"), origin
    return row_of_columns(values, origin)
