"""What reads each format of office files, alone or attached to e-mails."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from actors.documents.office.pieces import Piece
from actors.documents.source_formats import SourceFormat

Reader = Callable[[bytes], Iterator[Piece]]


def reader_of(format: SourceFormat) -> Reader:
    """Raises ImportError where what reads the format is not installed."""
    # Each kind needs a library that may not be installed, or takes its time to be imported.
    match format:
        case SourceFormat.PDF:
            from actors.documents.office.pdf_pages import pdf_pages

            return pdf_pages
        case SourceFormat.DOCX:
            from actors.documents.office.word_texts import word_texts

            return word_texts
        case SourceFormat.PPTX:
            from actors.documents.office.slide_texts import slide_texts

            return slide_texts
        case SourceFormat.XLSX:
            from actors.documents.office.sheet_texts import sheet_texts

            return sheet_texts
        case SourceFormat.ODT | SourceFormat.ODP | SourceFormat.ODS:
            from actors.documents.office import odf_texts

            return {
                SourceFormat.ODT: odf_texts.odf_text,
                SourceFormat.ODP: odf_texts.odf_slides,
                SourceFormat.ODS: odf_texts.odf_sheets,
            }[format]
        case SourceFormat.EPUB:
            from actors.documents.office.book_texts import book_chapters

            return book_chapters
        case SourceFormat.RTF:
            from actors.documents.office.rtf_texts import rtf_texts

            return rtf_texts
        case _:
            raise AssertionError(format)
