"""A region's documents, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

from cluster.deltas.changes import Changes, DocumentChange
from cluster.deltas.document_service import (
    Acknowledgement,
    StoredDocument,
    WriteRequest,
    WriteResult,
)
from cluster.errors import InvalidArgument, NotFound, RaygionError
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Content
from cluster.mutations.region_writer import Outcome, Written
from cluster.mutations.requests import DocumentWrite
from cluster.mutations.watermark import Watermark

CORPUS = "tickets"
REGION = "north"


class FakeDocuments:
    """A `cluster.deltas.document_service.DocumentService`: each write is an object of the log.

    A text that is an error's code is refused with that error.
    """

    def __init__(self, **refusals: RaygionError) -> None:
        self.requests: list[WriteRequest] = []
        self.unmet: RaygionError | None = None
        self.log: list[DocumentChange] = []
        self.error: RaygionError | None = None
        """Raised by the change feed once it has told all that there is."""
        self.has_closed = asyncio.Event()
        """Set when a change feed was closed."""
        self._refusals = refusals
        self._changed = asyncio.Condition()

    async def write(self, request: WriteRequest) -> WriteResult:
        self.requests.append(request)
        _check(request.corpus)
        outcomes = tuple(
            [
                write if isinstance(write, InvalidArgument) else await self._written(write)
                for write in request.writes
            ]
        )
        return WriteResult(
            outcomes=outcomes,
            acknowledged=Acknowledgement.DURABLE if self.unmet else request.wait,
            unmet=self.unmet,
            region=REGION,
            session="token",
            took_ms=1.25,
            trace_id=request.trace_id,
        )

    async def document(
        self, corpus: str, document: str, timeout_s: float, trace_id: str = ""
    ) -> StoredDocument:
        _check(corpus)
        last = next((change for change in reversed(self.log) if change.document == document), None)
        if last is None or last.content is None:
            raise NotFound(f"there is no document {document!r}")
        return StoredDocument(
            id=document,
            text=last.content.text,
            metadata=last.content.metadata,
            version=last.time,
            num_passages=1,
            is_embedded=True,
            region=REGION,
            trace_id=trace_id,
        )

    async def changes(self, corpus: str, after: Watermark) -> AsyncGenerator[Changes, None]:
        _check(corpus)
        try:
            while True:
                news = self.log[after[REGION] :]
                after = Watermark.of({REGION: len(self.log)})
                yield Changes(
                    epoch="e",
                    after=0,
                    version=len(self.log),
                    watermark=after,
                    read_ms=1,
                    changes=tuple(news),
                )
                if self.error is not None:
                    raise self.error
                async with self._changed:
                    await self._changed.wait()
        finally:
            self.has_closed.set()

    async def _written(self, write: DocumentWrite) -> Outcome:
        refusal = self._refusals.get(cast(str, write.text))
        if refusal is not None:
            return refusal
        position = len(self.log) + 1
        time = HybridTime(1_700_000_000_000 + position, 0, REGION)
        content = None
        if write.text is not None:
            content = Content(text=write.text, metadata=write.metadata)
        async with self._changed:
            change = DocumentChange(document=write.id, time=time, content=content, since=position)
            self.log.append(change)
            self._changed.notify_all()
        return Written(version=time, position=position, is_repeated=write.key == "again")


def _check(corpus: str) -> None:
    if corpus != CORPUS:
        raise InvalidArgument(f"there is no corpus {corpus!r}; there is: {CORPUS}", "corpus")
