"""The sheets of Excel files, a line for each row."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import openpyxl

from actors.documents.office.pieces import (
    Piece,
    Properties,
    check_count,
    check_package,
    clean,
    table_row,
)
from cluster.documents.documents import TEXT_BYTES_MAX
from cluster.errors import InvalidArgument


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
        yield Piece(
            name=f"sheet={sheet.title}",
            text=_text(sheet.iter_rows(values_only=True)),
            metadata={**properties, "sheet": sheet.title},
        )


def _text(rows: Iterator[Sequence[object]]) -> str:
    """Each row with the names of its columns, so that a row is understood without those above it.
    The names are the cells of the first row with several cells, if all of these are texts.
    """
    lines: list[str] = []
    num_chars = 0
    names: list[str] | None = None
    for row in rows:
        cells = [_cell_text(value) for value in row]
        is_table = sum(map(bool, cells)) > 1
        if names is None and is_table:
            is_header = all(value is None or isinstance(value, str) for value in row)
            names = cells if is_header else []
            lines.append(table_row(filter(None, cells)))
        elif names and is_table:
            lines.append("; ".join(_named(names, cells)))
        else:
            lines.append(" ".join(filter(None, cells)))
        num_chars += len(lines[-1])
        if num_chars > TEXT_BYTES_MAX:
            raise InvalidArgument(
                f"has a sheet of more than {TEXT_BYTES_MAX} bytes of text; save it as CSV with the "
                "columns `id` and `text`, where each row is a document"
            )
    return clean("\n".join(filter(None, lines)))


def _named(names: Sequence[str], cells: Sequence[str]) -> Iterator[str]:
    for column, cell in enumerate(cells):
        name = names[column] if column < len(names) else ""
        if cell:
            yield f"{name}: {cell}" if name else cell


def _cell_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime):
        # Excel has no days without a time.
        return value.isoformat(" ").removesuffix(" 00:00:00")
    return " ".join(str(value).split())
