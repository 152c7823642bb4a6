"""The chapters of EPUB files: https://www.w3.org/TR/epub-33/"""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from lxml import etree

from actors.documents.office.pieces import Piece, Properties, check_count, check_package, clean
from actors.documents.texts.html_encoding import decode_html
from actors.documents.texts.html_text import html_text
from cluster.errors import InvalidArgument

_CONTAINER = "{urn:oasis:names:tc:opendocument:xmlns:container}"
_PACKAGE = "{http://www.idpf.org/2007/opf}"
_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"


def book_chapters(data: bytes) -> Iterator[Piece]:
    """The pages of the book, in the order in which people read them."""
    check_package(data)
    with zipfile.ZipFile(io.BytesIO(data)) as files:
        start = _parsed(files.read("META-INF/container.xml")).find(f".//{_CONTAINER}rootfile")
        if start is None:
            raise InvalidArgument("is no EPUB file: it does not say where it begins")
        path = start.get("full-path", "")
        book = _parsed(files.read(path))
        metadata = _properties(book).metadata()
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


def _parsed(xml: bytes) -> Any:
    return etree.fromstring(xml, etree.XMLParser(resolve_entities=False, huge_tree=True))


def _properties(book: Any) -> Properties:
    def said(name: str) -> str:
        return book.findtext(f".//{_DUBLIN_CORE}{name}") or ""

    try:
        published_at = datetime.fromisoformat(said("date"))
    except ValueError:
        published_at = None
    return Properties(
        title=said("title"),
        author=said("creator"),
        subject=said("subject"),
        changed_at=published_at,
    )
