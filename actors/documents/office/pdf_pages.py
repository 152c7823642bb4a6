"""The pages of PDF files, read by PDFium."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pypdfium2
from pypdfium2.raw import FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY

from actors.documents.office.pieces import Piece, Properties, check_count, clean
from cluster.errors import InvalidArgument

_HYPHEN = re.compile("[\x02\ufffe]\r?\n?")
"""PDFium's mark for a word that goes on in the next line."""
_DATE = re.compile(r"(?:D:)?(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:([+-])(\d\d)'?(\d\d)?)?")


def pdf_pages(data: bytes) -> Iterator[Piece]:
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY):
            raise InvalidArgument("is encrypted; save it without a password") from None
        raise InvalidArgument(f"is not a readable PDF file: {error}") from None
    with contextlib.closing(document):
        yield from _pages(document, has_form=_has_form(document))


def _has_form(document: pypdfium2.PdfDocument) -> bool:
    try:
        return bool(document.init_forms())
    except pypdfium2.PdfiumError:
        return False


def _pages(document: pypdfium2.PdfDocument, *, has_form: bool) -> Iterator[Piece]:
    check_count(len(document), "pages")
    known = document.get_metadata_dict()
    properties = Properties(
        title=known["Title"],
        author=known["Author"],
        subject=known["Subject"],
        changed_at=_pdf_date(known["ModDate"]) or _pdf_date(known["CreationDate"]),
    ).metadata()
    for number in range(1, len(document) + 1):
        metadata = {**properties, "page": number}
        text, why = "", None
        try:
            text = _page_text(document, number - 1, has_form=has_form)
        except pypdfium2.PdfiumError as error:
            why = f"cannot be read: {error}"
        yield Piece(name=f"page={number}", text=text, metadata=metadata, error=why)


def _page_text(document: pypdfium2.PdfDocument, index: int, *, has_form: bool) -> str:
    page = document[index]
    if has_form:
        # What was filled in becomes part of the page, which then has to be opened anew.
        with contextlib.suppress(pypdfium2.PdfiumError):
            page.flatten()
        page.close()
        page = document[index]
    try:
        text_page = page.get_textpage()
        try:
            return clean(_HYPHEN.sub("", text_page.get_text_bounded(errors="replace")))
        finally:
            text_page.close()
    finally:
        page.close()


def _pdf_date(text: str) -> datetime | None:
    """`D:20240501120000+02'00'`, as PDF 32000-1:2008, 7.9.4 has it; None for anything else."""
    found = _DATE.match(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (
        int(part or default)
        for part, default in zip(found.groups()[:6], (1, 1, 1, 0, 0, 0), strict=True)
    )
    shift = timedelta(hours=int(found[8] or 0), minutes=int(found[9] or 0))
    try:
        zone = timezone(-shift if found[7] == "-" else shift) if shift else UTC
        return datetime(year, month, day, hour, minute, second, tzinfo=zone)
    except ValueError:
        return None
