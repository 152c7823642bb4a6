"""The common part of all source formats with several documents: rows with named columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice

from cluster.documents.documents import DocumentOrigin
from cluster.errors import InvalidArgument

Row = tuple[Mapping[str, object] | InvalidArgument | str, DocumentOrigin]
"""A row as `cluster.documents.documents.parse_document` takes it, or what is wrong with it alone:
the rows after it can be read. A text is the reason why a part of a file is left out.
"""
HOLDS_NO_TEXT = "holds no text; pictures of text need text recognition (OCR) first"

COLUMNS = ("id", "text", "metadata", "vector")
UNPACKED_BYTES_FREE = 64 * 2**20
"""Bytes that a file may unpack to, however small it is."""
UNPACKED_RATIO_MAX = 200
"""Rows of text are packed to a tenth or so; gzip's best is a thousandth."""
_NAMES_QUOTED = 20
_NAME_CHARS_QUOTED = 64


def unpacked_bytes_max(size_bytes: int) -> int:
    """Bytes that a file of `size_bytes` may unpack to."""
    return max(UNPACKED_BYTES_FREE, UNPACKED_RATIO_MAX * size_bytes)


def check_unpacked(num_bytes: int, size_bytes: int, name: str) -> None:
    """Raises InvalidArgument for a file of `size_bytes` that unpacks to more than texts do."""
    bytes_max = unpacked_bytes_max(size_bytes)
    if num_bytes > bytes_max:
        raise InvalidArgument(
            f"{name}: unpacks to more than {bytes_max} bytes, {UNPACKED_RATIO_MAX} times what it "
            "has; if it is no trick, store it uncompressed"
        )


def listed(names: Iterable[str]) -> str:
    """The first of the names, for messages."""
    first = [name[:_NAME_CHARS_QUOTED] for name in islice(names, _NAMES_QUOTED + 1)]
    return ", ".join([*first[:_NAMES_QUOTED], *(["..."] if first[_NAMES_QUOTED:] else [])])


def row_of_columns(columns: Mapping[str, object], origin: DocumentOrigin) -> Row:
    """A row with named columns: those that are not `id`, `text` or `vector` are its metadata,
    unless a column `metadata` holds all of it. A row with `_id` in place of `id` is one of BEIR's.
    """
    if "_id" in columns and "id" not in columns:
        columns = _of_beir(columns)
    present = listed(columns) or "none"
    for name in ("id", "text"):
        if name not in columns and not (name == "text" and columns.get("vector") is not None):
            message = f"{origin}: is missing; the columns here are: {present}"
            return InvalidArgument(message, name), origin
    others = {name: value for name, value in columns.items() if name not in COLUMNS}
    if "metadata" not in columns:
        known = {name: columns[name] for name in COLUMNS if name in columns}
        return {**known, "metadata": others}, origin
    if others:
        error = InvalidArgument(
            f"{origin}: has the columns {listed(others)} beside `metadata`; move them into it, "
            "or leave `metadata` out so that they are the metadata",
            "metadata",
        )
        return error, origin
    return columns, origin


def _of_beir(columns: Mapping[str, object]) -> Mapping[str, object]:
    """The row of a `corpus.jsonl` of BEIR as one of Raygion's: `_id`, `title`, `text`, `metadata`.

    The title begins the text, as in BEIR's own runs, and is a metadata field, too. Lists and
    objects in the metadata become JSON, for metadata is flat. The format:
    https://github.com/beir-cellar/beir/wiki/Load-your-custom-dataset
    """
    row = {"id" if name == "_id" else name: value for name, value in columns.items()}
    if row.get("metadata") is None:
        row.pop("metadata", None)  # null is the same as none
    title, text, metadata = row.get("title"), row.get("text"), row.get("metadata")
    if isinstance(metadata, Mapping):
        flat = {name: _flat(value) for name, value in metadata.items()}
        row["metadata"] = {"title": row.pop("title", None) or None, **flat}
    if title and isinstance(title, str) and isinstance(text, str):
        row["text"] = f"{title}\n\n{text}".strip()
    return row


def _flat(value: object) -> object:
    is_nested = isinstance(value, Mapping | list)
    return json.dumps(value, ensure_ascii=False) if is_nested else value
