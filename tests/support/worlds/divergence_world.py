"""Three regions behind real HTTP servers; the first one compares what they say.

gateway's watch ---> turn? ---> ledger (in place of the front actor)
      '---> service here, peers over HTTP ---> compared ---> /metrics, /v1/status
"""

from __future__ import annotations

import pickle
import random
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np

from actors.regions.divergence_watch import DivergenceWatch
from actors.regions.forwarding_service import ForwardingService
from cluster.arrays import Float32Array
from cluster.clock import SYSTEM_CLOCK
from cluster.config import Settings
from cluster.errors import RaygionError
from cluster.generation.prompt import PromptTemplate
from cluster.query.request import Embedded
from cluster.query.search import EmbeddingResult, Hit, SearchRequest, SearchResult
from cluster.regions.divergence import DivergenceLedger, FoundDifference, Probe, Turn
from cluster.regions.divergence_report import Difference, DivergenceReport
from cluster.releases.entries import Switch
from cluster.releases.release_log import Freshness
from cluster.serving.consistency import RegionKnowledge
from cluster.serving.view import CorpusView, Pulse, RegionView, ReleaseView
from cluster.vectors.metric import Metric
from tests.support.fakes import SimClock, provenance_of
from tests.support.worlds.fake_service import FakeService, app_of, on_loopback
from tests.support.worlds.region_servers import nobody, peers_of, settings_of

RELEASE, DIMENSION = 7, 3
DOCUMENTS = np.random.default_rng(2).standard_normal((6, DIMENSION)).astype(np.float32)
NAMES = ("a", "b", "c")
CORPUS = CorpusView(
    corpus="tea",
    index_version="1",
    dimension=DIMENSION,
    metric=Metric.COSINE,
    metadata_schema={},
    has_embedder=True,
    num_passages=len(DOCUMENTS),
    recall_at_10=1.0,
    shards=(("r",),),
)
Fault = Callable[[SearchResult], SearchResult]


