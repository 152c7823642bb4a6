"""Files of all formats, made and read in a test."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.documents.formats import read_rows
from actors.documents.source_formats import format_of
from cluster.documents.documents import Document, parse_document
from cluster.errors import InvalidArgument


def read(data: bytes, path: str) -> list[Document]:
    format = format_of(path)
    assert format is not None
    documents = []
    for row, origin in read_rows(io.BytesIO(data), format, path, path):
        if isinstance(row, InvalidArgument):
            raise row
        assert not isinstance(row, str)
        documents.append(parse_document(row, origin))
    return documents


def refusal(data: bytes, path: str) -> str:
    with pytest.raises(InvalidArgument) as caught:
        read(data, path)
    return str(caught.value)


def plain(documents: list[Document]) -> list[tuple[str, str, Mapping[str, object]]]:
    return [(document.id, document.text, document.metadata) for document in documents]


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def arrow(table: pa.Table, *, stream: bool = False) -> bytes:
    sink = io.BytesIO()
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def npy(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()
