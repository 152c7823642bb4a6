"""Office files as the documents that an ingest makes of them."""

from __future__ import annotations

import io
from collections.abc import Callable

from actors.documents.office.extractor import Extractor
from actors.documents.source_formats import format_of
from cluster.documents.documents import Document, parse_document
from cluster.errors import InvalidArgument

Read = Callable[[bytes, str], list[Document]]


def extracted(extractor: Extractor, data: bytes, path: str) -> tuple[list[Document], list[str]]:
    """The documents of a file, and what is left out of it: its origin and why. Raises the error of
    a part that cannot be read.
    """
    format = format_of(path)
    assert format is not None
    found, left_out = [], []
    for row, origin in extractor.rows(io.BytesIO(data), format, path, f"in/{path}"):
        if isinstance(row, InvalidArgument):
            raise row
        if isinstance(row, str):
            left_out.append(f"{origin}: {row}")
        else:
            found.append(parse_document(row, origin))
    return found, left_out
