"""Changes of documents as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson

from cluster.clock import Deadline
from cluster.deltas.changes import Changes, DocumentChange
from cluster.deltas.cursor import cursor_of
from cluster.mutations.mutation import Content
from deployments.http.streams.sse import named_event


async def change_events(
    changes: AsyncGenerator[Changes, None], deadline: Deadline
) -> AsyncGenerator[bytes, None]:
    """An event `change` for each, and `current` once all that there are have been told, with the
    cursor from which to go on. Ends behind one of these, once the time is over.
    """
    async with aclosing(changes):
        async for batch in changes:
            for change in batch.changes:
                yield named_event(b"change", _data(change))
            cursor = cursor_of(batch.watermark)
            told = named_event(b"current", orjson.dumps({"after": cursor}))
            yield b"id: %b\n" % cursor.encode() + told
            if deadline.expired():
                return


def _data(change: DocumentChange) -> bytes:
    data: dict[str, object] = {"id": change.document, "version": str(change.time)}
    match change.content:
        case None:
            data["deleted"] = True
        case Content(text=text, metadata=metadata):
            data |= {"text": text, "metadata": metadata}
    return orjson.dumps(data, default=dict)
