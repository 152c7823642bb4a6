"""The texts of Word files. python-docx opens them and knows their styles; the text is taken from
all elements of their body, for python-docx passes over those in content controls, in text boxes
and in changes that are not accepted yet.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from docx.opc.part import PartFactory
from docx.oxml import parse_xml
from docx.oxml.ns import qn
from docx.package import Package
from docx.parts.document import DocumentPart

from actors.documents.office.pieces import Piece, Properties, check_package, clean, table_row
from cluster.errors import InvalidArgument

_PARAGRAPH, _TABLE, _ROW, _CELL = qn("w:p"), qn("w:tbl"), qn("w:tr"), qn("w:tc")
_STYLE, _NUMBERED = qn("w:pStyle"), qn("w:numPr")
_TEXT, _ID = qn("w:t"), qn("w:id")
_TEXTS = frozenset({_TEXT, qn("m:t")})
"""Those of formulas, too."""
_SPACES = {qn("w:tab"): "\t", qn("w:br"): "\n", qn("w:cr"): "\n", qn("w:noBreakHyphen"): "-"}
_TEXT_BOX = qn("w:txbxContent")
_UNREAD = frozenset(
    {qn("w:del"), qn("w:moveFrom"), qn("w:pPr"), qn("w:rPr"), qn("w:tblPr"), qn("w:sectPr")}
    # Stands beside the same content in a newer form.
    | {"{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"}
)
# Files with macros differ in this alone.
PartFactory.part_type_for["application/vnd.ms-word.document.macroEnabled.main+xml"] = DocumentPart
_HEADING = re.compile(r"heading ([1-6])", re.IGNORECASE)


def word_texts(data: bytes) -> Iterator[Piece]:
    check_package(data)
    part: Any = Package.open(io.BytesIO(data)).main_document_part
    if not isinstance(part, DocumentPart):
        raise InvalidArgument("is no Word file, though it is a file of Office")
    document: Any = part.document
    known = document.core_properties
    _write_notes_out(part)
    styles = {style.style_id: style.name or "" for style in document.styles}
    blocks = list(_blocks(document.element.body, styles))
    yield Piece(
        text=clean("\n\n".join(blocks)),
        metadata=Properties.of_package(known, known.author).metadata(),
    )


def _write_notes_out(part: DocumentPart) -> None:
    """Puts each footnote and endnote, in brackets, where the text refers to it."""
    for kind in ("footnote", "endnote"):
        notes: dict[str | None, str] = {}
        for relation in part.rels.values():
            if not relation.is_external and relation.reltype.endswith(f"/{kind}s"):
                for note in parse_xml(relation.target_part.blob).iterchildren(qn(f"w:{kind}")):
                    notes[note.get(_ID)] = " ".join(_blocks(note, {}))
        for reference in [*part.element.body.iter(qn(f"w:{kind}Reference"))]:
            if text := notes.get(reference.get(_ID)):
                reference.tag, reference.text = _TEXT, f" ({text})"


def _blocks(parent: Any, styles: dict[str, str]) -> Iterator[str]:
    """Paragraphs and tables, in the order in which people read them."""
    for element in parent.iterchildren(tag="*"):
        if element.tag in _UNREAD:
            continue
        if element.tag == _PARAGRAPH:
            boxes: list[Any] = []
            text = "".join(_characters(element, boxes)).strip()
            if text:
                yield _mark(element, styles) + text
            for box in boxes:
                yield from _blocks(box, styles)
        elif element.tag == _TABLE:
            yield "\n".join(filter(None, _table_lines(element, styles)))
        else:
            yield from _blocks(element, styles)


def _table_lines(table: Any, styles: dict[str, str]) -> Iterator[str]:
    for row in _inner(table, _ROW):
        yield table_row("\n".join(_blocks(cell, styles)) for cell in _inner(row, _CELL))


def _inner(parent: Any, tag: str) -> Iterator[Any]:
    """The nearest elements of that kind inside, whatever is around them."""
    for element in parent.iterchildren(tag="*"):
        if element.tag == tag:
            yield element
        elif element.tag not in _UNREAD:
            yield from _inner(element, tag)


def _characters(parent: Any, boxes: list[Any]) -> Iterator[str]:
    """Those of a paragraph; the text boxes in it are put into `boxes`."""
    for element in parent.iterchildren(tag="*"):
        if element.tag in _TEXTS:
            yield element.text or ""
        elif element.tag in _SPACES:
            yield _SPACES[element.tag]
        elif element.tag == _TEXT_BOX:
            boxes.append(element)
        elif element.tag not in _UNREAD:
            yield from _characters(element, boxes)


def _mark(paragraph: Any, styles: dict[str, str]) -> str:
    """A heading's or a list's mark, as Markdown has it, by which documents are cut."""
    style = next(paragraph.iter(_STYLE), None)
    name = "" if style is None else styles.get(style.get(qn("w:val")), "")
    if name == "Title":
        return "# "
    if heading := _HEADING.fullmatch(name):
        return "#" * int(heading[1]) + " "
    return (
        "- " if name.startswith("List") or next(paragraph.iter(_NUMBERED), None) is not None else ""
    )
