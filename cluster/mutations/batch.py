"""Batches of mutations, and their bytes as one object of the log.

    8 bytes    b"RGMUTLOG"
    4 bytes    the format's version, little endian; then 20 bytes of zeros
    32 bytes   SHA-256 of what is before it and of what is behind it
    the rest   an Arrow IPC stream of one record batch: a row for each mutation

The header has 64 bytes so that the buffers of a mapped object stay aligned. Texts and vectors are
Arrow's own, so that reading does not parse them. The schema's metadata say whose
mutations these are: an object under the name of another one is found out.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from cluster.arrays import Float32Array
from cluster.errors import InvalidArgument, LogUnreadable
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Content, Mutation, metadata_bytes

_MAGIC = b"RGMUTLOG"
_FORMAT = 1
_HEADER_BYTES = 64
_ORIGIN = b"raygion.log"
_COLUMNS: list[pa.Field[Any]] = [
    pa.field("document", pa.string(), nullable=False),
    pa.field("wall_ms", pa.int64(), nullable=False),
    pa.field("counter", pa.int32(), nullable=False),
    pa.field("key", pa.string()),
    pa.field("timestamp_ms", pa.int64()),
    pa.field("seen", pa.list_(pa.string()), nullable=False),
    # Null in the row of a delete.
    pa.field("text", pa.string()),
    pa.field("metadata", pa.binary()),
    # Begin and end of each passage in turn, and the passages' vectors one after the other.
    pa.field("cuts", pa.list_(pa.int32())),
    pa.field("vectors", pa.list_(pa.float32())),
    pa.field("embedder", pa.string()),
]
_SCHEMA = pa.schema(_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Mutations that are in the log of one region from position `first` to `last`, in the order of
    their times. An object of the log has one position.
    """

    corpus: str
    region: str
    first: int
    last: int
    mutations: tuple[Mutation, ...]

    def __post_init__(self) -> None:
        times = [mutation.time for mutation in self.mutations]
        if not 1 <= self.first <= self.last:
            raise ValueError(f"{self.first} to {self.last} are no positions")
        if any(time.region != self.region for time in times):
            raise ValueError(f"a mutation is not of the region {self.region}")
        if any(later <= time for time, later in pairwise(times)):
            raise ValueError("the times do not ascend")


