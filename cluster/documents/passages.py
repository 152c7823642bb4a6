"""Passages: what is embedded, indexed and cited, and the tables that hold them.

A part of a corpus is a Parquet file of documents with the columns `id`, `document`, `text`, one
`meta.{field}` for each metadata field of the part, and `vector` when the documents brought theirs.
A document is one row, of which both ids are its own, or several in one part where an older version
had cut it already. Where two parts hold a document, the later one wins. Documents that were deleted
are named beside the parts, in `cluster.documents.tombstones`. The build cuts documents into
passages, which have the same columns.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.arrays import Float32Array, Mask
from cluster.documents.documents import EXACT_IN_FLOAT, Document
from cluster.errors import Corrupt
from cluster.metadata import ColumnType, Metadata

META_PREFIX = "meta."
_PASSAGE_ID = re.compile(r"#(0|[1-9][0-9]*)\Z", re.ASCII)

Column: TypeAlias = "pa.ChunkedArray[Any] | pa.Array[Any]"
Types: TypeAlias = Mapping[str, ColumnType]

# Any, because the stubs tell the types of columns apart where this code does not.
ARROW_TYPES: Mapping[ColumnType, Any] = {
    ColumnType.STRING: pa.string(),
    ColumnType.INT: pa.int64(),
    ColumnType.FLOAT: pa.float64(),
    ColumnType.BOOL: pa.bool_(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    id: str
    document: str
    """Id of the document that it was cut from."""
    text: str
    metadata: Metadata
    vector: Float32Array | None = None
    """float32 [d]; None when the text is to be embedded."""


def whole_passage(document: Document) -> Passage:
    """The row of a part that holds the document."""
    return Passage(
        id=document.id,
        document=document.id,
        text=document.text,
        metadata=document.metadata,
        vector=document.vector,
    )


def cut_passages(table: pa.Table, chunks: Callable[[str], list[str]]) -> pa.Table:
    """The passages of the documents of a part, in their order, each with all other columns.

    `chunks` cuts a text. Where an older version had cut a document, each of its pieces is cut on.
    """
    texts = [str(text) for text in table.column("text").to_pylist()]
    rows: list[int] = []
    ids: list[str] = []
    cut: list[str] = []
    numbered = enumerate(_document_ids(table))
    for document, entries in groupby(numbered, key=lambda entry: entry[1]):
        pieces = [(row, piece) for row, _ in entries for piece in chunks(texts[row])]
        rows += [row for row, _ in pieces]
        ids += passage_ids(document, len(pieces))
        cut += [piece for _, piece in pieces]
    passages = table.take(pa.array(rows, pa.int64()))
    for name, values in (("id", ids), ("text", cut)):
        column = pa.array(values, pa.string())
        index = passages.schema.get_field_index(name)
        passages = passages.set_column(index, table.schema.field(name), column)
    return passages


def passage_ids(document: str, count: int) -> list[str]:
    """The ids of a document's passages: `{document}#0`, `{document}#1`... or the document's own
    where it has one passage. No two documents have passages of one id, since a document that is
    itself named like a passage, such as `a#1`, has numbers in any case.
    """
    if count == 1 and not _PASSAGE_ID.search(document):
        return [document]
    return [f"{document}#{number}" for number in range(count)]


def document_of(passage: str) -> str:
    """The document of a passage that `passage_ids` named. One that brought its vector has the
    document's id as it stands, even if that ends like a passage's.
    """
    return _PASSAGE_ID.sub("", passage)


def passage_schema(types: Types, dimension: int | None) -> pa.Schema:
    """The columns of a part, metadata fields in alphabetical order."""
    fields: list[pa.Field[Any]] = [
        pa.field(name, pa.string(), nullable=False) for name in ("id", "document", "text")
    ]
    fields += [pa.field(META_PREFIX + name, ARROW_TYPES[types[name]]) for name in sorted(types)]
    if dimension is not None:
        fields.append(pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False))
    return pa.schema(fields)


def passage_table(passages: Sequence[Passage], types: Types, dimension: int | None) -> pa.Table:
    """The passages as a table with the columns of `passage_schema`."""
    columns: list[pa.Array[Any]] = [
        pa.array([passage.id for passage in passages], pa.string()),
        pa.array([passage.document for passage in passages], pa.string()),
        pa.array([passage.text for passage in passages], pa.string()),
    ]
    for name in sorted(types):
        values = [passage.metadata.get(name) for passage in passages]
        columns.append(pa.array(values, ARROW_TYPES[types[name]]))
    if dimension is not None:
        columns.append(vector_column(np.stack([_vector_of(passage) for passage in passages])))
    return pa.Table.from_arrays(columns, schema=passage_schema(types, dimension))


def vector_column(vectors: Float32Array) -> pa.Array[Any]:
    """float32 [n, d] as a column, without a copy where the array is C-contiguous."""
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def vectors_of(table: pa.Table) -> Float32Array:
    """float32 [n, d]: the column `vector` of a table."""
    column: Any = table.column("vector")
    dimension = column.type.list_size
    vectors = np.empty((table.num_rows, dimension), dtype=np.float32)
    row = 0
    for chunk in column.chunks:
        vectors[row : row + len(chunk)] = chunk.flatten().to_numpy().reshape(-1, dimension)
        row += len(chunk)
    return vectors


def write_part(table: pa.Table) -> bytes:
    """A table as a Parquet file. Equal tables give equal bytes with one version of Arrow."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_part(data: bytes, types: Types, dimension: int | None, *, source: str) -> pa.Table:
    """A stored part, with the columns that its corpus has now.

    A part may be older than the corpus's schema: fields that came later are null in it, and
    integers become floats where the corpus has floats by now. Raises Corrupt, naming `source`.
    """
    try:
        return conform(pq.read_table(io.BytesIO(data)), types, dimension)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise Corrupt(f"{source} is not a readable part of a corpus: {error}") from error


