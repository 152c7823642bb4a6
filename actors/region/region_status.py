"""The status of a region: what its coordinator says, and how far its documents actor is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from actors.runtime.calls import Actor
from cluster.errors import RaygionError
from cluster.logs.events import EventLog
from cluster.mutations.requests import CorpusDocuments
from cluster.regions.status import DocumentsSummary, RegionSummary, StatusSource

log = EventLog(__name__)
_TIMEOUT_S = 0.5


class RegionStatus:
    """A `cluster.regions.status.StatusSource`."""

    def __init__(self, coordinator: StatusSource, documents: Actor) -> None:
        self._coordinator = coordinator
        self._documents = documents

    async def status(self) -> RegionSummary:
        """Raises Unavailable while the coordinator is away; of the documents nothing is said while
        their actor is.
        """
        summary, documents = await asyncio.gather(self._coordinator.status(), self._live())
        return replace(summary, documents=documents)

    async def _live(self) -> tuple[DocumentsSummary, ...] | None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                found = await self._documents.call("status")
        except (TimeoutError, RaygionError) as error:
            log.debug("mutations.no_status", "no word on documents: {error}", error=error)
            return None
        corpora = cast("Mapping[str, CorpusDocuments]", found)
        return tuple(_summary(name, corpus) for name, corpus in corpora.items() if corpus.has_log)


def _summary(name: str, corpus: CorpusDocuments) -> DocumentsSummary:
    return DocumentsSummary(
        corpus=name,
        watermark=corpus.position.watermark.as_dict(),
        read_ms=corpus.position.read_ms,
        digest=corpus.digest,
        rows=corpus.num_rows,
        size_bytes=corpus.size_bytes,
        waiting=corpus.waiting,
        unreadable=corpus.unreadable,
    )
