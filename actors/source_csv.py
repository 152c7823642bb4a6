"""Rows out of CSV files, with cells that are numbers or booleans where a whole column is."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from actors.source_rows import COLUMNS, Row, row_of_columns
from cluster import exact_json
from cluster.documents import INT64, TEXT_BYTES_MAX, RowPlace
from cluster.errors import InvalidArgument

LINE_CHARS_MAX = 16 * 2**20
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
# A code such as 007 or 12E4 is no number.
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(?:\.([0-9]+))?([eE][+-][0-9]{1,3})?")
_DIGITS_KEPT = 15
"""So many decimal digits come back from a float of 64 bits, whichever they are."""

_BOOLEAN, _INTEGER, _SHORTEST, _PYTHONS = "boolean", "integer", "shortest", "as Python writes it"


def read_csv(file: BinaryIO, name: str) -> Iterator[Row]:
    """The type of a column is that of all its cells, so the file is read twice."""
    ways = _ways_of_columns(file, name)
    file.seek(0)
    records = _records(file, name)
    header = next(records, None)
    for number, cells in enumerate(records, start=1):
        assert header is not None
        yield _row(header, cells, ways, RowPlace(source=name, row=number))


def _ways_of_columns(file: BinaryIO, name: str) -> dict[str, frozenset[str]]:
    """In which ways all filled cells of each column are written; see `_ways`."""
    records = _records(file, name)
    header = next(records, [])
    if len(set(header)) < len(header):
        raise InvalidArgument(f"{name}: names a column twice: {', '.join(header)}")
    ways: dict[str, frozenset[str]] = {}
    for cells in records:
        for column, cell in zip(header, cells, strict=False):
            if cell and (known := ways.get(column)) != frozenset():
                found = _ways(cell)
                ways[column] = found if known is None else known & found
    return ways


def _records(file: BinaryIO, name: str) -> Iterator[list[str]]:
    """The header and the rows, without empty lines."""
    csv.field_size_limit(TEXT_BYTES_MAX + 1)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="strict", newline="")
    number = 0
    try:
        for cells in csv.reader(_lines(text, name), strict=True):
            if cells:
                yield cells
                number += 1
    except csv.Error as error:
        raise InvalidArgument(f"{RowPlace(source=name, row=max(1, number))}: {error}") from None
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"{name}: is not UTF-8 text (after row {max(0, number - 1)}); convert it to UTF-8"
        ) from error
    finally:
        # The file is to be read once more, or closed by who opened it.
        if not file.closed:
            text.detach()


def _lines(text: io.TextIOWrapper, name: str) -> Iterator[str]:
    while line := text.readline(LINE_CHARS_MAX + 1):
        if len(line) > LINE_CHARS_MAX:
            raise InvalidArgument(f"{name}: has a line of more than {LINE_CHARS_MAX} characters")
        yield line


def _row(
    header: Sequence[str],
    cells: Sequence[str],
    ways: dict[str, frozenset[str]],
    place: RowPlace,
) -> Row:
    if len(cells) != len(header):
        message = f"{place}: has {len(cells)} cells under {len(header)} columns"
        return InvalidArgument(message), place
    values: dict[str, object] = {
        column: cell if column in COLUMNS else _value(cell, ways.get(column, frozenset()))
        for column, cell in zip(header, cells, strict=True)
    }
    if "metadata" in values:
        cell = cells[header.index("metadata")]
        try:
            values["metadata"] = exact_json.loads(cell.encode()) if cell else None
        except ValueError as error:
            message = f"{place}: must be a JSON object: {error}"
            return InvalidArgument(message, "metadata"), place
    return row_of_columns(values, place)


def _value(cell: str, ways: frozenset[str]) -> str | int | float | bool | None:
    """The cell as what its column holds; an empty one is no value."""
    if not cell:
        return None
    if _BOOLEAN in ways:
        return cell in _TRUE
    if _INTEGER in ways:
        return int(cell)
    return float(cell) if ways else cell


def _ways(cell: str) -> frozenset[str]:
    """The ways of writing that the cell follows. Within each, two cells are the same text just when
    they are the same value, so that a column that keeps to one can be read as values without loss.
    Version 1.10 beside 1.9 keeps to none: it is not the number 1.1.
    """
    if cell in _TRUE or cell in _FALSE:
        return frozenset({_BOOLEAN})
    match = _NUMBER.fullmatch(cell)
    if match is None or not math.isfinite(float(cell)):
        return frozenset()
    whole, fraction, exponent = match.group(1), match.group(2) or "", match.group(3)
    ways = set()
    if not fraction and not exponent and int(cell) in INT64 and cell != "-0":
        ways.add(_INTEGER)
    if repr(float(cell)) == cell:
        ways.add(_PYTHONS)
    if len((whole + fraction).lstrip("0")) <= _DIGITS_KEPT:
        if not fraction.endswith("0"):
            ways.add(_SHORTEST)
        if not exponent:
            ways.add(f"{len(fraction)} decimals")
    return frozenset(ways)
