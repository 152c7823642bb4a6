"""Office files and e-mails, made in a test."""

from __future__ import annotations

import copy
import io
import zipfile
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from typing import Any

import docx
import openpyxl
import pptx


def pdf(*pages: str, title: str = "", author: str = "", date: str = "") -> bytes:
    """A PDF file with one line of text on each page; an empty text is a page without any."""
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    info = f"<< /Title ({title}) /Author ({author}) /ModDate ({date}) >>".encode()
    kids = " ".join(f"{5 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        font,
        info,
    ]
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode() if text else b""
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            b"/Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>" % (6 + 2 * number)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    data, offsets = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    end = b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R /Info 4 0 R >>\n" % size
    return data + end + trailer + b"startxref\n%d\n%%%%EOF\n" % len(data)


def word(*, title: str = "", author: str = "") -> bytes:
    document: Any = docx.Document()
    document.core_properties.title = title
    document.core_properties.author = author
    document.add_heading("Holidays", 1)
    document.add_paragraph("Thirty days a year.")
    document.add_paragraph("Ask early", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for row, texts in zip(table.rows, (("Month", "Days"), ("May", "3")), strict=True):
        for cell, text in zip(row.cells, texts, strict=True):
            cell.text = text
    return saved(document)


def rtf(body: str, info: str = "") -> bytes:
    """Windows-1252, with a second font in Cyrillic."""
    fonts = r"{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset204 Arial;}}"
    return rf"{{\rtf1\ansi\ansicpg1252\deff0{fonts}{{\info{info}}}{body}}}".encode("ascii")


def slides(*titles: str, notes: str = "") -> bytes:
    presentation: Any = pptx.Presentation()
    for title in titles:
        slide = presentation.slides.add_slide(presentation.slide_layouts[1 if title else 6])
        if title:
            slide.shapes.title.text = title
            slide.placeholders[1].text = f"About {title}"
            slide.notes_slide.notes_text_frame.text = notes
            # The date, the footer and the number, which a slide takes over from its layout.
            for placeholder in list(slide.slide_layout.placeholders)[-3:]:
                slide.shapes.element.append(copy.deepcopy(placeholder.element))
                slide.shapes[-1].text_frame.text = "on every slide"
    return saved(presentation)


def workbook(**sheets: Sequence[Sequence[object]]) -> bytes:
    book: Any = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    return saved(book)


def packed(files: Mapping[str, str | bytes]) -> bytes:
    """A package of files by name."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in files.items():
            package.writestr(name, content)
    return sink.getvalue()


_ODF_NAMES = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{of or name}:1.0"'
    for name, of in {
        **dict.fromkeys(("office", "text", "table", "meta", "presentation"), ""),
        "draw": "drawing",
    }.items()
)


def open_document(kind: str, body: str, **meta: str) -> bytes:
    """An OpenDocument file of the kind `text`, `presentation` or `spreadsheet`."""
    known = "".join(f"<dc:{name}>{value}</dc:{name}>" for name, value in meta.items())
    purl = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'
    inner = f"<office:{kind}>{body}</office:{kind}>"
    return packed(
        {
            "mimetype": f"application/vnd.oasis.opendocument.{kind}",
            "META-INF/manifest.xml": "<manifest/>",
            "content.xml": f"<office:document-content {_ODF_NAMES}><office:body>{inner}"
            "</office:body></office:document-content>",
            "meta.xml": f"<office:document-meta {_ODF_NAMES} {purl}><office:meta>{known}"
            "</office:meta></office:document-meta>",
        }
    )


def book(*chapters: str, title: str = "") -> bytes:
    """An EPUB file."""
    items = "".join(f'<item id="c{n}" href="c%20{n}.xhtml"/>' for n in range(len(chapters)))
    order = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    return packed(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:'
            'container"><rootfiles><rootfile full-path="OEBPS/a.opf"/></rootfiles></container>',
            "OEBPS/a.opf": '<package xmlns="http://www.idpf.org/2007/opf" '
            'xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
            f"<dc:title>{title}</dc:title></metadata><manifest>{items}</manifest>"
            f"<spine>{order}</spine></package>",
            **{f"OEBPS/c {n}.xhtml": page for n, page in enumerate(chapters)},
        }
    )


def mail(
    subject: str = "Boiler",
    body: str = "The key is in the kitchen.",
    *,
    html: str = "",
    attachments: Mapping[str, bytes | EmailMessage] = {},
) -> bytes:
    message = EmailMessage()
    message["From"] = "Anna <anna@example.org>"
    message["To"] = "all@example.org"
    message["Date"] = "Wed, 01 May 2024 12:30:00 +0200"
    message["Subject"] = subject
    message.set_content(body)
    if html:
        message.add_alternative(html, subtype="html")
    for name, data in attachments.items():
        if isinstance(data, EmailMessage):
            message.add_attachment(data)
        else:
            message.add_attachment(
                data, maintype="application", subtype="octet-stream", filename=name
            )
    return bytes(message)


def saved(document: Any) -> bytes:
    sink = io.BytesIO()
    document.save(sink)
    return sink.getvalue()
