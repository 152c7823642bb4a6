"""Changes of documents as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson

from cluster.clock import Deadline
from cluster.deltas.changes import Changes, DocumentChange
from cluster.deltas.cursor import cursor_of
from cluster.mutations.mutation import Content
from cluster.mutations.watermark import Watermark
from deployments.http.streams.sse import named_event


async def change_events(
    changes: AsyncGenerator[Changes, None], deadline: Deadline
) -> AsyncGenerator[bytes, None]:
    """Ends between two batches of changes, once the time is over."""
    async with aclosing(changes):
        async for batch in changes:
            last = len(batch.changes) - 1
            for number, change in enumerate(batch.changes):
                yield _event(change, batch.watermark if number == last else None)
            if not batch.changes:
                # Sets what a reader resumes from, and is no event to it.
                yield b"id: %b\n\n" % cursor_of(batch.watermark).encode()
            if deadline.expired():
                return


def _event(change: DocumentChange, watermark: Watermark | None) -> bytes:
    """One event of the change feed. `watermark`: from where to go on behind this event; None where
    that is told by a later one.
    """
    data: dict[str, object] = {"id": change.document, "version": str(change.time)}
    match change.content:
        case None:
            data["deleted"] = True
        case Content(text=text, metadata=metadata):
            data |= {"text": text, "metadata": metadata}
    event = named_event(b"change", orjson.dumps(data, default=dict))
    if watermark is None:
        return event
    return b"id: %b\n" % cursor_of(watermark).encode() + event
