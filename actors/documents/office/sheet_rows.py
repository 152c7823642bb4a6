"""The rows of a sheet as text, a line for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from actors.documents.office.pieces import clean, table_row
from cluster.documents.documents import TEXT_BYTES_MAX
from cluster.errors import InvalidArgument


def rows_text(rows: Iterator[Sequence[object]]) -> str:
    """Each row with the names of its columns, so that a row is understood without those above it.
    The names are the cells of the first row with several cells, if all of these are texts. Raises
    InvalidArgument for more text than a document may have.
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
