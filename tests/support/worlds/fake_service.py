"""A region without a cluster behind the QueryService protocol, and ways to ask it over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.errors import InvalidArgument
from cluster.query.answers import (
    AnswerEvent,
    AnswerOutcome,
    AnswerRequest,
    AnswerResult,
    Citation,
    Retrieved,
    Token,
    Usage,
)
from cluster.query.provenance import Provenance
from cluster.query.request import Embedded, Request
from cluster.query.search import EmbeddingResult, Hit, MergedHits, SearchRequest, SearchResult
from cluster.regions.status import CorpusSummary, RegionSummary, ReleaseSummary
from deployments.http.app import RegionApp, build_http_app
from deployments.http.settings import HttpSettings
from tests.support.web_server import web_server
from tests.support.worlds.fake_documents import FakeDocuments

DIMENSION = 3
ASK = {"query": "the capital of Iceland"}
MADE: dict[str, Any] = {"served_by": "south", "staleness_ms": 140, "session": "a-token"}
"""What every reply says of how it was made."""
CAME_ABOUT: dict[str, Any] = {"outcome": AnswerOutcome.ANSWERED, "truncated": None}
"""What every answer says of how it came about."""
EMBEDDER = "0123abcd"
MODEL = "SmolLM2-135M-Instruct"
HIT = Hit(id="iceland#0", score=0.75, text="Reykjavik is the capital.", metadata={"area": 103000})
CITATION = Citation(id=HIT.id, text=HIT.text, score=HIT.score)
SUMMARY = RegionSummary(
    region="north",
    release=7,
    resident=(
        ReleaseSummary(
            release=7,
            corpora=(
                CorpusSummary(
                    corpus="factbook",
                    index_version="0123456789abcdef",
                    num_passages=2,
                    recall_at_10=1.0,
                    shards=2,
                    replicas=4,
                    replicas_serving=4,
                ),
            ),
            model=MODEL,
        ),
    ),
    leader="north",
    epoch=1,
    log_position=3,
    healthy=True,
)


def hit_arrays(num_queries: int) -> MergedHits:
    """HIT for each query, and one place that is padding."""
    return MergedHits(
        scores=np.array([[HIT.score, -np.inf]] * num_queries, dtype=np.float32),
        rows=np.array([[4, -1]] * num_queries),
        ids=np.array([[HIT.id.encode(), b""]] * num_queries),
        shards=np.array([[1, -1]] * num_queries, dtype=np.int32),
    )


class FakeService:
    """Answers at once with fixed words; records what was asked and how streams ended."""

    def __init__(self) -> None:
        self.summary: RegionSummary | Exception = SUMMARY
        self.status_hangs = False
        self.tokens = ("Reykja", "vik", " [1]")
        self.citation = CITATION
        self.came_about = CAME_ABOUT
        self.search_error: BaseException | None = None
        self.answer_error: Exception | None = None
        self.token_error: Exception | None = None
        """Raised in place of the last token."""
        self.ends_early = False
        self.coverage = 1.0
        self.made: dict[str, Any] = {"region": "north", **MADE}
        self.gate = asyncio.Event()
        """Closed, searches and the second token wait for it."""
        self.gate.set()
        self.searches: list[SearchRequest] = []
        self.answers: list[AnswerRequest] = []
        self.waiting = 0
        self.generating = asyncio.Event()
        self.stopped = asyncio.Event()
        """Set when an answer was broken off from outside, with its clean-up done."""
        self.completed = 0
        self.num_tokens = 0

    async def search(self, request: SearchRequest) -> SearchResult:
        self.searches.append(request)
        await self._wait()
        if self.search_error is not None:
            raise self.search_error
        if request.corpus not in (None, "factbook"):
            raise InvalidArgument(f"there is no corpus {request.corpus!r}", "corpus")
        vectors = request.vectors
        if vectors is not None and vectors.ndim == 1:
            vectors = vectors.reshape(-1, DIMENSION)
        if vectors is not None and vectors.shape[1] != DIMENSION:
            raise InvalidArgument(f"must have {DIMENSION} numbers", "vector")
        num_queries = len(request.queries or ()) if vectors is None else len(vectors)
        return SearchResult(
            results=((HIT,),) * num_queries if request.passages else (),
            arrays=None if request.passages else hit_arrays(num_queries),
            provenance=self._provenance(request, 7 if request.release is None else request.release),
            took_ms=1.23456,
            timings_ms={"embed": 0.5, "scatter": 0.6},
        )

    async def embed(self, request: SearchRequest, dimension: int | None = None) -> EmbeddingResult:
        self.searches.append(request)
        await self._wait()
        if self.search_error is not None:
            raise self.search_error
        if dimension not in (None, DIMENSION):
            raise InvalidArgument(f"must be {DIMENSION}", "dimensions")
        texts = request.queries or ()
        made = np.array([[len(text), 0.5, -1] for text in texts], dtype=np.float32)
        return EmbeddingResult(
            embedded=Embedded(model=EMBEDDER, vectors=made),
            num_tokens=sum(len(text.split()) for text in texts),
            provenance=self._provenance(request, 7 if request.release is None else request.release),
        )

    async def embedded(self, request: SearchRequest) -> SearchRequest:
        return request

    async def answer_events(self, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
        self.answers.append(request)
        if self.answer_error is not None:
            raise self.answer_error
        citations = (self.citation,) if request.retrieve else ()
        result = AnswerResult(
            answer="".join(self.tokens),
            citations=citations,
            provenance=self._provenance(request, 7),
            usage=Usage(prompt_tokens=11, completion_tokens=len(self.tokens)),
            finish_reason="stop",
            model=MODEL,
            took_ms=2.0,
            **self.came_about,
        )
        try:
            # Bound to the task that entered it, as whatever the real service holds over its yields.
            async with asyncio.timeout(request.timeout_s):
                yield Retrieved(
                    citations=citations,
                    provenance=result.provenance,
                    model=MODEL,
                    **self.came_about,
                )
                for i, token in enumerate(self.tokens):
                    if i == len(self.tokens) - 1 and self.token_error is not None:
                        raise self.token_error
                    yield Token(text=token)
                    self.num_tokens += 1
                    self.generating.set()
                    await self._wait()
                if not self.ends_early:
                    yield result
                self.completed += 1
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped.set()
            raise

    async def status(self) -> RegionSummary:
        if self.status_hangs:
            await asyncio.Event().wait()
        if isinstance(self.summary, Exception):
            raise self.summary
        return self.summary

    def _provenance(self, request: Request, release: int) -> Provenance:
        return Provenance(
            release=release, coverage=self.coverage, trace_id=request.trace_id, **self.made
        )

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1

    def says_of_corpus(self, **corpus: Any) -> None:
        """Changes what the current release's only corpus is said to be."""
        assert isinstance(self.summary, RegionSummary)
        release = self.summary.resident[0]
        corpora = (replace(release.corpora[0], **corpus),)
        resident = (replace(release, corpora=corpora),)
        self.says(resident=resident)

    def says(self, **summary: Any) -> None:
        """Changes what the region says of itself."""
        assert isinstance(self.summary, RegionSummary)
        self.summary = replace(self.summary, **summary)


def app_of(service: FakeService, settings: HttpSettings | None = None, **others: Any) -> RegionApp:
    """The HTTP interface over the service, which tells the status, too, and over no documents
    unless it gets some.
    """
    others.setdefault("documents", FakeDocuments())
    return build_http_app(service, settings or HttpSettings(), status=service, **others)


@contextlib.asynccontextmanager
async def in_process(
    service: FakeService, clock: Clock = SYSTEM_CLOCK, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls the application without a socket. Replies come whole."""
    app = app_of(service, HttpSettings(**settings), clock=clock)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://region") as client:
        yield client


@contextlib.asynccontextmanager
async def on_loopback(app: FastAPI) -> AsyncIterator[str]:
    """The application behind a real server, as a base URL."""
    async with web_server(app, log_level="warning") as (_, port):
        yield f"http://127.0.0.1:{port}"