class Engine(FakeService):
    """Finds by exact search; a fault changes what it says."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.fault: Fault = lambda result: result
        self.rounding = 0.0
        """What this region's processor adds to each number of a text's vector."""

    async def search(self, request: SearchRequest) -> SearchResult:
        self.searches.append(request)
        if self.search_error is not None:
            raise self.search_error
        return self.fault(self.answer_to(request))

    def answer_to(self, request: SearchRequest) -> SearchResult:
        """Without the fault."""
        if request.vectors is not None:
            vectors = request.vectors.reshape(-1, DIMENSION)
        elif request.embedded is not None:
            vectors = request.embedded.vectors
        else:
            vectors = self._made(request)
        return SearchResult(
            results=tuple(_hits(vector) for vector in vectors),
            provenance=provenance_of(self.name, release=request.release or RELEASE),
            took_ms=1.0,
        )

    async def embed(self, request: SearchRequest, dimension: int | None = None) -> EmbeddingResult:
        raise AssertionError("nobody asks for vectors here")

    async def embedded(self, request: SearchRequest) -> SearchRequest:
        if request.queries is None:
            return request
        return replace(request, embedded=Embedded(model="m", vectors=self._made(request)))

    def _made(self, request: SearchRequest) -> Float32Array:
        texts = request.queries or ()
        made = np.array([[len(text), 1, 0] for text in texts], dtype=np.float32)
        return (made + np.float32(self.rounding)).astype(np.float32)


def _hits(vector: Any) -> tuple[Hit, ...]:
    scores = (DOCUMENTS.astype(np.float64) @ vector.astype(np.float64)).astype(np.float32)
    best = np.argsort(-scores)[:3]
    return tuple(
        Hit(id=f"d{row}", score=scores[row].item(), text=f"text {row}", metadata={}) for row in best
    )


def last_bit(result: SearchResult, query: int = 1) -> SearchResult:
    """Another score of one hit, in the last bit."""
    hits = list(result.results[query])
    score = float(np.nextafter(np.float32(hits[2].score), np.float32(np.inf)))
    hits[2] = replace(hits[2], score=score)
    results = (*result.results[:query], tuple(hits), *result.results[query + 1 :])
    return replace(result, results=results)


@dataclass
class Views:
    knowledge: RegionKnowledge

    @property
    def view(self) -> RegionView:
        return self.knowledge.view

    async def refresh(self) -> None:
        raise AssertionError("a pinned search needs no reading of the log")


def views() -> Views:
    release = ReleaseView(
        number=RELEASE,
        corpora={CORPUS.corpus: CORPUS},
        embedders=(),
        generator=None,
        prompt=PromptTemplate(),
    )
    switches = (Switch(position=1, release=RELEASE, at_ms=0),)
    view = RegionView(region="a", releases={RELEASE: release}, switches=switches)
    now_ms = SYSTEM_CLOCK.wall_ms()
    pulse = Pulse(
        freshness=Freshness(read_ms=now_ms, position=1),
        switches=switches,
        store_id="store",
        last_release=RELEASE,
    )
    return Views(RegionKnowledge(view, pulse, skew_max_ms=0))


@dataclass
class Desk:
    """The front actor."""

    ledger: DivergenceLedger
    error: RaygionError | None = None
    calls: list[str] = field(default_factory=list)
    documents_alerts: list[Difference] = field(default_factory=list)

    async def call(self, method: str, *args: object) -> Turn | DivergenceReport | None:
        self.calls.append(method)
        if self.error is not None:
            raise self.error
        # Another process.
        reply = self._called(method, *pickle.loads(pickle.dumps(args)))
        return pickle.loads(pickle.dumps(reply))  # type: ignore[no-any-return]

    def _called(self, method: str, *args: object) -> Turn | DivergenceReport | None:
        match method, args:
            case "divergence_turn", (int() | None as release,):
                return self.ledger.turn(release)
            case "divergence_documents", (dict() as said, int() as release):
                self.documents_alerts += self.ledger.documents(said, release)
                return self.ledger.report
            case "divergence_probed", (Probe() as probe,):
                self.ledger.take(probe)
                return self.ledger.report
            case "divergence_found", (FoundDifference() as found,):
                self.ledger.quorum(found)
                return None
        raise AssertionError(f"{method} is no method of the front actor")


class World:
    """Region `a` compares; `b` and `c` are asked over HTTP."""

    def __init__(self) -> None:
        self.engines = {name: Engine(name) for name in NAMES}
        self.clock = SimClock()
        self.desk = Desk(DivergenceLedger(60.0, clock=self.clock, rng=random.Random(1)))
        self.views = views()
        self.service: ForwardingService
        self.watches: list[DivergenceWatch] = []
        self.url = ""

    def probed(self) -> dict[str, int]:
        """Searches that each engine was asked for."""
        return {name: len(engine.searches) for name, engine in self.engines.items()}

    async def step(self, *, later: bool = True) -> DivergenceReport:
        if later:
            self.clock.sleep(100.0)
        await self.watches[0].step()
        return self.watches[0].report

    async def metrics(self) -> dict[str, float]:
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{self.url}/metrics")).text
        lines = re.findall(r"^(raygion_divergence\S*) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in lines}

    async def status(self) -> dict[str, Any]:
        async with httpx.AsyncClient() as client:
            status = (await client.get(f"{self.url}/v1/status")).json()
        told: dict[str, Any] = status["divergence"]
        return told


@asynccontextmanager
async def world(
    *,
    away: str = "",
    questions: tuple[str, ...] = (),
    gateways: int = 1,
    every_s: float = 60.0,
) -> AsyncIterator[World]:
    made = World()
    async with AsyncExitStack() as stack:
        urls = {
            name: stack.enter_context(nobody())
            if name == away
            else await stack.enter_async_context(on_loopback(app_of(made.engines[name])))
            for name in NAMES[1:]
        }
        regions = settings_of(urls).model_dump()["regions"]
        settings = Settings.model_validate(
            {
                "regions": {"a": {}} | {name: regions[name] for name in urls},
                "divergence": {"questions": questions, "every_s": every_s},
            }
        )
        peers = await stack.enter_async_context(peers_of(settings, "a"))
        quorum_found: deque[FoundDifference] = deque(maxlen=8)
        made.service = ForwardingService(
            region="a",
            engine=made.engines["a"],
            views=made.views,
            peers=peers,
            clock=SYSTEM_CLOCK,
            quorum_pause_s=0.0,
            differed=quorum_found.append,
        )
        made.watches = [
            DivergenceWatch(
                settings=settings,
                region="a",
                service=made.service,
                peers=peers,
                views=made.views,
                quorum_found=quorum_found,
                ledger=made.desk,
                clock=SYSTEM_CLOCK,
                rng=random.Random(number),
            )
            for number in range(gateways)
        ]
        app = app_of(made.engines["a"], divergence=lambda: made.watches[0].report)
        made.url = await stack.enter_async_context(on_loopback(app))
        yield made
