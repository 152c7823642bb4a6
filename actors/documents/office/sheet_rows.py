"""The rows of a sheet as text, a line for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain

from actors.documents.office.pieces import Piece, clean, table_row
from cluster.documents.documents import TEXT_BYTES_MAX
from cluster.metadata import MetadataValue


def sheet_pieces(
    name: str, rows: Iterable[Sequence[object]], properties: Mapping[str, MetadataValue]
) -> Iterator[Piece]:
    """The sheet as one piece, or in parts if it has more text than a document may have."""
    texts = _texts(_lines(rows))
    first, second = next(texts, ""), next(texts, None)
    metadata = {**properties, "sheet": name}
    if second is None:
        yield Piece(name=f"sheet={name}", text=first, metadata=metadata)
        return
    for number, text in enumerate(chain([first, second], texts), start=1):
        part = {**metadata, "part": number}
        yield Piece(name=f"sheet={name}#part={number}", text=text, metadata=part)


def _texts(lines: Iterable[str]) -> Iterator[str]:
    text: list[str] = []
    num_bytes = 0
    for line in lines:
        line_bytes = len(line.encode()) + 1
        if text and num_bytes + line_bytes > TEXT_BYTES_MAX:
            yield clean("\n".join(text))
            text, num_bytes = [], 0
        text.append(line)
        num_bytes += line_bytes
    yield clean("\n".join(text))


def _lines(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Each row with the names of its columns, so that a row is understood without those above it.
    The names are the cells of the first row with several cells, if all of these are texts.
    """
    names: list[str] | None = None
    for row in rows:
        cells = [_cell_text(value) for value in row]
        filled = [cell for cell in cells if cell]
        is_table = len(filled) > 1
        if names is None and is_table:
            is_header = all(value is None or isinstance(value, str) for value in row)
            names = cells if is_header else []
            yield table_row(filled)
        elif names and is_table:
            yield "; ".join(_named(names, cells))
        elif filled:
            yield " ".join(filled)


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
