"""The file formats that documents come in, as the extensions of files say."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class SourceFormat(StrEnum):
    JSONL = "JSONL"
    CSV = "CSV"
    PARQUET = "Parquet"
    ARROW = "Arrow"
    NPY = "NumPy"
    MARKDOWN = "Markdown"
    TEXT = "text"
    HTML = "HTML"
    PDF = "PDF"
    DOCX = "Word"
    PPTX = "PowerPoint"
    XLSX = "Excel"
    ODT = "OpenDocument text"
    ODP = "OpenDocument presentation"
    ODS = "OpenDocument spreadsheet"
    EPUB = "EPUB"
    RTF = "RTF"
    EML = "e-mail"
    MBOX = "mbox"


FORMATS: Mapping[str, SourceFormat] = {
    ".jsonl": SourceFormat.JSONL,
    ".ndjson": SourceFormat.JSONL,
    ".json": SourceFormat.JSONL,
    ".csv": SourceFormat.CSV,
    ".tsv": SourceFormat.CSV,
    ".parquet": SourceFormat.PARQUET,
    ".arrow": SourceFormat.ARROW,
    ".feather": SourceFormat.ARROW,
    ".npy": SourceFormat.NPY,
    ".md": SourceFormat.MARKDOWN,
    ".markdown": SourceFormat.MARKDOWN,
    ".mdx": SourceFormat.MARKDOWN,
    # Its headings are underlined, too.
    ".rst": SourceFormat.MARKDOWN,
    ".txt": SourceFormat.TEXT,
    ".adoc": SourceFormat.TEXT,
    ".org": SourceFormat.TEXT,
    ".html": SourceFormat.HTML,
    ".htm": SourceFormat.HTML,
    ".xhtml": SourceFormat.HTML,
    ".pdf": SourceFormat.PDF,
    ".docx": SourceFormat.DOCX,
    ".docm": SourceFormat.DOCX,
    ".pptx": SourceFormat.PPTX,
    ".pptm": SourceFormat.PPTX,
    ".ppsx": SourceFormat.PPTX,
    ".xlsx": SourceFormat.XLSX,
    ".xlsm": SourceFormat.XLSX,
    ".odt": SourceFormat.ODT,
    ".odp": SourceFormat.ODP,
    ".ods": SourceFormat.ODS,
    ".epub": SourceFormat.EPUB,
    ".rtf": SourceFormat.RTF,
    ".eml": SourceFormat.EML,
    # Browsers save a page with its pictures as an e-mail.
    ".mhtml": SourceFormat.EML,
    ".mht": SourceFormat.EML,
    ".mbox": SourceFormat.MBOX,
}
TEXT_FORMATS = frozenset(
    {SourceFormat.JSONL, SourceFormat.CSV, SourceFormat.MARKDOWN, SourceFormat.TEXT}
)
"""Formats that are in UTF-8, unless a byte order mark says otherwise."""
PAGED_FORMATS: Mapping[SourceFormat, str] = {
    SourceFormat.PDF: "pypdfium2",
    SourceFormat.DOCX: "docx",
    SourceFormat.PPTX: "pptx",
    SourceFormat.XLSX: "openpyxl",
    SourceFormat.ODT: "lxml",
    SourceFormat.ODP: "lxml",
    SourceFormat.ODS: "lxml",
    SourceFormat.EPUB: "lxml",
    SourceFormat.RTF: "striprtf",
}
"""Formats that are made of pages and the like, and the module that reads each."""
OFFICE_FORMATS = frozenset({*PAGED_FORMATS, SourceFormat.EML, SourceFormat.MBOX})
"""Formats that a process of its own reads."""
# These hold their own compression, and are read at random places.
_NEVER_GZIPPED = frozenset(
    {*PAGED_FORMATS, SourceFormat.PARQUET, SourceFormat.ARROW, SourceFormat.NPY}
)


def suffix_of(path: str) -> str:
    """The extension, in small letters, with `.gz` left on: `.jsonl.gz`."""
    name = path.rpartition("/")[2].lower()
    stem, dot, last = name.rpartition(".")
    if last == "gz" and stem:
        return suffix_of(stem) + ".gz"
    return f".{last}" if dot and stem else ""


def format_of(path: str) -> SourceFormat | None:
    """The format that a path's extension says, None when it is not one that can be read."""
    suffix = suffix_of(path)
    found = FORMATS.get(suffix.removesuffix(".gz"))
    return None if suffix.endswith(".gz") and found in _NEVER_GZIPPED else found
