"""Arrow files of one record batch, uncompressed: a memory map serves all columns in place."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

UNREADABLE = (pa.ArrowException, OSError, KeyError, ValueError, TypeError)
"""Errors that reading may raise for a file that is missing, damaged or of another form."""


def write_batch(batch: pa.RecordBatch, path: Path) -> None:
    """Equal input, equal bytes."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def mapped_batch(path: Path) -> pa.RecordBatch:
    """The batch of a file that `write_batch` wrote, as a view of it; reads few of its bytes.

    Raises what `UNREADABLE` lists: whether offsets stay within the columns, and what the columns
    hold, is for the caller to check.
    """
    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
        if reader.num_record_batches != 1:
            raise ValueError(f"{reader.num_record_batches} record batches instead of one")
        batch = reader.get_batch(0)
    batch.validate()
    return batch
