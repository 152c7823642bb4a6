"""The sheets of Excel files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import openpyxl

from actors.documents.office.pieces import Piece, Properties, check_count, check_package
from actors.documents.office.sheet_rows import sheet_pieces


def sheet_texts(data: bytes) -> Iterator[Piece]:
    check_package(data)
    # Formulas count as the values that they had when the file was saved.
    book: Any = openpyxl.load_workbook(
        io.BytesIO(data), read_only=True, data_only=True, keep_links=False
    )
    check_count(len(book.worksheets), "sheets")
    properties = Properties.of_package(book.properties, book.properties.creator).metadata()
    for sheet in book.worksheets:
        # What a file says of the size of a sheet may be a trick.
        sheet.reset_dimensions()
        yield from sheet_pieces(sheet.title, sheet.iter_rows(values_only=True), properties)