def batch_bytes(batch: Batch) -> bytes:
    """The object of a batch."""
    origin = {
        "corpus": batch.corpus,
        "region": batch.region,
        "first": batch.first,
        "last": batch.last,
    }
    schema = _SCHEMA.with_metadata({_ORIGIN: orjson.dumps(origin)})
    arrays = [
        pa.array(column, field.type)
        for column, field in zip(_columns(batch.mutations), _SCHEMA, strict=True)
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    body = sink.getvalue()
    head = struct.pack("<8sI20x", _MAGIC, _FORMAT)
    return b"".join([head, _sha256(head, body), body])


def read_batch(
    data: bytes, *, corpus: str, region: str, first: int, last: int, source: str
) -> Batch:
    """The batch of an object, which must be of this corpus, region and positions.

    Vectors are read-only copies: a view would keep all of `data` for as long as one document of it
    is kept. Raises LogUnreadable, naming `source`, for anything that
    `batch_bytes` of this version did not make.
    """
    head, body = data[:32], memoryview(data)[_HEADER_BYTES:]
    if len(data) < _HEADER_BYTES or not head.startswith(_MAGIC):
        raise _unreadable(source, "is no object of a log of mutations", first)
    if _sha256(head, body) != data[32:_HEADER_BYTES]:
        raise _unreadable(source, "does not have the content that its hash says", first)
    if head != struct.pack("<8sI20x", _MAGIC, _FORMAT):
        number = struct.unpack_from("<I", head, len(_MAGIC))[0]
        raise LogUnreadable(
            f"{source} has the format {number} of a newer version of Raygion; bring this region "
            "to that version. Until then it serves what it has read",
            first,
        )
    try:
        with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
            rows, schema = reader.read_next_batch(), reader.schema
        origin = orjson.loads((schema.metadata or {}).get(_ORIGIN, b"null"))
        expected = {"corpus": corpus, "region": region, "first": first, "last": last}
        if origin != expected:
            raise _unreadable(source, f"holds what {origin} says, not {expected}", first)
        if not schema.equals(_SCHEMA):
            raise _unreadable(source, f"has the columns {schema.names}", first)
        mutations = tuple(_mutations(rows, region))
        return Batch(corpus=corpus, region=region, first=first, last=last, mutations=mutations)
    except (pa.ArrowException, OSError, ValueError, StopIteration, InvalidArgument) as error:
        raise _unreadable(source, f"cannot be read ({error})", first) from error


def _columns(mutations: Sequence[Mutation]) -> Iterator[list[Any]]:
    contents = [mutation.content for mutation in mutations]
    cuts = [None if content is None else content.cuts for content in contents]
    vectors = [None if content is None else content.vectors for content in contents]
    yield [mutation.document for mutation in mutations]
    yield [mutation.time.wall_ms for mutation in mutations]
    yield [mutation.time.counter for mutation in mutations]
    yield [mutation.key for mutation in mutations]
    yield [mutation.timestamp_ms for mutation in mutations]
    yield [[str(time) for time in mutation.seen] for mutation in mutations]
    yield [None if content is None else content.text for content in contents]
    yield [None if content is None else metadata_bytes(content.metadata) for content in contents]
    yield [None if cut is None else np.asarray(cut, np.int32).reshape(-1) for cut in cuts]
    yield [None if of_doc is None else of_doc.reshape(-1) for of_doc in vectors]
    yield [None if content is None else content.embedder for content in contents]


def _mutations(rows: pa.RecordBatch, region: str) -> Iterator[Mutation]:
    names = ("document", "wall_ms", "counter", "key", "timestamp_ms", "seen")
    columns = [rows.column(name).to_pylist() for name in names]
    for *row, content in zip(*columns, _contents(rows), strict=True):
        document, wall_ms, counter, key, timestamp_ms, seen = row
        yield Mutation(
            document=document,
            time=HybridTime(wall_ms, counter, region),
            content=content,
            key=key,
            timestamp_ms=timestamp_ms,
            seen=tuple(HybridTime.parse(time, "seen") for time in seen),
        )


def _contents(rows: pa.RecordBatch) -> Iterator[Content | None]:
    names = ("text", "metadata", "embedder")
    columns = [rows.column(name).to_pylist() for name in names]
    cuts, vectors = _slices(rows.column("cuts")), _slices(rows.column("vectors"))
    for text, metadata, embedder, cut, vector in zip(*columns, cuts, vectors, strict=True):
        if text is None:
            yield None
            continue
        pairs = None if cut is None else [(int(b), int(e)) for b, e in cut.reshape(-1, 2)]
        yield Content(
            text=text,
            metadata=orjson.loads(metadata),
            cuts=None if pairs is None else tuple(pairs),
            vectors=None if vector is None else _copied(vector.reshape(len(pairs or ()), -1)),
            embedder=embedder,
        )


def _copied(vectors: Float32Array) -> Float32Array:
    copied = vectors.copy()
    copied.flags.writeable = False
    return copied


def _slices(lists: Any) -> Iterator[Any]:
    """The rows of a column of lists as views of its values; None for null."""
    values, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    for row, is_valid in enumerate(lists.is_valid().to_pylist()):
        yield values[offsets[row] : offsets[row + 1]] if is_valid else None


def _sha256(head: bytes, body: Any) -> bytes:
    digest = hashlib.sha256(head)
    digest.update(body)
    return digest.digest()


def _unreadable(source: str, what: str, position: int) -> LogUnreadable:
    return LogUnreadable(
        f"{source} {what}. What this region has read before it is served, and nothing behind it is "
        "read until the object is back as it was written: restore it from a copy of the store",
        position,
    )
