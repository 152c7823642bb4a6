"""Regions whose services are joined by calls in place of HTTP, over engines without shards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from actors.regions.forwarding_service import ForwardingService
from cluster.clock import Deadline
from cluster.errors import (
    RaygionError,
    Unavailable,
)
from cluster.generation.prompt import PromptTemplate
from cluster.mutations.watermark import Watermark
from cluster.query.answers import AnswerEvent, AnswerRequest, AnswerResult, Retrieved, Token, Usage
from cluster.query.read_consistency import ConsistencyLevel, ReadConsistency, read_consistency_of
from cluster.query.request import Embedded, Request
from cluster.query.search import EmbeddingResult, Hit, SearchRequest, SearchResult
from cluster.query.session import SessionToken
from cluster.query.terms import BASE
from cluster.releases.entries import Switch
from cluster.releases.release_log import Freshness
from cluster.serving.consistency import RegionKnowledge
from cluster.serving.documents import DocumentsKnowledge
from cluster.serving.view import Pulse, RegionView, ReleaseView
from tests.support.fakes import SimClock
from tests.support.values.corpus_views import corpus_view

SKEW, STORE, CORPUS = 100, "store", "tea"
RequestT = TypeVar("RequestT", bound=Request)
ASK = SearchRequest(queries=("tea",), trace_id="t", timeout_s=5.0)
QUESTION = AnswerRequest(question="Who grows tea?", trace_id="t", timeout_s=60.0)
FIRST, SECOND = (3, 1, 0), (6, 2, 500)
"""Switches: position, release, moment."""


def strong() -> ReadConsistency:
    return ReadConsistency(level=ConsistencyLevel.STRONG)


def quorum() -> ReadConsistency:
    return ReadConsistency(level=ConsistencyLevel.QUORUM)


def seen(position: int) -> ReadConsistency:
    return read_consistency_of(None, SessionToken(STORE, position).encode(), None)


@dataclass
class World:
    """The store's release log, and the regions by name."""

    clock: SimClock = field(default_factory=lambda: SimClock(10.0))
    log: list[tuple[int, int, int]] = field(default_factory=lambda: [FIRST, SECOND])
    written: Watermark = field(default_factory=Watermark)
    """The ends of the logs of the corpus's documents."""
    is_busy: bool = False
    store_away: bool = False
    homes: tuple[str, ...] | None = None
    """Regions that may have the corpus; None: all of them."""
    regions: dict[str, Region] = field(default_factory=dict)

    def add(self, *names: str) -> list[Region]:
        added = [Region(name, self) for name in names]
        self.regions.update({region.name: region for region in added})
        return added

    async def sleep(self, wait_s: float) -> None:
        self.clock.sleep(wait_s)
        await asyncio.sleep(0)


