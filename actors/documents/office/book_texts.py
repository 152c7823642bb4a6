"""The chapters of EPUB files: https://www.w3.org/TR/epub-33/"""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Iterator
from urllib.parse import unquote

from actors.documents.office.pieces import Piece, check_count, check_package, clean
from actors.documents.office.xml_files import dublin_core, parsed_xml
from actors.documents.texts.html_encoding import decode_html
from actors.documents.texts.html_text import html_text
from cluster.errors import InvalidArgument

_CONTAINER = "{urn:oasis:names:tc:opendocument:xmlns:container}"
_PACKAGE = "{http://www.idpf.org/2007/opf}"


def book_chapters(data: bytes) -> Iterator[Piece]:
    """The pages of the book, in the order in which people read them."""
    check_package(data)
    with zipfile.ZipFile(io.BytesIO(data)) as files:
        start = parsed_xml(files.read("META-INF/container.xml")).find(f".//{_CONTAINER}rootfile")
        if start is None:
            raise InvalidArgument("is no EPUB file: it does not say where it begins")
        path = start.get("full-path", "")
        book = parsed_xml(files.read(path))
        metadata = dublin_core(book).metadata()
        pages = {item.get("id"): item.get("href", "") for item in book.iter(f"{_PACKAGE}item")}
        order = [item.get("idref") for item in book.iter(f"{_PACKAGE}itemref")]
        check_count(len(order), "chapters")
        for number, page in enumerate(order, start=1):
            name = posixpath.normpath(
                posixpath.join(posixpath.dirname(path), unquote(pages.get(page, "")))
            )
            text, error = "", None
            try:
                text = clean(html_text(decode_html(files.read(name)))[0])
            except KeyError:
                error = f"is missing: {name}"
            except InvalidArgument as refusal:
                error = refusal.message
            yield Piece(
                name=f"chapter={number}",
                text=text,
                metadata={**metadata, "chapter": number},
                error=error,
            )