def conform(table: pa.Table, types: Types, dimension: int | None) -> pa.Table:
    """The table with exactly the columns of `passage_schema`; see `read_part`."""
    schema = passage_schema(types, dimension)
    columns = [
        table.column(field.name).cast(field.type, safe=False)
        if field.name in table.column_names or not field.nullable
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def document_ids(data: bytes, *, source: str) -> list[str]:
    """The document of every passage of a stored part, in row order."""
    try:
        return _document_ids(pq.read_table(io.BytesIO(data), columns=["document"]))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise Corrupt(f"{source} is not a readable part of a corpus: {error}") from error


def document_digests(data: bytes, rows: Mask, *, source: str) -> dict[str, bytes]:
    """A hash of the content of each document that these rows of a stored part are passages of.

    rows: bool [num_rows]
    """
    try:
        table = pq.read_table(io.BytesIO(data)).filter(pa.array(rows))
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(f"{source} is not a readable part of a corpus: {error}") from error
    hashes: dict[str, Any] = {}
    vectors = vectors_of(table) if "vector" in table.column_names else None
    names = [name for name in table.column_names if name != "vector"]
    for number, row in enumerate(table.select(names).to_pylist()):
        # A part has columns for the fields of its other documents, too.
        filled = {name: _comparable(value) for name, value in row.items() if value is not None}
        digest = hashes.setdefault(row["document"], hashlib.blake2b(digest_size=16))
        digest.update(repr(filled).encode())
        if vectors is not None:
            digest.update(vectors[number].tobytes())
    return {document: digest.digest() for document, digest in hashes.items()}


def _comparable(value: object) -> object:
    # A field that was one of integers may be one of floats by now.
    if isinstance(value, int) and not isinstance(value, bool) and value in EXACT_IN_FLOAT:
        return float(value)
    return value


def long_integer_rows(data: bytes, field: str, *, source: str) -> Mask:
    """bool [num_rows]: which rows of a stored part have an integer in this metadata field that a
    float might round.
    """
    name = META_PREFIX + field
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        if name not in file.schema_arrow.names:
            return np.zeros(file.metadata.num_rows, dtype=np.bool_)
        column: Any = file.read(columns=[name]).column(name)
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(f"{source} is not a readable part of a corpus: {error}") from error
    values = column.fill_null(0).to_numpy()
    is_long: Mask = (values < EXACT_IN_FLOAT[0]) | (values > EXACT_IN_FLOAT[-1])
    return is_long


def current_rows(parts: Sequence[Sequence[str]], deleted: Collection[str] = ()) -> list[Mask]:
    """The rows of each part that count: those whose document is in no later part and is not
    deleted.

    A part is given by the document ids of its rows, the parts in the order of the manifest.
    """
    masks: list[Mask] = []
    later: set[str] = set(deleted)
    for documents in reversed(parts):
        mask = (document not in later for document in documents)
        masks.append(np.fromiter(mask, dtype=np.bool_, count=len(documents)))
        later.update(documents)
    return masks[::-1]


def current_passages(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """The parts without the rows that a later part replaces; see `current_rows`."""
    masks = current_rows([_document_ids(table) for table in tables])
    return [
        table if mask.all() else table.filter(pa.array(mask))
        for table, mask in zip(tables, masks, strict=True)
    ]


def undeleted_passages(table: pa.Table, deleted: Collection[str]) -> pa.Table:
    """The rows whose document is not among these."""
    (mask,) = current_rows([_document_ids(table)], deleted)
    return table if mask.all() else table.filter(pa.array(mask))


def count_passages(documents: Iterable[str]) -> dict[str, int]:
    """Passages of each document, given the document of every passage."""
    counts: dict[str, int] = {}
    for document in documents:
        counts[document] = counts.get(document, 0) + 1
    return counts


def _document_ids(table: pa.Table) -> list[str]:
    return [str(document) for document in table.column("document").to_pylist()]


def _vector_of(passage: Passage) -> Float32Array:
    assert passage.vector is not None
    return passage.vector
