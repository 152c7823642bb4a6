"""Rows out of JSON files: an object on each line, or one list or object a file."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

from actors.documents.source_rows import Row, row_of_columns
from cluster import exact_json
from cluster.documents.documents import DocumentOrigin
from cluster.errors import InvalidArgument

_JSON_BYTES_MAX = 16 * 2**20
"""Bytes of a line, or of a file that is one value."""
_NO_JSON = (b"NaN", b"Infinity")
"""What Python and pandas write for numbers that JSON does not have."""


def read_json(file: BinaryIO, name: str) -> Iterator[Row]:
    """A row for each object. The first line tells whether each line is a value of its own: a list
    begins with `[`, and programs that lay an object out on several lines begin it with a lone `{`.
    """
    lines = _lines(file)
    first = next(((number, line) for number, line in lines if line.strip()), (1, b""))
    start = first[1].strip()
    if start.startswith(b"[") or start == b"{":
        yield from _rows_of_value(first[1] + file.read(_JSON_BYTES_MAX + 1), name)
        return
    for number, line in chain([first], lines):
        origin = DocumentOrigin(source=name, row=number)
        if len(line) > _JSON_BYTES_MAX:
            raise InvalidArgument(f"{origin}: the line has more than {_JSON_BYTES_MAX} bytes")
        if line.strip():
            yield _row_of_line(line, origin)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbered from 1; of a line that is too long, as much as tells it."""
    number = 0
    while line := file.readline(_JSON_BYTES_MAX + 1):
        number += 1
        yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _rows_of_value(data: bytes, name: str) -> Iterator[Row]:
    if len(data) > _JSON_BYTES_MAX:
        raise InvalidArgument(
            f"{name}: is one JSON value of more than {_JSON_BYTES_MAX} bytes; write JSON lines, an "
            "object on each line: jq -c '.[]'"
        )
    try:
        value = exact_json.loads(data)
    except ValueError as error:
        raise InvalidArgument(
            f"{name}: is neither a JSON list of objects nor JSON lines: {_why(error, data)}"
        ) from None
    for number, item in enumerate(value if isinstance(value, list) else [value], start=1):
        yield _row(item, DocumentOrigin(source=name, row=number))


def _row_of_line(line: bytes, origin: DocumentOrigin) -> Row:
    try:
        value = exact_json.loads(line)
    except ValueError as error:
        message = f"{origin}: is not a JSON object on a line of its own: {_why(error, line)}"
        return InvalidArgument(message), origin
    return _row(value, origin)


def _row(value: object, origin: DocumentOrigin) -> Row:
    if not isinstance(value, dict):
        return InvalidArgument(f"{origin}: must be a JSON object; write one object a line"), origin
    return row_of_columns(value, origin)


def _why(error: ValueError, data: bytes) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as undecodable:
        return f"is not UTF-8 text (byte {undecodable.start}); convert it to UTF-8"
    for word in _NO_JSON:
        if word in data:
            return f"{error}; {word.decode()} is no JSON, write null for no value"
    return str(error)
