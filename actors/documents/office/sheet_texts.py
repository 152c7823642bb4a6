"""The sheets of Excel files."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import openpyxl

from actors.documents.office.pieces import Piece, Properties, check_count, check_package
from actors.documents.office.sheet_rows import sheet_pieces

_WITHOUT_VALUE = re.compile(rb"</f>\s*+(?:<v\s*+/>|<v></v>)?+\s*+</c>")
"""A formula whose value was not saved, as by programs that cannot compute it, or is empty."""


def sheet_texts(data: bytes) -> Iterator[Piece]:
    check_package(data)
    book = _opened(data, values=True)
    check_count(len(book.worksheets), "sheets")
    properties = Properties.of_package(book.properties, book.properties.creator).metadata()
    written = _opened(data, values=False).worksheets if _lacks_values(data) else repeat(None)
    for sheet, formulas in zip(book.worksheets, written, strict=False):
        yield from sheet_pieces(sheet.title, _rows(sheet, formulas), properties)


def _opened(data: bytes, *, values: bool) -> Any:
    """The workbook, with the values of formulas or with the formulas."""
    book: Any = openpyxl.load_workbook(
        io.BytesIO(data), read_only=True, data_only=values, keep_links=False
    )
    for sheet in book.worksheets:
        # What a file says of the size of a sheet may be a trick.
        sheet.reset_dimensions()
    return book


def _lacks_values(data: bytes) -> bool:
    with zipfile.ZipFile(io.BytesIO(data)) as files:
        sheets = [name for name in files.namelist() if "/worksheets/" in name]
        return any(_WITHOUT_VALUE.search(files.read(name)) for name in sheets)


def _rows(sheet: Any, formulas: Any | None) -> Iterator[Sequence[object]]:
    """Formulas count as the values that they had when the file was saved. One without a value
    counts as it is written, if the sheet with the formulas is given.
    """
    if formulas is None:
        yield from sheet.iter_rows(values_only=True)
        return
    for saved, written in zip(sheet.iter_rows(), formulas.iter_rows(), strict=True):
        yield [_value(*cells) for cells in zip(saved, written, strict=True)]


def _value(saved: Any, written: Any) -> object:
    # The value of a formula can be an empty text.
    if saved.value is not None or saved.data_type == "str" or written.data_type != "f":
        return saved.value
    return getattr(written.value, "text", written.value)
