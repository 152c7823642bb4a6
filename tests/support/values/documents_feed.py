"""The region's documents actor as whoever follows a corpus sees it."""

from __future__ import annotations

import asyncio
from typing import Any

from cluster.deltas.changes import Changes
from cluster.deltas.feed import Feed
from cluster.errors import Unavailable
from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Mutation
from cluster.mutations.requests import DocumentsPosition
from cluster.mutations.watermark import Watermark
from tests.support.values.changing_documents import Step

REGION = "here"


class DocumentsFeed:
    """An `Actor` whose changes the test writes. Feeds number them as in production."""

    def __init__(self) -> None:
        self.incarnations = 0
        self.away = False
        self.polls: list[tuple[str, int]] = []
        self.changed = asyncio.Event()
        self.start_anew()

    def start_anew(self) -> None:
        """A new incarnation, which has not read anything yet."""
        self.incarnations += 1
        self.feed = Feed(lambda: f"epoch {self.incarnations}")
        self.notify()

    def write(self, step: Step, position: int) -> None:
        """What the documents have become, by the object of the log at that position."""
        time = HybridTime(position, 0, REGION)
        changed = {
            document: (Mutation(document=document, time=time, content=content),)
            for document, content in step.items()
        }
        self.feed.take(changed, Watermark.of({REGION: position}))
        self.notify()

    def notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def call(self, method: str, *args: object) -> Any:
        if self.away:
            raise Unavailable("there is no actor documents at the moment")
        return await getattr(self, method)(*args)

    async def follow(
        self, corpus: str, epoch: str, version: int, poll_s: float, process: str
    ) -> Changes:
        self.polls.append((epoch, version))
        # A quick poll in place of a long one, so that tests wait for nothing.
        if not self.feed.is_news(epoch, version):
            try:
                async with asyncio.timeout(0.02):
                    await self.changed.wait()
            except TimeoutError:
                pass
        return self.feed.since(epoch, version)

    async def refresh(self, corpus: str) -> DocumentsPosition:
        self.feed.has_read(self.feed.position.read_ms + 1)
        return self.feed.position
