"""The slides of PowerPoint files, with their notes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from pptx.enum.shapes import PP_PLACEHOLDER
from pptx.package import Package
from pptx.parts.presentation import PresentationPart

from actors.documents.office.pieces import (
    Piece,
    Properties,
    check_count,
    check_package,
    clean,
    table_row,
)
from cluster.errors import InvalidArgument

_ON_EVERY_SLIDE = (PP_PLACEHOLDER.DATE, PP_PLACEHOLDER.FOOTER, PP_PLACEHOLDER.SLIDE_NUMBER)


def slide_texts(data: bytes) -> Iterator[Piece]:
    check_package(data)
    # As `pptx.Presentation` does it, which refuses slide shows.
    part: Any = Package.open(io.BytesIO(data)).main_document_part
    if not isinstance(part, PresentationPart):
        raise InvalidArgument("is no PowerPoint file, though it is a file of Office")
    presentation: Any = part.presentation
    check_count(len(presentation.slides), "slides")
    known = presentation.core_properties
    properties = Properties.of_package(known, known.author).metadata()
    for number, slide in enumerate(presentation.slides, start=1):
        title = slide.shapes.title
        heading = title.text_frame.text if title is not None and title.has_text_frame else ""
        blocks = [*_shape_texts(slide.shapes, title)]
        if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame) is not None:
            blocks.append(notes.text)
        if heading.strip():
            blocks.insert(0, f"# {' '.join(heading.split())}")
        yield Piece(
            name=f"slide={number}",
            text=clean("\n\n".join(block.strip() for block in blocks if block.strip())),
            metadata={**properties, "slide": number},
        )


def _shape_texts(shapes: Iterable[Any], title: Any) -> Iterator[str]:
    for shape in shapes:
        if title is not None and shape.element is title.element:
            continue
        if shape.is_placeholder and shape.placeholder_format.type in _ON_EVERY_SLIDE:
            continue
        if hasattr(shape, "shapes"):
            yield from _shape_texts(shape.shapes, title)
        elif shape.has_text_frame:
            yield shape.text_frame.text
        elif getattr(shape, "has_table", False):
            rows = (table_row(cell.text for cell in row.cells) for row in shape.table.rows)
            yield "\n".join(filter(None, rows))
