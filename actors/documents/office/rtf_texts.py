"""The texts of RTF files. `striprtf` reads them; it leaves out what a file says of itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from striprtf.striprtf import rtf_to_text

from actors.documents.office.pieces import Piece, Properties, clean, table_row
from cluster.errors import InvalidArgument

_CODE_PAGE = re.compile(r"\\ansicpg\d{1,5}")
_PROPERTY = r"\{\\%s\s([^{}]*)\}"
_REVISED = re.compile(r"\{\\revtim\\yr(\d+)\\mo(\d+)\\dy(\d+)(?:\\hr(\d+))?(?:\\min(\d+))?")
_PARAGRAPH = re.compile(r"\\par(?![a-z])")


def rtf_texts(data: bytes) -> Iterator[Piece]:
    # What is no ASCII stands there as an escape, but in pictures, whose length counts.
    source = data.decode("cp1252", "replace")
    if not source.startswith("{\\rtf"):
        raise InvalidArgument("is no RTF file: it does not begin with {\\rtf")
    properties = Properties(
        title=_property(source, "title"),
        author=_property(source, "author"),
        subject=_property(source, "subject"),
        changed_at=_revised(source),
    )
    yield Piece(text=_text(source), metadata=properties.metadata())


def _text(source: str) -> str:
    # Of two links in one line striprtf takes all between them for one.
    source = source.replace("{\\field", "\n{\\field")
    # Paragraphs stand apart, as those of Word files do, and rows of tables do not.
    source = _PARAGRAPH.sub(r"\\par\\par", source)
    lines = _decoded(source).split("\n")
    return clean("\n".join(map(_table_row, lines)))


def _table_row(line: str) -> str:
    """The line, which is a row of a table where it ends with the end of a cell."""
    return table_row(line[:-1].split("|")) if line.endswith("|") else line


def _property(source: str, name: str) -> str | None:
    found = re.search(_PROPERTY % name, source)
    if found is None:
        return None
    code_page = _CODE_PAGE.search(source)
    return _decoded(f"{{\\rtf1{code_page[0] if code_page else ''} {found[1]}}}")


def _decoded(source: str) -> str:
    text: str = rtf_to_text(source, errors="replace")
    # Characters beyond the first 65,536 stand there as two escapes.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _revised(source: str) -> datetime | None:
    found = _REVISED.search(source)
    if found is None:
        return None
    year, month, day, hour, minute = (int(part or 0) for part in found.groups())
    try:
        return datetime(year, month, day, hour, minute)
    except ValueError:
        return None
