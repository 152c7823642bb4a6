"""Just enough of PostgreSQL's protocol to ask prepared statements, several in one request."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from cluster.arrays import Float32Array

_READY = b"Z\x00\x00\x00\x05"
_PROTOCOL = 3 << 16
_BINARY = struct.pack("!hh", 1, 1)
"""One format code for all parameters, or for all columns: binary."""
_SYNC = b"S\x00\x00\x00\x04"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresWire:
    """One reply to each Sync or simple query: all messages up to ReadyForQuery."""

    hello: tuple[bytes, ...]

    def reply_length(self, received: bytearray) -> int | None:
        # A request is sent after the whole reply to the last, so nothing follows it.
        return len(received) if received[-6:-1] == _READY else None

    def refuses(self, reply: bytearray) -> bool:
        return reply.startswith(b"E")

    def is_last(self, reply: bytearray) -> bool:
        return False


def greeting(user: str, database: str) -> bytes:
    fields = f"user\0{user}\0database\0{database}\0\0".encode()
    return struct.pack("!ii", 8 + len(fields), _PROTOCOL) + fields


def simple_query(sql: str) -> bytes:
    return _message(b"Q", sql.encode() + b"\0")


def prepare(name: str, sql: str) -> bytes:
    return _message(b"P", f"{name}\0{sql}\0".encode() + struct.pack("!h", 0)) + _SYNC


def execute_each(name: str, vectors: Float32Array) -> bytes:
    """The statement once for each vector as its only parameter, columns in binary."""
    start = b"\0" + name.encode() + b"\0" + _BINARY + struct.pack("!h", 1)
    execute = _message(b"E", b"\0" + struct.pack("!i", 0))
    parts = []
    for vector in vectors:
        value = vector_value(vector)
        bind = start + struct.pack("!i", len(value)) + value + _BINARY
        parts += [_message(b"B", bind), execute]
    return b"".join(parts) + _SYNC


def vector_value(vector: Float32Array) -> bytes:
    """A vector as pgvector's binary form."""
    return struct.pack("!hh", len(vector), 0) + vector.astype(">f4").tobytes()


def first_ints(reply: bytes) -> list[list[int]]:
    """The first column (a binary int4) of every row, by statement."""
    found: list[list[int]] = [[]]
    at = 0
    while at < len(reply):
        kind = reply[at : at + 1]
        (length,) = struct.unpack_from("!i", reply, at + 1)
        if kind == b"D":
            found[-1].append(struct.unpack_from("!i", reply, at + 11)[0])
        elif kind == b"C":
            found.append([])
        at += 1 + length
    return found[:-1]


def binary_copy(vectors: Float32Array) -> bytes:
    """Rows (row number as int4, vector) as COPY ... WITH (FORMAT binary) reads them."""
    rows, width = vectors.shape
    record = np.dtype(
        [("columns", ">i2"), ("id_bytes", ">i4"), ("id", ">i4"), ("vector_bytes", ">i4"),
         ("width", ">i2"), ("unused", ">i2"), ("vector", ">f4", (width,))]
    )  # fmt: skip
    table = np.zeros(rows, dtype=record)
    table["columns"], table["id_bytes"], table["id"] = 2, 4, np.arange(rows)
    table["vector_bytes"], table["width"], table["vector"] = 4 + 4 * width, width, vectors
    return b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0) + table.tobytes() + b"\xff\xff"


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", 4 + len(body)) + body
