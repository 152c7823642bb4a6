"""Files as rows, by format: with `id`, `text`, `metadata` and, where there is one, `vector`, which
`cluster.documents.documents.parse_document` then checks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import BinaryIO

from actors.documents.source_csv import Ways, read_csv
from actors.documents.source_formats import SourceFormat
from actors.documents.source_json import read_json
from actors.documents.source_rows import Row
from actors.documents.source_tables import read_arrow, read_npy, read_parquet
from actors.documents.texts.front_matter import FrontMatter
from actors.documents.texts.text_files import ONE_TEXT_FORMATS, decode, text_and_title
from cluster.documents.documents import DocumentOrigin
from cluster.errors import InvalidArgument

_FILE_TEXT_BYTES_MAX = 16 * 2**20
_TITLE_CHARS_MAX = 1000


def read_rows(
    file: BinaryIO,
    format: SourceFormat,
    path: str,
    name: str,
    csv_ways: Ways | None = None,
    declared: Collection[str] = (),
) -> Iterator[Row]:
    """The rows of one open file, uncompressed; none of a text without a letter in it.

    `name` names the file in errors. `path` is the id of a Markdown, text or HTML file, which is one
    document with the metadata `source` (the path) and `title`. `csv_ways` are those of the table
    that a CSV file is a part of; None: of that file. `declared` are the fields whose type is
    declared: cells of such columns of a CSV file stay texts, and such entries in the front matter
    of a Markdown file are metadata. Raises InvalidArgument, naming the file and the row, where the
    file cannot be read on.
    """
    if format in ONE_TEXT_FORMATS:
        yield from _one_text(file, format, path, name, declared)
    elif format is SourceFormat.CSV:
        yield from read_csv(file, name, csv_ways, declared)
    else:
        yield from _ROW_READERS[format](file, name)


def _one_text(
    file: BinaryIO, format: SourceFormat, path: str, name: str, declared: Collection[str]
) -> Iterator[Row]:
    data = _whole(file, name)
    try:
        text, title = text_and_title(decode(data, format), format)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}: {error.message}", error.field) from None
    if text.strip():
        title = (title or path.rpartition("/")[2])[:_TITLE_CHARS_MAX]
        front = FrontMatter.of(text.splitlines() if format is SourceFormat.MARKDOWN else ())
        fields = {field: front.value(field) for field in declared}
        known = {field: value for field, value in fields.items() if value is not None}
        metadata = {**known, "source": path, "title": title}
        yield {"id": path, "text": text, "metadata": metadata}, DocumentOrigin(source=name)


def _whole(file: BinaryIO, name: str) -> bytes:
    data = file.read(_FILE_TEXT_BYTES_MAX + 1)
    if len(data) > _FILE_TEXT_BYTES_MAX:
        raise InvalidArgument(f"{name}: has more than {_FILE_TEXT_BYTES_MAX} bytes", "text")
    return data


_ROW_READERS: Mapping[SourceFormat, Callable[[BinaryIO, str], Iterator[Row]]] = {
    SourceFormat.JSONL: read_json,
    SourceFormat.PARQUET: read_parquet,
    SourceFormat.ARROW: read_arrow,
    SourceFormat.NPY: read_npy,
}
