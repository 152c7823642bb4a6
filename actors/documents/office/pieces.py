"""The pieces that office files are made of, each of which is a document: pages, slides, sheets."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from actors.documents.source_rows import unpacked_bytes_max
from cluster.errors import InvalidArgument
from cluster.metadata import MetadataValue

PIECES_MAX = 10_000
"""Pages, slides, sheets or messages of a file."""
_PACKAGE_FILES_MAX = 10_000
_PROPERTY_CHARS_MAX = 1000
_OLE2 = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""Begins files of Office before 2007, and newer ones that are encrypted."""
_NOT_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The text of a page, slide, sheet or message, or of a whole file."""

    text: str
    """Empty where there is none, as on a page that is a picture."""
    metadata: Mapping[str, MetadataValue]
    name: str = ""
    """Name within the file, such as `page=3`; empty for a whole file."""
    error: str | None = None
    """The reason why this piece cannot be read, though others of the file can."""
    left_out: str | None = None
    """The reason why this piece is not read, which is no error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """What a file says of itself."""

    title: object = None
    author: object = None
    subject: object = None
    attachments: object = None
    changed_at: object = None

    @classmethod
    def of_package(cls, known: Any, author: object) -> Self:
        """The core properties of Office Open XML. The libraries that read it agree on the names of
        all of these but the author.
        """
        return cls(
            title=known.title,
            author=author,
            subject=known.subject,
            changed_at=known.modified or known.created,
        )

    def metadata(self) -> dict[str, MetadataValue]:
        """The properties that the file has."""
        found = {
            "title": one_line(self.title),
            "author": one_line(self.author),
            "subject": one_line(self.subject),
            "attachments": one_line(self.attachments),
            "date": _iso_utc(self.changed_at) if isinstance(self.changed_at, datetime) else "",
        }
        return {name: text for name, text in found.items() if text}


def _iso_utc(moment: datetime) -> str:
    """In UTC, so that texts stand in the order of time: `2024-05-01T10:00:00Z`. A moment without
    a time zone is taken as UTC.
    """
    known = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        return known.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError):
        return ""


def clean(text: str) -> str:
    """The text without the characters that are no text, and without blanks at the ends of lines."""
    lines = _NOT_TEXT.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
    joined = "\n".join(line.rstrip() for line in lines)
    return re.sub(r"\n{3,}", "\n\n", joined.replace("\v", "\n").replace("\f", "\n")).strip("\n")


def table_row(cells: Iterable[str]) -> str:
    """A row of a table as one line; empty where all cells are."""
    texts = [" ".join(cell.split()) for cell in cells]
    return " | ".join(texts) if any(texts) else ""


def check_package(data: bytes) -> None:
    """Raises InvalidArgument for what is no package of Office Open XML, and for a trick: one that
    has too many files in it, or unpacks to too much.
    """
    if data.startswith(_OLE2):
        raise InvalidArgument(
            "is encrypted, or of Office before 2007; save it without a password, in today's format"
        )
    try:
        files: list[Any] = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InvalidArgument(f"is not a whole Office file: {error}") from None
    if len(files) > _PACKAGE_FILES_MAX:
        raise InvalidArgument(f"is a package of more than {_PACKAGE_FILES_MAX} files")
    # zipfile unpacks no more of a file than it claims to have.
    if sum(file.file_size for file in files) > unpacked_bytes_max(len(data)):
        raise InvalidArgument(f"unpacks to more than {unpacked_bytes_max(len(data))} bytes")


def check_count(count: int, what: str) -> None:
    """Raises InvalidArgument for a file of too many pieces."""
    if count > PIECES_MAX:
        raise InvalidArgument(f"has more than {PIECES_MAX} {what}; divide it into several files")


def one_line(value: object) -> str:
    """The text without the characters that are no text, and cut; empty for what is no text."""
    text = _NOT_TEXT.sub("", value) if isinstance(value, str) else ""
    return " ".join(text.split())[:_PROPERTY_CHARS_MAX]
