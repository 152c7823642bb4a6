"""Tombstones: the ids of documents that do not count, as an Arrow file of one column `document`.

    corpus position   names one: documents that its parts still hold and that were deleted
    shard artifact    names one: those of its rows that were deleted since it was built

Ids ascend by their bytes and none occurs twice, so equal sets are equal files, of the same hash.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import pyarrow as pa

from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.files import ArtifactFile
from cluster.errors import Corrupt

_COLUMN = "document"
# Ids of more than 2 GiB in all would not fit into batches of plain strings.
_SCHEMA = pa.schema([pa.field(_COLUMN, pa.large_string(), nullable=False)])


def write_tombstones(documents: Iterable[str]) -> bytes:
    """The file of a set of document ids."""
    ids = sorted({document.encode() for document in documents})
    column = pa.array(ids, pa.large_binary()).cast(pa.large_string())
    batch = pa.RecordBatch.from_arrays([column], schema=_SCHEMA)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def read_tombstones(data: bytes, *, source: str) -> frozenset[str]:
    """The ids that a file holds. Raises Corrupt, naming `source`, for anything else."""
    try:
        with pa.ipc.open_file(pa.BufferReader(data)) as reader:
            if reader.schema != _SCHEMA:
                raise ValueError(f"has the columns {reader.schema.names}")
            return frozenset(str(id) for id in reader.read_all().column(_COLUMN).to_pylist())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Corrupt(f"{source} is not a readable list of deleted documents: {error}") from error


def stored_tombstones(artifacts: Artifacts, file: ArtifactFile | None) -> frozenset[str]:
    """The tombstones that a manifest names, verified; empty if it names none."""
    if file is None:
        return frozenset()
    return read_tombstones(artifacts.read_bytes(file), source=file.path)


def store_tombstones(
    artifacts: Artifacts, documents: Iterable[str], path: str
) -> ArtifactFile | None:
    """Puts the file into the store; None, and nothing is stored, for no documents."""
    ids = frozenset(documents)
    if not ids:
        return None
    sha256, size_bytes = artifacts.put_bytes(write_tombstones(ids))
    return ArtifactFile(path=path, sha256=sha256, size_bytes=size_bytes)