class Region:
    """The service under test, over an engine, a view and peers that do as they are told."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.knowledge = RegionKnowledge(
            RegionView(region=name, releases={1: release(1), 2: release(2)}), skew_max_ms=SKEW
        )
        self.prefers: str | None = None
        self.failures: list[RaygionError] = []
        """Of the engine's next searches and answers."""
        self.error_in_stream: RaygionError | None = None
        self.text = "text"
        self.rounding = 0.0
        """What this region's processor adds to each number of a text's vector."""
        self.model = "minilm"
        self.cannot_embed: RaygionError | None = None
        self.embeds: list[SearchRequest] = []
        self.coverage = 1.0
        self.gone = False
        self.hangs = False
        """Whether readings of the log, and answers that others ask for, never end."""
        self.documents: DocumentsKnowledge | None = None
        self.documents_away = False
        self.live_text = ""
        """What is found in live documents; empty: it depends on how far they have come."""
        self.documents_read = 0
        """Readings that requests have asked for."""
        self.refreshes = 0
        self.read_takes_s = 0.01
        self.served: list[Request] = []
        self.received: list[Request] = []
        self.sent_to: list[str] = []
        self.given_s: list[float] = []
        """How much time each of `sent_to` had."""
        self.service = ForwardingService(
            region=name,
            engine=self,
            views=self,
            documents=Documents(self),
            peers=Links(self),
            clock=world.clock,
            quorum_pause_s=SKEW / 1000.0,
            sleep=world.sleep,
        )
        self.read()

    def read(self, upto: int | None = None) -> None:
        """The coordinator reads the log and tells the gateway."""
        entries = self.world.log if upto is None else self.world.log[:upto]
        switches = tuple(Switch(position=p, release=r, at_ms=at) for p, r, at in entries)
        pulse = Pulse(
            freshness=Freshness(read_ms=self.world.clock.wall_ms(), position=switches[-1].position),
            switches=switches,
            store_id=STORE,
            last_release=2,
        )
        view = replace(self.knowledge.view, switches=switches)
        self.knowledge = replace(self.knowledge, view=view, pulse=pulse)

    def read_documents(self) -> None:
        """Everywhere a write comes between any two readings, if the world is busy."""
        if self.world.is_busy:
            end = self.world.written[self.name]
            self.world.written = self.world.written.advanced(self.name, end + 1)
        if self.world.written:
            self.documents = DocumentsKnowledge(
                watermark=self.world.written, read_ms=self.world.clock.wall_ms()
            )

    def holds(self, *numbers: int) -> None:
        view = replace(self.knowledge.view, releases={n: release(n) for n in numbers})
        self.knowledge = replace(self.knowledge, view=view)

    # As the views.

    async def refresh(self) -> None:
        self.refreshes += 1
        if self.hangs:
            await asyncio.Event().wait()
        self.world.clock.sleep(self.read_takes_s)
        if self.world.store_away:
            raise Unavailable("the store does not answer")
        self.read()

    # As the engine.

    async def search(self, request: SearchRequest) -> SearchResult:
        self.served.append(request)
        if self.failures:
            raise self.failures.pop(0)
        pinned = self.knowledge.pin(
            request.release,
            self.world.clock.wall_ms(),
            not_before=request.not_before,
            documents_floor=request.documents_floor,
        )
        text = self.text
        if self.documents is not None and request.documents != BASE:
            text += f" and {self.live_text or self.documents.watermark.as_dict()}"
            now_ms = self.world.clock.wall_ms()
            stale_ms = self.documents.staleness_ms(now_ms, SKEW)
            pinned = pinned.with_documents(CORPUS, self.documents, stale_ms)
        number = pinned.release.number
        embedded = request.embedded
        if embedded is None or embedded.model != self.model:
            embedded = self._made(request)
        score = embedded.vectors.sum().item()
        return SearchResult(
            results=((Hit(id=f"{number}-a", score=score, text=text, metadata={}),),),
            provenance=pinned.provenance(
                region=self.name, trace_id=request.trace_id, coverage=self.coverage
            ),
            took_ms=1.0,
        )

    async def embed(self, request: SearchRequest, dimension: int | None = None) -> EmbeddingResult:
        self.embeds.append(request)
        pinned = self.knowledge.pin(request.release, self.world.clock.wall_ms())
        return EmbeddingResult(
            embedded=self._made(request),
            num_tokens=len(request.queries or ()),
            provenance=pinned.provenance(region=self.name, trace_id=request.trace_id),
        )

    async def embedded(self, request: SearchRequest) -> SearchRequest:
        self.embeds.append(request)
        if self.cannot_embed is not None:
            raise self.cannot_embed
        return replace(request, embedded=self._made(request))

    def _made(self, request: SearchRequest) -> Embedded:
        numbers = [[len(text) + self.rounding] for text in request.queries or ()]
        return Embedded(model=self.model, vectors=np.array(numbers, dtype=np.float32))

    async def answer_events(self, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
        found = await self.search(replace(request.retrieval(), not_before=request.not_before))
        self.served[-1] = request
        provenance = replace(found.provenance, coverage=1.0)
        yield Retrieved(citations=(), provenance=provenance, model="m")
        yield Token(text="tea")
        if self.error_in_stream is not None:
            raise self.error_in_stream
        yield AnswerResult(
            answer="tea",
            citations=(),
            provenance=provenance,
            usage=Usage(prompt_tokens=1, completion_tokens=1),
            finish_reason="stop",
            model="m",
            took_ms=1.0,
        )


@dataclass
class Documents:
    """`actors.regions.settling.DocumentsSource`: the logs of the corpus, as far as the region has
    read them.
    """

    here: Region

    @property
    def known(self) -> Mapping[str, DocumentsKnowledge]:
        return {} if self.here.documents is None else {CORPUS: self.here.documents}

    async def refresh(self, corpus: str) -> None:
        self.here.documents_read += 1
        await asyncio.sleep(0)
        if self.here.documents_away:
            raise Unavailable("the logs do not answer")
        self.here.read_documents()


@dataclass
class Links:
    """`cluster.regions.peers.Peers`: the other regions of the world, in the order of their
    names.
    """

    here: Region

    def preferred(self, request: Request) -> str:
        return self.here.prefers or self.here.name

    def candidates(self, request: Request) -> tuple[str, ...]:
        homes = self._homes()
        return tuple(name for name in homes if name != self.here.name)

    def holders(self, request: SearchRequest) -> tuple[str, ...]:
        homes = self._homes()
        return tuple(sorted(homes, key=lambda name: name != self.here.name))

    def _homes(self) -> tuple[str, ...]:
        world = self.here.world
        return tuple(world.regions) if world.homes is None else world.homes

    async def search(self, region: str, request: SearchRequest, deadline: Deadline) -> SearchResult:
        there = self._reach(region, request, deadline)
        return await there.service.search(self._sent(request, deadline))

    async def answer_events(
        self, region: str, request: AnswerRequest, deadline: Deadline
    ) -> AsyncGenerator[AnswerEvent, None]:
        there = self._reach(region, request, deadline)
        if there.hangs:
            await asyncio.Event().wait()
        async for event in there.service.answer_events(self._sent(request, deadline)):
            yield event

    def _reach(self, region: str, request: Request, deadline: Deadline) -> Region:
        self.here.sent_to.append(region)
        self.here.given_s.append(round(deadline.remaining_s(), 6))
        there = self.here.world.regions[region]
        if there.gone:
            raise Unavailable(f"region {region} does not answer")
        assert not request.forwarded_by, "what was forwarded is never sent on"
        there.received.append(self._sent(request, deadline))
        return there

    def _sent(self, request: RequestT, deadline: Deadline) -> RequestT:
        return replace(request, forwarded_by=self.here.name, timeout_s=deadline.remaining_s())


def release(number: int) -> ReleaseView:
    return ReleaseView(
        number=number,
        corpora={CORPUS: corpus_view(CORPUS, has_embedder=True)},
        embedders=(),
        generator=None,
        prompt=PromptTemplate(),
    )


async def told(region: Region, request: AnswerRequest) -> list[AnswerEvent]:
    return [event async for event in region.service.answer_events(request)]
