"""The texts of OpenDocument files, which LibreOffice writes: ISO/IEC 26300."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from actors.documents.office.pieces import (
    Piece,
    Properties,
    check_count,
    check_package,
    clean,
    table_row,
)
from actors.documents.office.sheet_rows import sheet_pieces
from actors.documents.office.xml_files import dublin_core, parsed_xml
from cluster.errors import InvalidArgument

_OASIS = "{urn:oasis:names:tc:opendocument:xmlns:%s:1.0}"
_TEXT, _TABLE, _DRAW = _OASIS % "text", _OASIS % "table", _OASIS % "drawing"
_OFFICE, _META, _SHOW = _OASIS % "office", _OASIS % "meta", _OASIS % "presentation"

_HEADING, _PARAGRAPH, _ITEM = f"{_TEXT}h", f"{_TEXT}p", f"{_TEXT}list-item"
_GRID, _ROW = f"{_TABLE}table", f"{_TABLE}table-row"
_CELLS = (f"{_TABLE}table-cell", f"{_TABLE}covered-table-cell")
_SPACES = {f"{_TEXT}tab": "\t", f"{_TEXT}line-break": "\n"}
_NOTE = f"{_TEXT}note"
_NOTES = f"{_SHOW}notes"
_UNREAD = frozenset(
    {f"{_OFFICE}annotation", f"{_OFFICE}forms", f"{_TEXT}tracked-changes"}
    | {f"{_TEXT}sequence-decls", _NOTES}
)
_ON_EVERY_SLIDE = frozenset({"date-time", "footer", "header", "page-number"})
_REPEATED_MAX = 16_384
"""Spaces, cells or rows that stand for one."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A number, a date or a truth value as the sheet shows it."""

    text: str

    def __str__(self) -> str:
        return self.text


def odf_text(data: bytes) -> Iterator[Piece]:
    body, properties = _opened(data, "text")
    yield Piece(text=clean("\n\n".join(_blocks(body))), metadata=properties.metadata())


def odf_slides(data: bytes) -> Iterator[Piece]:
    body, properties = _opened(data, "presentation")
    slides = body.findall(f"{_DRAW}page")
    check_count(len(slides), "slides")
    for number, slide in enumerate(slides, start=1):
        blocks = [*_blocks(slide)]
        for notes in slide.iterfind(_NOTES):
            blocks += _blocks(notes)
        yield Piece(
            name=f"slide={number}",
            text=clean("\n\n".join(blocks)),
            metadata={**properties.metadata(), "slide": number},
        )


def odf_sheets(data: bytes) -> Iterator[Piece]:
    body, properties = _opened(data, "spreadsheet")
    sheets = body.findall(_GRID)
    check_count(len(sheets), "sheets")
    for sheet in sheets:
        yield from sheet_pieces(sheet.get(f"{_TABLE}name", ""), _rows(sheet), properties.metadata())


def _opened(data: bytes, kind: str) -> tuple[Any, Properties]:
    """The element with the content of the file, and what the file says of itself."""
    check_package(data)
    with zipfile.ZipFile(io.BytesIO(data)) as files:
        names = files.namelist()
        manifest = files.read("META-INF/manifest.xml")
        if b"encryption-data" in manifest:
            raise InvalidArgument("is encrypted; save it without a password")
        body = parsed_xml(files.read("content.xml")).find(f"{_OFFICE}body/{_OFFICE}{kind}")
        known = parsed_xml(files.read("meta.xml")) if "meta.xml" in names else None
    if body is None:
        raise InvalidArgument(f"is no OpenDocument {kind}")
    if known is None:
        return body, Properties()
    return body, dublin_core(known, author=known.findtext(f".//{_META}initial-creator"))


def _blocks(parent: Any, mark: str = "") -> Iterator[str]:
    """Paragraphs, items of lists and tables, in the order in which people read them. `mark` stands
    before each paragraph, as in Markdown, by which documents are cut.
    """
    for element in parent.iterchildren(tag="*"):
        kind = element.get(f"{_SHOW}class")
        if element.tag in _UNREAD or kind in _ON_EVERY_SLIDE:
            continue
        if element.tag in (_HEADING, _PARAGRAPH):
            boxes: list[Any] = []
            if text := "".join(_characters(element, boxes)).strip():
                yield (_heading_mark(element) or mark) + text
            for box in boxes:
                yield from _blocks(box)
        elif element.tag == _GRID:
            rows = (
                [" ".join(_blocks(cell)) for cell in _inner(row, _CELLS)]
                for row in _inner(element, (_ROW,))
            )
            yield "\n".join(filter(None, map(table_row, rows)))
        else:
            inner = "- " if element.tag == _ITEM else mark
            yield from _blocks(element, "# " if kind == "title" else inner)


def _heading_mark(element: Any) -> str:
    if element.tag != _HEADING:
        return ""
    level = element.get(f"{_TEXT}outline-level", "1")
    return "#" * min(int(level), 6) + " " if level.isdigit() else ""


def _characters(parent: Any, boxes: list[Any]) -> Iterator[str]:
    """Those of a paragraph; the text boxes in it are put into `boxes`."""
    yield parent.text or ""
    for element in parent.iterchildren(tag="*"):
        if element.tag == f"{_TEXT}s":
            yield " " * _count(element, f"{_TEXT}c")
        elif element.tag in _SPACES:
            yield _SPACES[element.tag]
        elif element.tag == _NOTE:
            notes = " ".join(" ".join(_blocks(body)) for body in element.iterfind(f"{_NOTE}-body"))
            yield f" ({notes})" if notes else ""
        elif element.tag.startswith(_DRAW):
            boxes.append(element)
        elif element.tag not in _UNREAD:
            yield from _characters(element, boxes)
        yield element.tail or ""


def _count(element: Any, attribute: str) -> int:
    """The number of times that an element stands for."""
    number = element.get(attribute, "1")
    return min(int(number), _REPEATED_MAX) if number.isdigit() else 1


def _inner(parent: Any, tags: tuple[str, ...]) -> Iterator[Any]:
    """The nearest elements of these kinds inside, whatever is around them."""
    for element in parent.iterchildren(tag="*"):
        if element.tag in tags:
            yield element
        elif element.tag not in _UNREAD:
            yield from _inner(element, tags)


def _rows(sheet: Any) -> Iterator[list[object]]:
    for row in _inner(sheet, (_ROW,)):
        cells: list[object] = []
        num_empty = 0
        for cell in row.iterchildren(*_CELLS):
            value = _value(cell)
            repeated = _count(cell, f"{_TABLE}number-columns-repeated")
            if value is None:
                # A sheet of a few cells has thousands of these at its end.
                num_empty += repeated
                continue
            cells += [None] * min(num_empty, _REPEATED_MAX) + [value] * repeated
            num_empty = 0
        for _ in range(_count(row, f"{_TABLE}number-rows-repeated") if cells else 0):
            yield cells


def _value(cell: Any) -> object:
    text = "\n".join(_blocks(cell))
    is_text = cell.get(f"{_OFFICE}value-type", "string") == "string"
    return (text if is_text else _Shown(text)) if text else None
